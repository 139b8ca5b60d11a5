//! The leader empties the trash.

use proto::keys::table;
use proto::query::{Ask, AskAll, AskBucket, AskObject, Query, View};
use proto::trash::{PurgeBucket, TrashBucket};

use super::*;
use crate::apply::txn::Txn;

const DAY_MS: u64 = 86_400_000;

impl World {
    async fn ask(&self, ask: Ask) -> View {
        self.server.query(Query { ask: Some(ask) }).await.expect("query")
    }

    fn rows(&self, table: u8) -> usize {
        Txn::new(self.server.replica().store()).scan_prefix(&[table], usize::MAX).expect("state").len()
    }
}

#[test]
fn bucket_is_kept_until_its_time_is_over_and_then_purged_with_its_chunk() {
    story(|world| async move {
        let bucket = world.ask(Ask::Bucket(AskBucket { name: "bucket".into() })).await.bucket.expect("bucket").id;
        let object = || Ask::Object(AskObject { bucket, key: "k".into() });
        assert!(world.ask(object()).await.object.is_some());
        world.command(4, Body::TrashBucket(TrashBucket { name: "bucket".into(), keep_ms: 60_000 })).await;
        let view = world.ask(object()).await;
        assert!(view.no_bucket && view.object.is_none(), "a number that was looked up before is of no use");
        let trash = world.ask(Ask::Trash(AskAll {})).await.trash;
        assert_eq!((trash.len(), trash[0].objects, trash[0].bytes, trash[0].more), (1, 1, 100, false));
        world.wait(50).await;
        assert_eq!((world.rows(table::TRASH), world.rows(table::OBJECT)), (1, 1));
        world.wait(15).await;
        assert_eq!((world.rows(table::TRASH), world.rows(table::OBJECT), world.rows(table::BLOB)), (0, 0, 0));
        assert!(world.server.chunk(world.chunk).expect("state").is_none());
        world.wait(2).await;
        assert_eq!(world.fakes.borrow().values().map(|fake| fake.deleted.len()).sum::<usize>(), 2);
    });
}

#[test]
fn bucket_that_was_given_up_is_purged_at_once() {
    story(|world| async move {
        let outcome =
            world.command(4, Body::TrashBucket(TrashBucket { name: "bucket".into(), keep_ms: 7 * DAY_MS })).await;
        world.wait(5).await;
        assert_eq!(world.rows(table::TRASH), 1);
        world.command(5, Body::PurgeBucket(PurgeBucket { bucket: outcome.number })).await;
        world.wait(5).await;
        assert_eq!((world.rows(table::TRASH), world.rows(table::OBJECT), world.rows(table::REFERENCE)), (0, 0, 0));
    });
}
