//! Computes all hashes a body needs in one pass.
//!
//! Small bodies are hashed where they are. Of large ones a job of at least [`JOB_LEN`] bytes is
//! kept under way on the worker lane while the bytes themselves go on to the disks, so that MD5
//! (about 600 MB/s) does not stand in the path of the data.
//!
//! Invariant: at most one job is under way and less than two jobs' bytes are held.

use bytes::Bytes;
use crypto::hash::{Md5, Sha1, Sha256};
use platform::Platform;
use platform::tasks::TaskHandle;
use types::checksum::Crc;

use super::checksum::ChecksumKind;
use crate::errors::{Code, S3Result};

/// Bytes hashed by one job on the lane.
pub const JOB_LEN: usize = 256 << 10;
/// Bodies up to this many bytes are hashed in place.
const IN_PLACE_MAX: usize = 128 << 10;

/// The running hashes of one body.
pub struct Hashes {
    md5: Option<Md5>,
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
        Hashes {
            md5: md5.then(Md5::new),
            sha256: (sha256 || kind == Some(ChecksumKind::Sha256)).then(Sha256::new),
            sha1: (kind == Some(ChecksumKind::Sha1)).then(Sha1::new),
            crc: kind.and_then(ChecksumKind::crc).map(Crc::new),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
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

    /// Ends them; `kind` is what [`Hashes::new`] was given.
    pub fn finish(self, kind: Option<ChecksumKind>) -> Digests {
        let sha256 = self.sha256.map(Sha256::finish);
        let checksum = kind.and_then(|kind| {
            let raw = match kind {
                ChecksumKind::Sha256 => sha256?.to_vec(),
                ChecksumKind::Sha1 => self.sha1?.finish().to_vec(),
                ChecksumKind::Crc32 | ChecksumKind::Crc32c | ChecksumKind::Crc64Nvme => self.crc?.finish(),
            };
            Some((kind, raw))
        });
        Digests { md5: self.md5.map(Md5::finish), sha256, checksum }
    }
}

/// Hashes a stream, beside the thread that serves it once it grows.
pub struct HashPipeline {
    platform: Platform,
    kind: Option<ChecksumKind>,
    /// Here unless a job has them.
    hashes: Option<Hashes>,
    job: Option<TaskHandle<Hashes>>,
    waiting: Vec<Bytes>,
    waiting_len: usize,
    seen: usize,
}

impl HashPipeline {
    /// For a stream that needs `hashes`.
    pub fn new(platform: &Platform, hashes: Hashes, kind: Option<ChecksumKind>) -> HashPipeline {
        HashPipeline {
            platform: platform.clone(),
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
        let mut hashes = self.take_hashes().await?;
        let pieces = std::mem::take(&mut self.waiting);
        self.waiting_len = 0;
        let lane = self.platform.lane().clone();
        let job = async move {
            lane.run(move || {
                for piece in &pieces {
                    hashes.update(piece);
                }
                hashes
            })
            .await
        };
        self.job = Some(self.platform.tasks().spawn(job));
        Ok(())
    }

    async fn take_hashes(&mut self) -> S3Result<Hashes> {
        if let Some(hashes) = self.hashes.take() {
            return Ok(hashes);
        }
        match self.job.take() {
            Some(job) => job.await.map_err(|_| Code::ServiceUnavailable.into()),
            None => Err(Code::InternalError.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HashPipeline, Hashes, JOB_LEN};
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
                let mut pipeline = HashPipeline::new(&platform, hashes, Some(ChecksumKind::Crc32));
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
}
