//! What the leader adds to volumes: it knows who lives, and gives back what deleted ones held.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::keys;
use proto::level;
use proto::meta::{Body, Command, refusal};
use proto::volume::{AskWatch, AttachVolume, PurgeVolume, SweepVolume, VolumeRow};

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;

/// An owner that was silent for so long can be taken over without being asked to.
const SILENT: Duration = Duration::from_secs(3);
/// How long a watch is held at most: less than what counts as slow.
const WATCH: Duration = Duration::from_millis(800);
/// Volumes, and pages of each, in one round.
const PAGES: usize = 16;

impl MetaServer {
    /// An owner that is silent does not keep others from attaching its volume.
    pub(super) fn judge_owner(&self, body: &mut AttachVolume) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let row: Option<VolumeRow> = Txn::new(self.0.replica.store()).get(&keys::volume(&body.name))?;
        if let Some(row) = row.filter(|row| row.session != 0) {
            let silence = self.0.liveness.borrow().session_silence(row.session, now);
            body.take_over |= silence.is_some_and(|silence| silence > SILENT);
        }
        Ok(())
    }

    /// The row of a volume when it is another revision than that, or after a moment.
    pub(super) async fn watch_volume(&self, ask: &AskWatch) -> Result<Vec<VolumeRow>, Trouble> {
        let clock = self.0.platform.clock();
        let deadline = clock.now() + WATCH;
        loop {
            let changed = self.0.volumes_changed.notified();
            let row: Option<VolumeRow> = Txn::new(self.0.replica.store()).get(&keys::volume(&ask.name))?;
            let left = deadline.saturating_since(clock.now());
            if left.is_zero() || row.as_ref().is_none_or(|row| row.revision != ask.revision) {
                // A leader that was replaced meanwhile has nothing to say.
                self.0.replica.read_barrier().await?;
                return Ok(row.into_iter().collect());
            }
            // Late or in time, it looks again.
            let _ = clock.timeout(left, changed).await;
        }
    }

    /// Gives back what deleted volumes and snapshots held, some of it.
    pub(super) async fn sweep_volumes(&self) -> Result<(), Trouble> {
        let in_steps = self.level() >= level::SNAPSHOTS;
        let mut volumes = BTreeSet::new();
        {
            let txn = Txn::new(self.0.replica.store());
            for (_, value) in txn.scan_prefix(&[keys::table::DELETED_VOLUME], usize::MAX)? {
                let row = VolumeRow::from_bytes(&value)?;
                if !row.parked && volumes.len() < PAGES {
                    volumes.insert(row.id);
                }
            }
            for (key, _) in txn.scan_prefix(&[keys::table::SWEEP], PAGES)? {
                volumes.extend(keys::last_u64(&key));
            }
        }
        for volume in volumes {
            for _ in 0..PAGES {
                let body = if in_steps {
                    Body::SweepVolume(SweepVolume { volume })
                } else {
                    Body::PurgeVolume(PurgeVolume { volume })
                };
                let command = Command { partition: (volume >> 48) as u32, body: Some(body), ..Command::default() };
                let outcome = self.propose(command).await?;
                if outcome.refusal != refusal::NONE || !outcome.existed {
                    tracing::info!(volume, "what a deleted volume or snapshot held is given back");
                    break;
                }
            }
        }
        Ok(())
    }
}
