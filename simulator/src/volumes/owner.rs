//! An owner: attaches one volume after the other, and has clients ask it.

use std::time::Duration;

use bytes::Bytes;
use client::volume::{Claim, Snapshot, Volume, VolumeError};
use futures_util::future::join_all;
use platform::clock::Instant;

use super::Worker;
use super::history::{AREA, AREAS, GRANULE, GRANULES, SIZE, Snap, bytes_of, place, values_of};
use crate::checkers::Checker;
use crate::cluster::Running;

/// Granules of one request at most.
const REQUEST: u64 = 24;
/// Requests of a volume at most: what is judged grows with them.
const REQUESTS_MAX: usize = 5000;
/// Clients of a volume that also write; more only read.
const WRITERS: usize = 3;
/// What somebody asks who has lost the volume.
const LAST_WORDS: u64 = 3;

impl Worker {
    /// One volume after the other until the cluster says stop.
    pub async fn own(self) {
        let _running = Running::new(&self.cluster);
        let Some(work) = self.cluster.shape.work.volumes.clone() else { return };
        while !self.is_over() {
            self.sleep(self.draw.wait(Duration::from_millis(400))).await;
            if self.is_over() || self.cluster.volumes.count() > REQUESTS_MAX {
                break;
            }
            let (line, name) = self.some_volume();
            let Some(volume) = self.attach(line, &name, self.draw.chance(work.force)).await else { continue };
            let upto = self.later(self.draw.wait(work.hold).min(work.hold * 3));
            let clients = (0..work.clients).map(|client| self.ask(line, &volume, upto, client >= WRITERS));
            join_all(clients).await;
            self.leave(line, &volume).await;
        }
    }

    /// Attaches a volume and notes that it has it.
    pub async fn attach(&self, line: usize, name: &str, force: bool) -> Option<Volume> {
        let pace = self.cluster.shape.work.volumes.as_ref().map(|work| work.pace).unwrap_or_default();
        let claim = Claim { owner: &self.name, force, only_epoch: 0, pace };
        let start = self.now();
        let layers = &self.layers;
        match Volume::attach_as(&layers.meta, &layers.shards, &layers.reader, name, claim).await {
            Ok(volume) => {
                self.cluster.counts.operations.set(self.cluster.counts.operations.get() + 1);
                let under_way = self.cluster.volumes.owned(line, volume.epoch(), start, self.now());
                self.cluster.situation("volume is attached");
                if under_way > 0 {
                    self.cluster.situation("volume is taken over with writes under way");
                }
                Some(volume)
            }
            Err(error) => {
                self.judge(&format!("attach of {name}"), &error, self.is_doomed(line));
                None
            }
        }
    }

    fn is_doomed(&self, line: usize) -> bool {
        self.cluster.volumes.lines.borrow()[line].is_doomed
    }

    /// Gives the volume up in one way or another.
    async fn leave(&self, line: usize, volume: &Volume) {
        if volume.ended().is_some() {
            self.cluster.situation("volume's owner was fenced");
            return self.last_words(line, volume).await;
        }
        if self.draw.chance(0.25) {
            return;
        }
        if let Err(error) = volume.detach().await {
            self.judge(&format!("detach of {}", volume.name()), &error, self.is_doomed(line));
            self.cluster.situation("volume could not be detached");
            self.last_words(line, volume).await;
        }
    }

    /// Somebody who does not know that the volume is lost, or whether.
    async fn last_words(&self, line: usize, volume: &Volume) {
        for _ in 0..LAST_WORDS {
            self.sleep(self.draw.millis(1, 900)).await;
            if self.draw.chance(0.3) {
                self.write(line, volume).await;
            }
            self.read(line, volume).await;
        }
    }

    /// One client of a volume.
    async fn ask(&self, line: usize, volume: &Volume, upto: Instant, only_reads: bool) {
        let think = self.cluster.shape.work.volumes.as_ref().map_or(Duration::ZERO, |work| work.think);
        while !self.is_over() && volume.ended().is_none() && self.platform.clock().now() < upto {
            self.sleep(self.draw.wait(think)).await;
            if only_reads {
                self.read(line, volume).await;
                continue;
            }
            // Bursts meet in one record, or in records under way at once.
            let burst = if self.draw.chance(0.3) { self.draw.between(2, 8) } else { 1 };
            join_all((0..burst).map(|_| self.one(line, volume))).await;
        }
    }

    async fn one(&self, line: usize, volume: &Volume) {
        self.cluster.counts.operations.set(self.cluster.counts.operations.get() + 1);
        match self.draw.below(100) {
            0..45 => self.write(line, volume).await,
            45..85 => self.read(line, volume).await,
            85..93 => self.clear(line, volume).await,
            93..96 => {
                if let Err(error) = volume.flush() {
                    self.judge("flush", &error, false);
                }
            }
            96..98 => self.snapshot(line, volume).await,
            _ => self.status(line, volume).await,
        }
    }

    /// Some granules of one area, most of them in its first ones.
    fn some_granules(&self) -> (usize, usize) {
        let (draw, area) = (&self.draw, self.draw.below(AREAS.len() as u64));
        let count = draw.between(1, *draw.pick(&[2, 6, REQUEST]));
        let first = draw.below(*draw.pick(&[12, AREA as u64]));
        let first = first.min(AREA as u64 - count);
        ((area * AREA as u64 + first) as usize, count as usize)
    }

    async fn write(&self, line: usize, volume: &Volume) {
        let (first, count) = self.some_granules();
        let volumes = &self.cluster.volumes;
        let value = volumes.number();
        let handle = volumes.begin(line, volume.epoch(), first, count, value, self.now());
        let written = volume.write(place(first), bytes_of(value, first, count)).await;
        volumes.end(handle, written.is_ok(), self.now());
        if let Err(error) = written {
            self.judge("write", &error, false);
        }
    }

    /// Sometimes across areas, and all between.
    async fn clear(&self, line: usize, volume: &Volume) {
        let (mut first, mut count) = self.some_granules();
        if self.draw.chance(0.1) {
            count = GRANULES - first;
        }
        let (mut start, mut upto) = (place(first), place(first + count - 1) + GRANULE);
        if self.draw.chance(0.06) {
            (first, count, start, upto) = (0, GRANULES, 0, SIZE);
        }
        let volumes = &self.cluster.volumes;
        let handle = volumes.begin(line, volume.epoch(), first, count, 0, self.now());
        let cleared = volume.clear(start, upto - start).await;
        volumes.end(handle, cleared.is_ok(), self.now());
        if let Err(error) = cleared {
            self.judge("clear", &error, false);
        }
    }

    async fn read(&self, line: usize, volume: &Volume) {
        let (first, count) = self.some_granules();
        if let Err(error) = self.read_these(line, volume, first, count).await {
            self.judge("read", &error, false);
        }
    }

    /// Reads granules of one area, and notes them.
    ///
    /// # Errors
    /// Those of the volume.
    pub async fn read_these(
        &self,
        line: usize,
        volume: &Volume,
        first: usize,
        count: usize,
    ) -> Result<(), VolumeError> {
        let start = self.now();
        let bytes = volume.read(place(first), count as u64 * GRANULE).await?;
        if let Some(values) = self.values(volume.name(), &bytes, first, count) {
            self.cluster.volumes.read(line, first, values, start, self.now());
        }
        Ok(())
    }

    /// The values that were read; bytes that nobody wrote are a violation.
    fn values(&self, name: &str, bytes: &Bytes, first: usize, count: usize) -> Option<Vec<u64>> {
        if bytes.len() as u64 != count as u64 * GRANULE {
            self.wrong(format!("{name}: {} bytes came for {count} granules", bytes.len()));
            return None;
        }
        match values_of(bytes, first) {
            Ok(values) => Some(values),
            Err(granule) => {
                let what = format!("{name}: granule {granule} at {} holds what nobody wrote", place(granule));
                self.cluster.violated(Checker::Bytes, what);
                None
            }
        }
    }

    async fn status(&self, _line: usize, volume: &Volume) {
        match volume.status(0, SIZE).await {
            Ok(pieces) => {
                let mut at = 0;
                let is_whole = pieces.iter().all(|piece| {
                    let fits = piece.start == at && piece.len > 0;
                    at += piece.len;
                    fits
                });
                if !is_whole || at != SIZE {
                    self.wrong(format!("status of {} has gaps", volume.name()));
                }
            }
            Err(error) => self.judge("status", &error, false),
        }
    }

    async fn snapshot(&self, line: usize, volume: &Volume) {
        let snap = self.new_snap(line);
        let name = self.cluster.volumes.lines.borrow()[line].snaps[snap].name.clone();
        match volume.take_snapshot(&name).await {
            Ok(_) => self.snap_is_there(line, snap),
            Err(error) => self.judge("snapshot", &error, false),
        }
    }

    /// Somebody asks for a snapshot now.
    pub fn new_snap(&self, line: usize) -> usize {
        let name = format!("s{}", self.cluster.volumes.number());
        let content = vec![None; GRANULES];
        let snap = Snap { name, start: self.now(), end: None, content, is_doomed: false };
        let snaps = &mut self.cluster.volumes.lines.borrow_mut()[line].snaps;
        snaps.push(snap);
        snaps.len() - 1
    }

    /// A snapshot is known to be there.
    pub fn snap_is_there(&self, line: usize, snap: usize) {
        let now = self.now();
        self.cluster.volumes.lines.borrow_mut()[line].snaps[snap].end.get_or_insert(now);
    }

    /// Reads a snapshot, some or all of it.
    ///
    /// # Errors
    /// Those of the volume.
    pub async fn read_snap(&self, line: usize, snap: usize, whole: bool) -> Result<(), VolumeError> {
        let (name, at) = {
            let lines = self.cluster.volumes.lines.borrow();
            (lines[line].name.clone(), lines[line].snaps[snap].name.clone())
        };
        let (meta, shards, reader) = (&self.layers.meta, &self.layers.shards, &self.layers.reader);
        let opened = Snapshot::open(meta, shards, reader, &self.name, &name, &at).await?;
        self.snap_is_there(line, snap);
        if opened.size() != SIZE {
            self.wrong(format!("{name}@{at} has {} bytes", opened.size()));
        }
        let parts: Vec<(usize, usize)> = if whole {
            (0..AREAS.len()).map(|area| (area * AREA, AREA)).collect()
        } else {
            (0..4).map(|_| self.some_granules()).collect()
        };
        for (first, count) in parts {
            let bytes = opened.read(place(first), count as u64 * GRANULE).await?;
            let Some(values) = self.values(&format!("{name}@{at}"), &bytes, first, count) else { continue };
            if let Some((granule, was, is)) = self.cluster.volumes.read_snapshot(line, snap, first, &values) {
                self.wrong(format!("{name}@{at}: granule {granule} was {was} and is {is}"));
            }
        }
        Ok(())
    }
}
