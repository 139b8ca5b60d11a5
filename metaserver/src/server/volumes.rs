//! What the leader adds to volumes: it knows who lives, and gives back what deleted ones held.

use std::time::Duration;

use proto::keys;
use proto::meta::{Body, Command, refusal};
use proto::volume::{AttachVolume, PurgeVolume, VolumeRow};

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;

/// An owner that was silent for so long can be taken over without being asked to.
const SILENT: Duration = Duration::from_secs(3);
/// Pages of deleted volumes in one round.
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

    /// Gives back the chunks of deleted volumes, some of them.
    pub(super) async fn purge_volumes(&self) -> Result<(), Trouble> {
        let rows = Txn::new(self.0.replica.store()).scan_prefix(&[keys::table::DELETED_VOLUME], PAGES)?;
        for (_, value) in rows {
            let row = VolumeRow::from_bytes(&value)?;
            for _ in 0..PAGES {
                let command = Command {
                    partition: (row.id >> 48) as u32,
                    body: Some(Body::PurgeVolume(PurgeVolume { volume: row.id })),
                    ..Command::default()
                };
                let outcome = self.propose(command).await?;
                if outcome.refusal != refusal::NONE || !outcome.existed {
                    tracing::info!(volume = row.id, name = %row.name, "a deleted volume is gone");
                    break;
                }
            }
        }
        Ok(())
    }
}
