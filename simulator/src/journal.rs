//! Appends to chunks without a command behind each, as a volume's journal will do: an append that
//! was acknowledged must be readable for as long as its session lives, whatever is sealed meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use client::chunk::reader::ReadError;
use client::chunk::writer::Pin;
use client::meta::MetaError;
use proto::meta::{Body, Conditions, DeleteObject};
use types::extent::Extent;
use types::ids::Partition;
use types::redundancy::Redundancy;

use crate::checkers::Checker;
use crate::cluster::{Cluster, Running};
use crate::content::{content, difference};
use crate::nodes::client::Layers;
use crate::workload::bucket_name;

/// Records remembered by a process.
const RECORDS_MAX: usize = 120;
/// When the faults have stopped, a record may be unreadable for this long.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Clone)]
struct Record {
    value: u64,
    extent: Extent,
    session: u64,
    /// Keeps the chunk from being released.
    _pin: Pin,
}

/// The journal of one client process.
pub struct Journal {
    cluster: Rc<Cluster>,
    layers: Layers,
    records: RefCell<Vec<Record>>,
}

impl Journal {
    /// An empty journal.
    pub fn new(cluster: Rc<Cluster>, layers: Layers) -> Rc<Journal> {
        Rc::new(Journal { cluster, layers, records: RefCell::default() })
    }

    /// Appends until the cluster says stop.
    pub async fn write(self: Rc<Journal>) {
        let _running = Running::new(&self.cluster);
        let clock = self.layers.meta.platform().clock().clone();
        let (draw, mean) = (&self.cluster.draw, self.cluster.shape.work.journal);
        while !self.cluster.stopping.get() {
            clock.sleep(draw.wait(mean)).await;
            self.append().await;
            if draw.chance(0.05) {
                self.look_at_one().await;
            }
        }
    }

    async fn append(&self) {
        let (draw, shape) = (&self.cluster.draw, &self.cluster.shape);
        let striped = draw.chance(0.3);
        let filling = if striped { shape.policy.into() } else { shape.policy.small() };
        let partition = Partition(0);
        let len = match filling.policy {
            Redundancy::Copies(_) => draw.between(1, 12 << 10),
            Redundancy::Erasure { data, .. } => u64::from(data) * shape.cell_size,
        };
        let value = self.cluster.history.new_value(len);
        let before = self.layers.meta.session();
        let data: Bytes = content(value, len as usize);
        let Ok((extent, pin)) = self.layers.writer.append(partition, filling, data).await else { return };
        let session = self.layers.meta.session();
        if session != before || session == 0 {
            return;
        }
        let mut records = self.records.borrow_mut();
        records.push(Record { value, extent, session, _pin: pin });
        if records.len() > RECORDS_MAX {
            let index = draw.below(records.len() as u64) as usize;
            records.swap_remove(index);
        }
    }

    /// Reads one record; only wrong bytes and a chunk that is gone are wrong while faults happen.
    async fn look_at_one(&self) {
        let chosen = {
            let records = self.records.borrow();
            if records.is_empty() {
                return;
            }
            // With its pin: it may be forgotten while it is read.
            self.cluster.draw.pick(&records).clone()
        };
        if let Err((why, true)) = self.read(&chosen).await {
            self.lost(&chosen, &why).await;
        }
    }

    /// Why a record could not be read, and whether that is for ever.
    async fn read(&self, record: &Record) -> Result<(), (String, bool)> {
        let Record { value, extent, .. } = *record;
        match self.layers.reader.read(extent.chunk, extent.offset, extent.len).await {
            Ok(bytes) => match difference(value, 0, &bytes) {
                None => Ok(()),
                Some(at) => Err((format!("differs at byte {at}"), true)),
            },
            Err(error @ ReadError::Gone(_)) => Err((error.to_string(), true)),
            Err(error) => Err((error.to_string(), false)),
        }
    }

    /// A record is gone: that is a violation if its session lives.
    async fn lost(&self, record: &Record, why: &str) {
        let Record { value, extent, session, .. } = *record;
        if self.lives(session).await {
            let size = extent.len;
            self.cluster.violated(
                Checker::Appends,
                format!("acked append {value} of {size} bytes to {extent:?} of session {session}: {why}"),
            );
        }
    }

    /// Whether the session lives, as a command finds.
    async fn lives(&self, session: u64) -> bool {
        let clock = self.layers.meta.platform().clock().clone();
        for _ in 0..20 {
            if self.layers.meta.session() != session {
                return false;
            }
            let Ok(bucket) = self.layers.objects.bucket(&bucket_name()).await else { continue };
            let partition = Partition((bucket.id >> 48) as u16);
            let conditions = Conditions { absent: false, etag: String::new() };
            let body = DeleteObject { bucket: bucket.id, key: "nobody".into(), conditions };
            match self.layers.meta.command(partition, Body::DeleteObject(body)).await {
                Ok(_) => return self.layers.meta.session() == session,
                Err(MetaError::SessionEnded) => return false,
                Err(_) => clock.sleep(Duration::from_millis(500)).await,
            }
        }
        false
    }

    /// When the faults have stopped: every record must be readable.
    pub async fn verify(self: Rc<Journal>) {
        let _running = Running::new(&self.cluster);
        let clock = self.layers.meta.platform().clock().clone();
        while !self.cluster.stopping.get() {
            clock.sleep(Duration::from_millis(100)).await;
        }
        // Appends under way end first.
        clock.sleep(Duration::from_secs(1)).await;
        let deadline = clock.now() + PATIENCE;
        let records = std::mem::take(&mut *self.records.borrow_mut());
        for record in &records {
            loop {
                match self.read(record).await {
                    Ok(()) => break,
                    Err((_, false)) if clock.now() < deadline => {
                        if !self.lives(record.session).await {
                            break;
                        }
                        clock.sleep(Duration::from_millis(500)).await;
                    }
                    Err((why, _)) => {
                        self.lost(record, &why).await;
                        break;
                    }
                }
            }
            if !self.cluster.violations().is_empty() {
                return;
            }
        }
    }
}
