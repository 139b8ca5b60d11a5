//! People: snapshots, clones, going back, deleting, from a process that does not own the volume.

use client::volume::{self, VolumeError};

use super::Worker;
use super::history::GRANULES;
use crate::cluster::Running;

/// Snapshots of a volume, and clones, at most.
const SNAPS_MAX: usize = 12;
const CLONES_MAX: usize = 4;

impl Worker {
    /// One thing after the other until the cluster says stop.
    pub async fn administer(self) {
        let _running = Running::new(&self.cluster);
        let Some(work) = self.cluster.shape.work.volumes.clone() else { return };
        while !self.is_over() {
            self.sleep(self.draw.wait(work.people)).await;
            if self.is_over() {
                break;
            }
            self.cluster.counts.operations.set(self.cluster.counts.operations.get() + 1);
            let (line, name) = self.some_volume();
            match self.draw.below(12) {
                0..3 => self.take(line, &name).await,
                3..6 => self.look(line).await,
                6..8 => self.clone_it(line, &name).await,
                8..10 => self.go_back(line, &name).await,
                10 => self.delete_snap(line, &name).await,
                _ => self.delete_clone().await,
            }
        }
    }

    async fn take(&self, line: usize, name: &str) {
        if self.cluster.volumes.lines.borrow()[line].snaps.len() >= SNAPS_MAX {
            return;
        }
        let snap = self.new_snap(line);
        let at = self.cluster.volumes.lines.borrow()[line].snaps[snap].name.clone();
        let (meta, shards, reader) = (&self.layers.meta, &self.layers.shards, &self.layers.reader);
        match volume::take_snapshot(meta, shards, reader, &self.name, name, &at).await {
            Ok(_) => self.snap_is_there(line, snap),
            Err(VolumeError::Refused(why)) => tracing::debug!(why, "snapshot is refused"),
            Err(error) => self.judge("snapshot", &error, true),
        }
    }

    /// A snapshot that is known to be there.
    fn some_snap(&self, line: usize) -> Option<usize> {
        let lines = self.cluster.volumes.lines.borrow();
        let snaps = &lines[line].snaps;
        let there: Vec<usize> =
            (0..snaps.len()).filter(|snap| snaps[*snap].end.is_some() && !snaps[*snap].is_doomed).collect();
        if there.is_empty() { None } else { Some(*self.draw.pick(&there)) }
    }

    fn may_be_gone(&self, line: usize, snap: usize) -> bool {
        let lines = self.cluster.volumes.lines.borrow();
        lines[line].is_doomed || lines[line].snaps[snap].is_doomed
    }

    async fn look(&self, line: usize) {
        let Some(snap) = self.some_snap(line) else { return };
        if let Err(error) = self.read_snap(line, snap, self.draw.chance(0.6)).await {
            self.judge("read of a snapshot", &error, self.may_be_gone(line, snap));
        }
    }

    async fn clone_it(&self, line: usize, name: &str) {
        let Some(snap) = self.some_snap(line) else { return };
        let (at, clones) = {
            let lines = self.cluster.volumes.lines.borrow();
            let clones = lines.iter().filter(|line| line.origin.is_some() && !line.is_doomed).count();
            (lines[line].snaps[snap].name.clone(), clones)
        };
        if clones >= CLONES_MAX {
            return;
        }
        let new = format!("c{}", self.cluster.volumes.number());
        match volume::clone(&self.layers.meta, name, &at, &new, 0, None).await {
            Ok(_) => {
                self.cluster.volumes.add(new, Some((line, snap)));
                self.cluster.situation("volume is cloned");
            }
            Err(error) => self.judge("clone", &error, self.may_be_gone(line, snap)),
        }
    }

    async fn go_back(&self, line: usize, name: &str) {
        let Some(snap) = self.some_snap(line) else { return };
        let is_known = self.cluster.volumes.lines.borrow()[line].known(snap).is_some();
        if !is_known && let Err(error) = self.read_snap(line, snap, true).await {
            return self.judge("read of a snapshot", &error, self.may_be_gone(line, snap));
        }
        let (at, known) = {
            let lines = self.cluster.volumes.lines.borrow();
            (lines[line].snaps[snap].name.clone(), lines[line].known(snap))
        };
        let Some(values) = known.filter(|values| values.len() == GRANULES) else { return };
        let handle = self.cluster.volumes.begin_rollback(line, values, self.now());
        let (meta, shards, reader) = (&self.layers.meta, &self.layers.shards, &self.layers.reader);
        let done = volume::roll_back(meta, shards, reader, &self.name, name, &at).await;
        self.cluster.volumes.end(handle, done.is_ok(), self.now());
        match done {
            Ok(()) => self.cluster.situation("volume goes back to a snapshot"),
            Err(error) => self.judge("rollback", &error, self.may_be_gone(line, snap)),
        }
    }

    async fn delete_snap(&self, line: usize, name: &str) {
        let Some(snap) = self.some_snap(line) else { return };
        let at = {
            let mut lines = self.cluster.volumes.lines.borrow_mut();
            lines[line].snaps[snap].is_doomed = true;
            lines[line].snaps[snap].name.clone()
        };
        if let Err(error) = volume::delete_snapshot(&self.layers.meta, name, &at).await {
            self.judge("deletion of a snapshot", &error, true);
        }
    }

    async fn delete_clone(&self) {
        let chosen = {
            let mut lines = self.cluster.volumes.lines.borrow_mut();
            let clones: Vec<usize> =
                (0..lines.len()).filter(|line| lines[*line].origin.is_some() && !lines[*line].is_doomed).collect();
            if clones.is_empty() {
                return;
            }
            let chosen = *self.draw.pick(&clones);
            lines[chosen].is_doomed = true;
            lines[chosen].name.clone()
        };
        match volume::delete(&self.layers.meta, &chosen).await {
            Ok(()) => self.cluster.situation("clone is deleted"),
            Err(error) => self.judge("deletion of a clone", &error, true),
        }
    }
}
