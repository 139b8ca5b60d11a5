//! What is asked of a volume elsewhere reaches its owner by its row: another size, limits, snapshots that are
//! wanted, another owner. A leader holds the question until the row has changed, so that comes at once.

use std::rc::{Rc, Weak};
use std::time::Duration;

use proto::query::Ask;
use proto::volume::{AskWatch, VolumeRow};

use super::admin::{told, want_snapshot};
use super::device::{Inner, Volume, VolumeError};

/// Between questions, if leaders cannot hold them.
const PERIOD: Duration = Duration::from_secs(1);

impl Volume {
    /// Watches the row for as long as this process owns the volume and somebody holds it.
    pub(super) async fn watch(volume: Weak<Inner>) {
        loop {
            let Some(inner) = volume.upgrade() else { return };
            if inner.ended.borrow().is_some() {
                return;
            }
            let (meta, ask) =
                (inner.meta.clone(), AskWatch { name: inner.name.clone(), revision: inner.revision.get() });
            drop(inner);
            let clock = meta.platform().clock().clone();
            let seen = meta.query(Ask::WatchVolume(ask)).await.map_err(told);
            let Some(this) = volume.upgrade().map(Volume) else { return };
            match seen {
                Ok(view) => match view.volumes.into_iter().next() {
                    Some(row) => this.row_is(&row).await,
                    None => this.end(format!("there is no volume {} any more", this.0.name)),
                },
                // Without the metadata it goes on with what it has.
                Err(error) => {
                    tracing::debug!(volume = %this.0.name, %error, "the volume's row is not known");
                    drop(this);
                    clock.sleep(PERIOD).await;
                }
            }
        }
    }

    async fn row_is(&self, row: &VolumeRow) {
        if row.id != self.0.id || row.epoch != self.0.epoch || row.session == 0 {
            return self.end(format!("volume {} belongs to {} now", row.name, row.owner));
        }
        self.0.size.set(row.size);
        self.0.limiter.borrow_mut().set(row.qos.unwrap_or_default());
        self.0.revision.set(row.revision);
        for name in &row.wanted {
            match self.take_snapshot(name).await {
                Ok(_) => {}
                Err(VolumeError::Unavailable(why)) => {
                    tracing::warn!(volume = %self.0.name, snapshot = %name, why, "snapshot is not taken yet");
                }
                Err(error) => {
                    tracing::warn!(volume = %self.0.name, snapshot = %name, %error, "snapshot is not taken");
                    // Who wants it sees that it is neither wanted nor there.
                    if let Err(error) = want_snapshot(&self.0.meta, self.0.id, &self.0.name, name, true).await {
                        tracing::debug!(%error, "the wish for a snapshot stays");
                    }
                }
            }
        }
    }

    /// This process is the owner no more.
    pub(super) fn end(&self, why: String) {
        Rc::clone(&self.0.ended).borrow_mut().get_or_insert(VolumeError::Fenced(why));
    }
}
