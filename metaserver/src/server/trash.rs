//! The trash: what is told of it, and its emptying.
//!
//! The leader proposes one page after the other for a bucket that was given up or whose time is
//! over, and rests between them, so that others have most of its time. How far a purge has come is
//! in the state: the next leader goes on from there. Apply decides whether a page may be removed.

use std::time::Duration;

use proto::keys;
use proto::meta::{Body, Command, refusal};
use proto::rows::{ObjectGlance, TrashRow};
use proto::trash::{PurgePage, TrashEntry};
use types::ids::Partition;

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;
use crate::store::StoreFault;

/// Time between two looks for buckets to purge.
const PERIOD: Duration = Duration::from_secs(1);
/// A pause lasts this many times as long as the page before it, and at least so long.
const REST: u32 = 2;
const REST_MIN: Duration = Duration::from_millis(5);
/// Objects of a bucket that are counted for a list.
const COUNT_MAX: u64 = 10_000;

/// A bucket's number says its partition.
pub(super) fn partition_of(bucket: u64) -> Partition {
    Partition((bucket >> 48) as u16)
}

/// Whether there is a bucket of this number that is not in the trash.
pub(super) fn is_there(txn: &Txn<'_>, bucket: u64) -> Result<bool, StoreFault> {
    Ok(txn.get_bytes(&keys::bucket_number(partition_of(bucket), bucket))?.is_some())
}

impl MetaServer {
    /// Removes what is due, for as long as the replica lives.
    pub(super) async fn empty_trash(self) {
        loop {
            self.0.platform.clock().sleep(PERIOD).await;
            if self.0.replica.stopped().is_some() {
                return;
            }
            if self.0.replica.is_leader()
                && let Err(trouble) = self.purge_due().await
            {
                tracing::debug!(text = %trouble.failure().text, "the purge of a bucket stopped early");
            }
        }
    }

    async fn purge_due(&self) -> Result<(), Trouble> {
        let clock = self.0.platform.clock();
        while let Some(row) = self.first_due()? {
            let began = clock.now();
            let bucket = row.bucket.id;
            let command = Command {
                partition: partition_of(bucket).0.into(),
                body: Some(Body::PurgePage(PurgePage { bucket })),
                ..Command::default()
            };
            let outcome = self.propose(command).await?;
            if outcome.refusal != refusal::NONE {
                // This replica did not know the latest; it will when it looks again.
                tracing::debug!(bucket, text = %outcome.text, "a page was not purged");
                return Ok(());
            }
            if !outcome.existed {
                self.0.platform.reached("bucket is purged");
                tracing::info!(bucket, name = %row.bucket.name, "a bucket in the trash is purged");
            }
            let took = clock.now().saturating_since(began);
            clock.sleep((took * REST).max(REST_MIN)).await;
        }
        Ok(())
    }

    /// The first bucket that was given up or whose time is over.
    fn first_due(&self) -> Result<Option<TrashRow>, Trouble> {
        let now_ms = self.0.platform.clock().unix_ms();
        let rows = self.trash_rows()?;
        Ok(rows.into_iter().find(|row| row.purging || now_ms >= row.keep_until_ms))
    }

    fn trash_rows(&self) -> Result<Vec<TrashRow>, StoreFault> {
        let rows = Txn::new(self.0.replica.store()).scan_prefix(&[keys::table::TRASH], usize::MAX)?;
        rows.iter().map(|(_, value)| TrashRow::from_bytes(value)).collect()
    }

    /// The buckets in the trash, with what they hold, counted up to a bound.
    pub(super) fn trash(&self) -> Result<Vec<TrashEntry>, StoreFault> {
        self.trash_rows()?.into_iter().map(|row| self.counted(row)).collect()
    }

    fn counted(&self, row: TrashRow) -> Result<TrashEntry, StoreFault> {
        let prefix = keys::object(partition_of(row.bucket.id), row.bucket.id, "");
        let start = prefix.as_slice().max(&row.purged_upto);
        let (mut objects, mut bytes, mut more, mut fault) = (0, 0, false, None);
        self.0.replica.store().scan(start, keys::after_prefix(&prefix).as_deref(), &mut |_, value| {
            if objects == COUNT_MAX {
                more = true;
                return false;
            }
            match ObjectGlance::from_bytes(value) {
                Ok(glance) => {
                    objects += 1;
                    bytes += glance.size;
                    true
                }
                Err(error) => {
                    fault = Some(error);
                    false
                }
            }
        })?;
        match fault {
            Some(fault) => Err(fault),
            None => Ok(TrashEntry { row, objects, bytes, more }),
        }
    }
}
