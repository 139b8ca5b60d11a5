//! When the faults have stopped: every volume is attached, read and given up, every snapshot is read; and what
//! is deleted gives its space back.

use std::rc::Rc;
use std::time::Duration;

use client::volume::{self, Volume, VolumeError};
use proto::keys::table;

use super::Worker;
use super::history::{AREA, AREAS};
use crate::cluster::Cluster;
use crate::inspect;
use crate::nodes::client::Layers;

/// Without faults everything is there after this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What was deleted is given back after this long.
const GONE: Duration = Duration::from_secs(90);

/// Makes the volumes that are there from the beginning.
///
/// # Errors
/// Those of the metaserver.
pub async fn found(cluster: &Rc<Cluster>, layers: &Layers) -> Result<(), VolumeError> {
    let Some(work) = &cluster.shape.work.volumes else { return Ok(()) };
    for number in 0..work.volumes {
        let name = format!("v{number}");
        let partition = types::ids::Partition(0);
        let cipher = work.ciphers[number % work.ciphers.len()];
        volume::create(&layers.meta, &name, super::history::SIZE, cluster.shape.policy, partition, cipher).await?;
        if cipher.is_some() {
            cluster.situation("volume is encrypted");
        }
        cluster.volumes.add(name, None);
    }
    Ok(())
}

/// Reads all volumes and snapshots once more.
pub async fn run(cluster: &Rc<Cluster>, layers: &Layers) {
    if cluster.shape.work.volumes.is_none() {
        return;
    }
    let worker = Worker::new(cluster.clone(), layers, "driver".into());
    let lines = cluster.volumes.lines.borrow().len();
    for line in 0..lines {
        let (name, is_doomed) = {
            let lines = cluster.volumes.lines.borrow();
            (lines[line].name.clone(), lines[line].is_doomed)
        };
        if is_doomed {
            continue;
        }
        if let Err(error) = worker.patient(async || worker.read_all(line, &name).await).await {
            worker.wrong(format!("volume {name} cannot be read without faults: {error}"));
        }
        let snaps = cluster.volumes.lines.borrow()[line].snaps.len();
        for snap in 0..snaps {
            let (at, is_there) = {
                let lines = cluster.volumes.lines.borrow();
                let snap = &lines[line].snaps[snap];
                (snap.name.clone(), snap.end.is_some() && !snap.is_doomed)
            };
            if !is_there {
                continue;
            }
            if let Err(error) = worker.patient(async || worker.read_snap(line, snap, true).await).await {
                worker.wrong(format!("snapshot {name}@{at} cannot be read without faults: {error}"));
            }
        }
    }
    let Some(leader) = cluster.leader() else { return };
    if inspect::volume_chunks(&leader).iter().any(|(_, row)| row.dropped > 0) {
        cluster.situation("chunk of a volume is kept for a snapshot");
    }
    if worker.draw.chance(0.5) {
        worker.delete_all().await;
    }
}

impl Worker {
    /// Tries again what fails for a while.
    async fn patient(&self, what: impl AsyncFn() -> Result<(), VolumeError>) -> Result<(), VolumeError> {
        let deadline = self.later(PATIENCE);
        loop {
            match what().await {
                Err(VolumeError::Unavailable(_) | VolumeError::Busy(_) | VolumeError::Fenced(_))
                    if self.platform.clock().now() < deadline =>
                {
                    self.sleep(Duration::from_millis(300)).await;
                }
                other => return other,
            }
        }
    }

    async fn read_all(&self, line: usize, name: &str) -> Result<(), VolumeError> {
        let Some(volume) = self.attach(line, name, true).await else {
            return Err(VolumeError::Unavailable("it cannot be attached".into()));
        };
        for area in 0..AREAS.len() {
            self.read_these(line, &volume, area * AREA, AREA).await?;
        }
        volume.detach().await
    }

    async fn take_away(&self, name: &str) -> Result<(), VolumeError> {
        let Layers { meta, shards, reader, .. } = &self.layers;
        Volume::attach(meta, shards, reader, name, &self.name, true, 0).await?.detach().await
    }

    /// Deletes everything: nothing may be left of it.
    async fn delete_all(&self) {
        let deleted = self
            .patient(async || {
                for row in volume::list(&self.layers.meta).await? {
                    if row.session != 0 {
                        // Its owner stopped without giving it up.
                        self.take_away(&row.name).await?;
                    }
                    volume::delete(&self.layers.meta, &row.name).await?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = deleted {
            return self.wrong(format!("volumes cannot be deleted without faults: {error}"));
        }
        let deadline = self.later(GONE);
        let left = || {
            let leader = self.cluster.leader()?;
            let tables = [table::VOLUME, table::VOLUME_NUMBER, table::VOLUME_CHUNK, table::DELETED_VOLUME]
                .into_iter()
                .chain([table::SNAPSHOT, table::SWEEP]);
            let rows: Vec<usize> = tables.map(|table| inspect::rows(&leader, table).len()).collect();
            rows.iter().any(|rows| *rows > 0).then_some(rows)
        };
        while let Some(rows) = left() {
            if self.platform.clock().now() >= deadline {
                return self.wrong(format!(
                    "of deleted volumes these are left (names, numbers, chunks, deleted, snapshots, sweeps): {rows:?}"
                ));
            }
            self.sleep(Duration::from_millis(500)).await;
        }
        self.cluster.situation("deleted volumes are gone");
    }
}
