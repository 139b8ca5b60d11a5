//! Promises of apply about buckets in the trash.

use bytes::Bytes;
use proto::meta::{AbortUpload, DeleteBucket};
use proto::rows::{BucketRow, TrashRow};
use proto::trash::{PurgeBucket, PurgePage, RestoreBucket, TrashBucket};

use super::*;

const KEEP_MS: u64 = 1000;

impl World {
    fn trash(&mut self, name: &str) -> Outcome {
        self.command(1, Body::TrashBucket(TrashBucket { name: name.into(), keep_ms: KEEP_MS }))
    }

    fn restore(&mut self, bucket: u64, name: &str) -> Outcome {
        self.command(1, Body::RestoreBucket(RestoreBucket { bucket, name: name.into() }))
    }

    fn purge(&mut self, bucket: u64) -> u32 {
        self.command(1, Body::PurgeBucket(PurgeBucket { bucket })).refusal
    }

    /// A page, as the leader asks for it at that time.
    fn page(&self, bucket: u64, now_ms: u64) -> Outcome {
        let body = Some(Body::PurgePage(PurgePage { bucket }));
        self.run(&Command { partition: 1, now_ms, body, ..Command::default() })
    }

    fn upload(&mut self, bucket: u64, key: &str) -> u64 {
        let create = CreateUpload { bucket, key: key.into(), meta: MetaRow::default(), checksum_kind: String::new() };
        let outcome = self.command(1, Body::CreateUpload(create));
        assert_eq!(outcome.refusal, refusal::NONE);
        outcome.number
    }

    fn count(&self, table: u8) -> usize {
        Txn::new(&self.store).scan_prefix(&[table], usize::MAX).expect("store is sound").len()
    }

    fn live_bytes(&self, chunk: u64) -> Option<u64> {
        self.row(chunk).map(|row| row.live_bytes)
    }
}

fn part(bucket: u64, upload: u64, number: u32, body: NewBody) -> Body {
    let (key, etag) = ("up".to_owned(), "e".to_owned());
    Body::PutPart(PutPart { bucket, key, upload, number, etag, checksums: Vec::new(), body })
}

fn complete(bucket: u64, upload: u64) -> Body {
    let parts = vec![NamedPart { number: 1, etag: "e".into(), checksums: Vec::new() }];
    let (meta, conditions) = (MetaRow::default(), Conditions::default());
    Body::CompleteUpload(CompleteUpload { bucket, key: "up".into(), upload, parts, meta, conditions })
}

fn tiny() -> NewBody {
    NewBody { inline: Bytes::from_static(b"tiny"), size: 4, ..NewBody::default() }
}

#[test]
fn bucket_goes_to_the_trash_whole_and_nobody_reaches_it_there() {
    let mut world = World::new();
    let (bucket, chunk) = (world.bucket(), world.chunk());
    world.command(1, Body::PutObject(put(bucket, "k", extents(chunk, 0, 100))));
    let upload = world.upload(bucket, "up");
    world.command(1, part(bucket, upload, 1, extents(chunk, 100, 50)));
    let rows = |world: &World| {
        [keys::table::OBJECT, keys::table::UPLOAD, keys::table::PART, keys::table::BLOB, keys::table::REFERENCE]
            .map(|table| world.count(table))
    };
    let before = rows(&world);
    assert_eq!(world.trash("none").refusal, refusal::NO_BUCKET);
    let trashed = world.trash("bucket");
    let row = TrashRow {
        bucket: BucketRow {
            id: bucket,
            name: "bucket".into(),
            owner: "u".into(),
            created_ms: 9,
            kind: 0,
            versioning: 0,
        },
        trashed_ms: 9,
        keep_until_ms: 9 + KEEP_MS,
        purging: false,
        purged_upto: Bytes::new(),
    };
    assert_eq!((trashed.refusal, trashed.number, trashed.trashed), (refusal::NONE, bucket, Some(row)));
    assert_eq!(rows(&world), before);
    // What was under way is refused as if the bucket had never been.
    for body in [
        Body::PutObject(put(bucket, "k", extents(chunk, 200, 10))),
        Body::PutObject(put(bucket, "new", tiny())),
        Body::DeleteObject(DeleteObject { bucket, key: "k".into(), conditions: Conditions::default() }),
        Body::CreateUpload(CreateUpload { bucket, key: "k".into(), ..CreateUpload::default() }),
        part(bucket, upload, 2, extents(chunk, 300, 10)),
        complete(bucket, upload),
        Body::AbortUpload(AbortUpload { bucket, key: "up".into(), upload }),
        Body::DeleteBucket(DeleteBucket { name: "bucket".into() }),
        Body::TrashBucket(TrashBucket { name: "bucket".into(), keep_ms: 1 }),
    ] {
        assert_eq!(world.command(1, body.clone()).refusal, refusal::NO_BUCKET, "{body:?}");
    }
    assert_eq!(rows(&world), before);
    assert_eq!(world.live_bytes(chunk), Some(150));
    // Its name is free at once.
    let anew = world.bucket();
    assert_ne!(anew, bucket);
    assert_eq!(world.command(1, Body::PutObject(put(anew, "k", tiny()))).refusal, refusal::NONE);
}

#[test]
fn restored_bucket_is_as_it_was_under_its_own_or_another_name() {
    let mut world = World::new();
    let (bucket, chunk) = (world.bucket(), world.chunk());
    world.command(1, Body::PutObject(put(bucket, "k", extents(chunk, 0, 100))));
    let upload = world.upload(bucket, "up");
    world.command(1, part(bucket, upload, 1, extents(chunk, 100, 50)));
    world.trash("bucket");
    let anew = world.bucket();
    let taken = world.restore(bucket, "");
    assert_eq!(taken.refusal, refusal::BUCKET_EXISTS);
    assert!(taken.text.contains("bucket"), "{}", taken.text);
    assert_eq!(world.restore(bucket, "No Name").refusal, refusal::MALFORMED);
    assert_eq!(world.restore(anew, "other").refusal, refusal::NO_BUCKET, "it is not in the trash");
    let restored = world.restore(bucket, "other");
    let row = BucketRow { id: bucket, name: "other".into(), owner: "u".into(), created_ms: 9, kind: 0, versioning: 0 };
    assert_eq!((restored.refusal, restored.bucket), (refusal::NONE, Some(row)));
    assert_eq!(world.restore(bucket, "more").refusal, refusal::NO_BUCKET, "it is out already");
    assert_eq!(world.count(keys::table::TRASH), 0);
    let completed = world.command(1, complete(bucket, upload));
    assert_eq!(completed.object.map(|object| object.size), Some(50));
    assert_eq!(world.live_bytes(chunk), Some(150));
    assert_eq!(world.command(1, Body::DeleteBucket(DeleteBucket { name: "bucket".into() })).refusal, refusal::NONE);
    // There and back again.
    assert_eq!(world.trash("other").refusal, refusal::NONE);
    assert_eq!(world.restore(bucket, "bucket").refusal, refusal::NONE);
    let delete = DeleteObject { bucket, key: "k".into(), conditions: Conditions::default() };
    assert!(world.command(1, Body::DeleteObject(delete)).existed);
}

#[test]
fn page_is_purged_only_if_the_bucket_was_given_up_or_its_time_is_over() {
    let mut world = World::new();
    let bucket = world.bucket();
    world.command(1, Body::PutObject(put(bucket, "k", tiny())));
    assert_eq!(world.page(bucket, u64::MAX).refusal, refusal::NO_BUCKET, "it is not in the trash");
    assert_eq!(world.purge(bucket), refusal::NO_BUCKET);
    world.trash("bucket");
    assert_eq!(world.page(bucket, 8 + KEEP_MS).refusal, refusal::TRASH);
    assert_eq!(world.count(keys::table::OBJECT), 1);
    let last = world.page(bucket, 9 + KEEP_MS);
    assert_eq!((last.refusal, last.existed), (refusal::NONE, false));
    assert_eq!((world.count(keys::table::OBJECT), world.count(keys::table::TRASH)), (0, 0));
    let other = world.bucket();
    world.command(1, Body::PutObject(put(other, "k", tiny())));
    world.trash("bucket");
    assert_eq!(world.purge(other), refusal::NONE);
    assert_eq!(world.restore(other, "").refusal, refusal::TRASH, "it was given up");
    assert_eq!(world.page(other, 10).refusal, refusal::NONE);
    assert_eq!(world.count(keys::table::TRASH), 0);
}

#[test]
fn purge_goes_page_by_page_and_gives_all_references_back_and_none_of_others() {
    let mut world = World::new();
    let (bucket, chunk) = (world.bucket(), world.chunk());
    for number in 0..700 {
        let body = put(bucket, &format!("k{number:03}"), extents(chunk, number * 10, 10));
        assert_eq!(world.command(1, Body::PutObject(body)).refusal, refusal::NONE);
    }
    let (empty, upload) = (world.upload(bucket, "empty"), world.upload(bucket, "up"));
    assert_ne!(empty, upload);
    for number in 1..=150 {
        assert_eq!(world.command(1, part(bucket, upload, number, tiny())).refusal, refusal::NONE);
    }
    assert_eq!(world.trash("bucket").refusal, refusal::NONE);
    let other = world.bucket();
    world.command(1, Body::PutObject(put(other, "k000", extents(chunk, 8000, 10))));
    let other_upload = world.upload(other, "up");
    world.command(1, part(other, other_upload, 1, tiny()));
    world.purge(bucket);
    let (mut pages, mut left) = (0, world.count(keys::table::OBJECT));
    while world.page(bucket, 9).existed {
        pages += 1;
        let now = world.count(keys::table::OBJECT);
        assert!(now <= left && left - now <= 128, "{left} objects, then {now}");
        assert_eq!(world.live_bytes(chunk), Some(now as u64 * 10), "space comes back with each page");
        assert_eq!(world.restore(bucket, "").refusal, refusal::TRASH, "a part is gone");
        left = now;
    }
    assert!(pages >= 5, "{pages}");
    assert_eq!(world.page(bucket, 9).refusal, refusal::NO_BUCKET, "it is gone");
    let count = |table| world.count(table);
    assert_eq!((count(keys::table::OBJECT), count(keys::table::UPLOAD), count(keys::table::PART)), (1, 1, 1));
    assert_eq!((count(keys::table::BLOB), count(keys::table::REFERENCE), count(keys::table::TRASH)), (2, 1, 0));
    assert_eq!(world.live_bytes(chunk), Some(10));
    let keep: Vec<u64> = world.row(chunk).expect("chunk").shards.iter().map(|shard| shard.placement).collect();
    world.bare(Body::SealChunk(SealChunk { chunk, epoch: 1, len: 8010, keep, release: true }));
    world.trash("bucket");
    world.purge(other);
    assert!(!world.page(other, 9).existed);
    assert!(world.row(chunk).is_none(), "nothing refers to the chunk any more");
}
