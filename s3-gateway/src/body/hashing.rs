//! Computes all hashes a body needs in one pass.
//!
//! Small bodies are hashed where they are. Of large ones a job of at least [`JOB_LEN`] bytes is
//! kept under way on the worker lane while the bytes themselves go on to the disks, so that MD5
//! does not stand in the path of the data. MD5 of all bodies that are there at the same time goes side by side
//! ([`Md5Queue`]): one alone makes about 500 MiB/s, eight together 2,800.
//!
//! Invariant: of a body at most one job is under way and less than two jobs' bytes are held.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crypto::hash::{Sha1, Sha256};
use crypto::md5_lanes::{self, LANES};
use platform::Platform;
use platform::tasks::TaskHandle;
use tokio::sync::oneshot;
use types::checksum::Crc;

use super::checksum::ChecksumKind;
use crate::errors::{Code, S3Result};

/// Bytes hashed by one job on the lane.
pub const JOB_LEN: usize = 256 << 10;
/// Bodies up to this many bytes are hashed in place.
const IN_PLACE_MAX: usize = 128 << 10;

/// The running hashes of one body.
pub struct Hashes {
    md5: Option<md5_lanes::Stream>,
    others: Others,
}

/// Those that are made message by message.
#[derive(Default)]
struct Others {
    sha256: Option<Sha256>,
    sha1: Option<Sha1>,
    crc: Option<Crc>,
}

/// What came out.
#[derive(Default, Debug)]
pub struct Digests {
    /// For ETag and Content-MD5.
    pub md5: Option<[u8; 16]>,
    /// For x-amz-content-sha256.
    pub sha256: Option<[u8; 32]>,
    /// Of the announced kind.
    pub checksum: Option<(ChecksumKind, Vec<u8>)>,
}

impl Hashes {
    /// `md5` always pays for an ETag; `sha256` only if the payload was signed.
    pub fn new(md5: bool, sha256: bool, kind: Option<ChecksumKind>) -> Hashes {
        let others = Others {
            sha256: (sha256 || kind == Some(ChecksumKind::Sha256)).then(Sha256::new),
            sha1: (kind == Some(ChecksumKind::Sha1)).then(Sha1::new),
            crc: kind.and_then(ChecksumKind::crc).map(Crc::new),
        };
        Hashes { md5: md5.then(md5_lanes::Stream::default), others }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.others.update(bytes);
    }

    /// Ends them; `kind` is what [`Hashes::new`] was given.
    pub fn finish(self, kind: Option<ChecksumKind>) -> Digests {
        Digests { md5: self.md5.map(md5_lanes::Stream::finish), ..self.others.finish(kind) }
    }
}

impl Others {
    fn any(&self) -> bool {
        self.sha256.is_some() || self.sha1.is_some() || self.crc.is_some()
    }

    fn update(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        if let Some(crc) = &mut self.crc {
            crc.update(bytes);
        }
    }

    fn finish(self, kind: Option<ChecksumKind>) -> Digests {
        let sha256 = self.sha256.map(Sha256::finish);
        let checksum = kind.and_then(|kind| {
            let raw = match kind {
                ChecksumKind::Sha256 => sha256?.to_vec(),
                ChecksumKind::Sha1 => self.sha1?.finish().to_vec(),
                ChecksumKind::Crc32 | ChecksumKind::Crc32c | ChecksumKind::Crc64Nvme => self.crc?.finish(),
            };
            Some((kind, raw))
        });
        Digests { md5: None, sha256, checksum }
    }
}

/// Where the bodies of a gateway meet for MD5. One thread of the lane takes what waits, up to [`LANES`] at once;
/// what comes meanwhile is its next turn, so that the busier the gateway is, the more go side by side. A second
/// thread helps once more waits than one takes.
#[derive(Clone, Default)]
pub struct Md5Queue(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    works: VecDeque<Md5Work>,
    threads: usize,
}

struct Md5Work {
    stream: md5_lanes::Stream,
    pieces: Vec<Bytes>,
    done: oneshot::Sender<md5_lanes::Stream>,
}

impl Md5Queue {
    /// Adds `pieces` to a message. None: the machine stops.
    async fn update(
        &self,
        platform: &Platform,
        stream: md5_lanes::Stream,
        pieces: Vec<Bytes>,
    ) -> Option<md5_lanes::Stream> {
        let (done, answer) = oneshot::channel();
        if self.push(Md5Work { stream, pieces, done }) {
            // A task of its own: it goes on with others' works after ours, and when we are dropped.
            let (queue, lane) = (self.clone(), platform.lane().clone());
            platform.tasks().spawn(async move { lane.run(move || queue.work()).await });
        }
        answer.await.ok()
    }

    /// Whether another thread should help.
    fn push(&self, work: Md5Work) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.works.push_back(work);
        let helps = waiting.works.len() > LANES * waiting.threads;
        waiting.threads += usize::from(helps);
        helps
    }

    fn work(&self) {
        loop {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = waiting.works.len().min(LANES);
            let mut works: Vec<Md5Work> = waiting.works.drain(..count).collect();
            waiting.threads -= usize::from(works.is_empty());
            drop(waiting);
            if works.is_empty() {
                return;
            }
            let mut streams: Vec<md5_lanes::Stream> =
                works.iter_mut().map(|work| std::mem::take(&mut work.stream)).collect();
            let pieces: Vec<Vec<&[u8]>> =
                works.iter().map(|work| work.pieces.iter().map(Bytes::as_ref).collect()).collect();
            let mut jobs: Vec<md5_lanes::Job<'_>> =
                streams.iter_mut().zip(&pieces).map(|(stream, pieces)| md5_lanes::Job { stream, pieces }).collect();
            md5_lanes::update_all(&mut jobs);
            for (work, stream) in works.into_iter().zip(streams) {
                // The body's reader may have gone away; then nobody wants it.
                let _ = work.done.send(stream);
            }
        }
    }
}

/// Hashes a stream, beside the thread that serves it once it grows.
pub struct HashPipeline {
    platform: Platform,
    queue: Md5Queue,
    kind: Option<ChecksumKind>,
    /// Here unless a job has them.
    hashes: Option<Hashes>,
    job: Option<TaskHandle<Option<Hashes>>>,
    waiting: Vec<Bytes>,
    waiting_len: usize,
    seen: usize,
}

impl HashPipeline {
    /// For a stream that needs `hashes`.
    pub fn new(platform: &Platform, queue: &Md5Queue, hashes: Hashes, kind: Option<ChecksumKind>) -> HashPipeline {
        HashPipeline {
            platform: platform.clone(),
            queue: queue.clone(),
            kind,
            hashes: Some(hashes),
            job: None,
            waiting: Vec::new(),
            waiting_len: 0,
            seen: 0,
        }
    }

    /// Adds bytes; waits only if a whole job's bytes are waiting and the one before still runs.
    pub async fn update(&mut self, bytes: &Bytes) -> S3Result<()> {
        self.seen = self.seen.saturating_add(bytes.len());
        if self.seen <= IN_PLACE_MAX
            && let Some(hashes) = &mut self.hashes
        {
            hashes.update(bytes);
            return Ok(());
        }
        self.waiting_len += bytes.len();
        self.waiting.push(bytes.clone());
        if self.waiting_len >= JOB_LEN {
            self.start_job().await?;
        }
        Ok(())
    }

    /// Ends the stream.
    pub async fn finish(mut self) -> S3Result<Digests> {
        if self.waiting_len >= IN_PLACE_MAX {
            self.start_job().await?;
        }
        let mut hashes = self.take_hashes().await?;
        for bytes in self.waiting.drain(..) {
            hashes.update(&bytes);
        }
        Ok(hashes.finish(self.kind))
    }

    async fn start_job(&mut self) -> S3Result<()> {
        let Hashes { md5, mut others } = self.take_hashes().await?;
        let pieces = std::mem::take(&mut self.waiting);
        self.waiting_len = 0;
        let (platform, queue) = (self.platform.clone(), self.queue.clone());
        let job = async move {
            let side_by_side = async {
                match md5 {
                    Some(stream) => queue.update(&platform, stream, pieces.clone()).await.map(Some),
                    None => Some(None),
                }
            };
            let alone = async {
                if !others.any() {
                    return others;
                }
                let pieces = pieces.clone();
                let hash = move || {
                    pieces.iter().for_each(|piece| others.update(piece));
                    others
                };
                platform.lane().run(hash).await
            };
            let (md5, others) = tokio::join!(side_by_side, alone);
            md5.map(|md5| Hashes { md5, others })
        };
        self.job = Some(self.platform.tasks().spawn(job));
        Ok(())
    }

    async fn take_hashes(&mut self) -> S3Result<Hashes> {
        if let Some(hashes) = self.hashes.take() {
            return Ok(hashes);
        }
        match self.job.take() {
            Some(job) => job.await.ok().flatten().ok_or_else(|| Code::ServiceUnavailable.into()),
            None => Err(Code::InternalError.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HashPipeline, Hashes, JOB_LEN, Md5Queue};
    use crate::body::checksum::ChecksumKind;
    use bytes::Bytes;
    use crypto::hash::{md5, sha256};

    #[test]
    fn pieces_on_the_lane_hash_like_the_whole() {
        for len in [0, 1, 100_000, JOB_LEN, 3 * JOB_LEN + 17] {
            let data: Vec<u8> = (0..len).map(|index| (index * 7 % 251) as u8).collect();
            let copy = Bytes::from(data.clone());
            let digests = platform::run(|platform| async move {
                let hashes = Hashes::new(true, true, Some(ChecksumKind::Crc32));
                let queue = Md5Queue::default();
                let mut pipeline = HashPipeline::new(&platform, &queue, hashes, Some(ChecksumKind::Crc32));
                for start in (0..copy.len()).step_by(50_000) {
                    let piece = copy.slice(start..copy.len().min(start + 50_000));
                    pipeline.update(&piece).await.unwrap();
                }
                pipeline.finish().await.unwrap()
            });
            assert_eq!(digests.md5, Some(md5(&data)));
            assert_eq!(digests.sha256, Some(sha256(&data)));
            let crc = types::checksum::crc32(&data).to_be_bytes().to_vec();
            assert_eq!(digests.checksum, Some((ChecksumKind::Crc32, crc)));
        }
    }

    #[test]
    fn many_bodies_at_once_and_bodies_given_up_do_not_disturb_each_other() {
        let bodies: Vec<Bytes> = (0..40usize)
            .map(|number| (0..JOB_LEN + number * 40_013).map(|index| (index * (number + 3) % 251) as u8).collect())
            .collect();
        let expected: Vec<_> = bodies.iter().map(|body| Some(md5(body))).collect();
        let found = platform::run(|platform| async move {
            let queue = Md5Queue::default();
            let tasks: Vec<_> = bodies
                .into_iter()
                .enumerate()
                .map(|(number, body)| {
                    let mut pipeline = HashPipeline::new(&platform, &queue, Hashes::new(true, false, None), None);
                    platform.tasks().spawn(async move {
                        for start in (0..body.len()).step_by(65_536) {
                            pipeline.update(&body.slice(start..body.len().min(start + 65_536))).await.unwrap();
                        }
                        if number % 5 == 0 { None } else { pipeline.finish().await.unwrap().md5 }
                    })
                })
                .collect();
            let mut found = Vec::new();
            for task in tasks {
                found.push(task.await.unwrap());
            }
            found
        });
        for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, if number % 5 == 0 { &None } else { expected }, "{number}");
        }
    }
}
