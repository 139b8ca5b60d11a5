//! The index core of a volume against a map that has an entry for each byte.
//!
//! ```text
//! seed -> writes, clears, moves | freeze, store page by page, root, thaw | pin, shrink, fetch | crash, replay
//! ```
//!
//! What is stored is as it was at its moment, whatever came since; a crash leaves the last whole root and the
//! records behind it, which give the same bytes and the same snapshots again; a chunk that the index says it
//! does not need is needed by nothing.

use std::collections::{BTreeMap, VecDeque};

use client::volume::index::{Index, Moment, PAGE_SPAN};
use proto::volume::{IndexPage, IndexRoot, PageRow};

use crate::draw::Draw;

/// Bytes that are watched, around two borders of pages and at the beginning.
const SPANS: [(u64, u64); 3] = [(0, 60), (PAGE_SPAN - 90, 180), (2 * PAGE_SPAN - 70, 140)];
const LEN: usize = 380;
/// Steps of a seed.
const STEPS: u64 = 70;
/// Data lies in chunks below this number, pages in those from it on.
const PAGES_FROM: u64 = 1000;

type At = Option<(u64, u64)>;

#[derive(Clone, Copy, Debug)]
enum Change {
    Set { start: u64, len: u64, chunk: u64, offset: u64 },
    Clear { start: u64, len: u64 },
    Move { from: u64, start: u64, len: u64, chunk: u64, offset: u64 },
}

/// The naive map.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Bytes(Vec<At>);

/// The watched byte of a position, from it on.
fn watched() -> impl Iterator<Item = u64> {
    SPANS.iter().flat_map(|(start, len)| *start..*start + *len)
}

impl Bytes {
    fn change(&mut self, change: Change) {
        let (start, len) = match change {
            Change::Set { start, len, .. } | Change::Clear { start, len } | Change::Move { start, len, .. } => {
                (start, len)
            }
        };
        for (at, byte) in watched().zip(&mut self.0).filter(|(at, _)| (start..start + len).contains(at)) {
            match change {
                Change::Set { chunk, offset, .. } => *byte = Some((chunk, offset + at - start)),
                Change::Clear { .. } => *byte = None,
                Change::Move { from, chunk, offset, .. } => {
                    if byte.is_some_and(|(chunk, _)| chunk == from) {
                        *byte = Some((chunk, offset + at - start));
                    }
                }
            }
        }
    }

    fn needs(&self, chunk: u64) -> bool {
        self.0.iter().flatten().any(|(at, _)| *at == chunk)
    }

    fn live(&self) -> BTreeMap<u64, u64> {
        let mut live = BTreeMap::new();
        self.0.iter().flatten().for_each(|(chunk, _)| *live.entry(*chunk).or_default() += 1);
        live
    }
}

fn carry_out(index: &mut Index, change: Change) {
    match change {
        Change::Set { start, len, chunk, offset } => index.set(start, len, chunk, offset),
        Change::Clear { start, len } => index.clear(start, len),
        Change::Move { from, start, len, chunk, offset } => _ = index.set_moved(from, start, len, chunk, offset),
    }
}

/// What a crash leaves.
struct Stored {
    root: IndexRoot,
    sequence: u64,
}

struct Story {
    draw: Draw,
    index: Index,
    now: Bytes,
    sequence: u64,
    /// Moments that are not stored yet, and what was there; whether it is a snapshot.
    frozen: VecDeque<(u64, Bytes, bool)>,
    /// Changes behind the stored root, by number.
    records: Vec<(u64, Change)>,
    stored: Stored,
    pages: BTreeMap<(u64, u32), IndexPage>,
    page_chunk: u64,
    page_offset: u32,
    /// Pages that are being stored.
    under_way: Vec<(u64, Option<IndexPage>)>,
}

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

/// Runs a seed.
///
/// # Errors
/// What the index did that a map would not.
pub fn run(seed: u64) -> Result<(), String> {
    let stored = Stored { root: IndexRoot { pages: vec![], live: vec![] }, sequence: 0 };
    let mut story = Story {
        draw: Draw::new(seed ^ 0x0069_6e64_6578),
        index: Index::default(),
        now: Bytes(vec![None; LEN]),
        sequence: 0,
        frozen: VecDeque::new(),
        records: Vec::new(),
        stored,
        pages: BTreeMap::new(),
        page_chunk: PAGES_FROM,
        page_offset: 0,
        under_way: Vec::new(),
    };
    for step in 0..STEPS {
        story.step().map_err(|why| format!("step {step}: {why}"))?;
    }
    while !story.frozen.is_empty() {
        story.store(usize::MAX)?;
    }
    story.look()
}

impl Story {
    fn some_range(&self) -> (u64, u64) {
        let draw = &self.draw;
        let (start, len) = *draw.pick(&SPANS);
        let from = draw.below(len);
        (start + from, 1 + draw.below((len - from).min(1 + draw.below(100))))
    }

    fn step(&mut self) -> Result<(), String> {
        match self.draw.below(24) {
            0..8 => {
                let (start, len) = self.some_range();
                let (chunk, offset) = (1 + self.draw.below(5), self.draw.below(1 << 20));
                self.change(Change::Set { start, len, chunk, offset })?;
            }
            8..10 => {
                let (start, mut len) = self.some_range();
                if self.draw.chance(0.1) {
                    len = 3 * PAGE_SPAN - start;
                }
                self.change(Change::Clear { start, len })?;
            }
            10..12 => {
                let (start, len) = self.some_range();
                let (from, offset) = (1 + self.draw.below(5), self.draw.below(1 << 20));
                self.change(Change::Move { from, start, len, chunk: from + 10, offset })?;
            }
            12..14 => self.freeze(),
            14..18 => self.store(1 + self.draw.below(4) as usize)?,
            18 => self.store(usize::MAX)?,
            19..21 => {
                let (start, len) = self.some_range();
                self.fetch(start, len)?;
                self.index.pin(start, len);
                self.index.shrink(0);
                ensure!(self.index.absent(start, len).is_empty(), "a pinned page went");
                self.index.unpin(start, len);
                self.index.shrink(self.draw.below(4) as usize);
            }
            21 => {
                // Pages of a chunk are stored anew, as by compaction.
                let chunk = self.draw.between(PAGES_FROM, self.page_chunk);
                for row in self.index.pages_in(chunk) {
                    self.fetch(row.page * PAGE_SPAN, 1)?;
                    self.index.touch(row.page);
                }
            }
            22 => self.crash()?,
            _ => self.look()?,
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), String> {
        self.sequence += 1;
        let (start, len) = match change {
            Change::Set { start, len, .. } | Change::Clear { start, len } | Change::Move { start, len, .. } => {
                (start, len)
            }
        };
        self.fetch(start, len)?;
        carry_out(&mut self.index, change);
        self.now.change(change);
        self.records.push((self.sequence, change));
        ensure!(self.index.used() == self.now.0.iter().flatten().count() as u64, "bytes are counted wrong");
        Ok(())
    }

    fn fetch(&mut self, start: u64, len: u64) -> Result<(), String> {
        for row in self.index.absent(start, len) {
            let page = self.pages.get(&(row.chunk, row.offset)).ok_or("a page lies in a chunk that is gone")?;
            self.index.install(&row, page).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn freeze(&mut self) {
        if self.frozen.back().is_some_and(|(moment, ..)| *moment == self.sequence) {
            return;
        }
        self.index.freeze(Moment { sequence: self.sequence, from_order: 0 });
        self.frozen.push_back((self.sequence, self.now.clone(), self.draw.chance(0.5)));
    }

    /// Stores so many pages of the first moment, and its root if those were all.
    fn store(&mut self, pages_max: usize) -> Result<(), String> {
        if self.frozen.is_empty() {
            self.freeze();
        }
        let mut left = pages_max;
        while left > 0 {
            self.end_pages();
            let batch = left.min(1 + self.draw.below(3) as usize);
            self.under_way = (0..batch).map_while(|_| self.index.next_page()).collect();
            if self.under_way.is_empty() {
                return self.store_root();
            }
            left -= batch;
        }
        // The last ones are under way until somebody comes back to it.
        Ok(())
    }

    /// Pages under way are stored, or were not.
    fn end_pages(&mut self) {
        if self.draw.below(9) == 0 {
            self.under_way.clear();
            return self.index.put_back();
        }
        for (number, page) in std::mem::take(&mut self.under_way) {
            let row = page.map(|page| {
                if self.draw.below(4) == 0 {
                    self.page_chunk += 1;
                }
                self.page_offset += 10;
                let row = PageRow { page: number, chunk: self.page_chunk, offset: self.page_offset, len: 10 };
                self.pages.insert((row.chunk, row.offset), page);
                row
            });
            self.index.stored(number, row);
        }
    }

    fn store_root(&mut self) -> Result<(), String> {
        let (root, used) = self.index.root();
        let Some((sequence, was, _)) = self.frozen.front().cloned() else { return Err("nothing is frozen".into()) };
        ensure!(self.index.first_frozen().map(|first| first.sequence) == Some(sequence), "another moment is stored");
        ensure!(used == was.0.iter().flatten().count() as u64, "the root counts other bytes");
        let live: BTreeMap<u64, u64> = root.live.iter().map(|row| (row.chunk, row.bytes)).collect();
        ensure!(live == was.live(), "the root has {live:?} alive, it was {:?}", was.live());
        for chunk in 1..16 {
            let is_needed = self.now.needs(chunk) || self.frozen.iter().any(|(_, was, _)| was.needs(chunk));
            ensure!(self.index.needs(chunk) == is_needed, "chunk {chunk} is needed: {is_needed}");
        }
        // Chunks of pages that nothing needs go with the root.
        let gone = |chunk: &u64| !self.index.needs(*chunk) && *chunk != self.page_chunk;
        let gone: Vec<u64> = (PAGES_FROM..=self.page_chunk).filter(gone).collect();
        self.pages.retain(|(chunk, _), _| !gone.contains(chunk));
        self.read_back(&root, &was)?;
        self.index.thaw();
        self.frozen.pop_front();
        self.records.retain(|(number, _)| *number > sequence);
        self.stored = Stored { root, sequence };
        Ok(())
    }

    /// Whatever came since, it is what it was.
    fn read_back(&self, root: &IndexRoot, was: &Bytes) -> Result<(), String> {
        let mut back = Index::from_root(root).map_err(|error| error.to_string())?;
        for row in back.absent(0, 10 * PAGE_SPAN) {
            let page = self.pages.get(&(row.chunk, row.offset)).ok_or("a page of the root is gone")?;
            back.install(&row, page).map_err(|error| error.to_string())?;
        }
        same(&back, was)
    }

    /// The process dies: what is stored, and the records behind it.
    fn crash(&mut self) -> Result<(), String> {
        self.index = Index::from_root(&self.stored.root).map_err(|error| error.to_string())?;
        self.under_way.clear();
        self.frozen.retain(|(.., is_snapshot)| *is_snapshot);
        let mut moments = self.frozen.iter().map(|(moment, ..)| *moment).collect::<VecDeque<u64>>();
        let mut number = self.stored.sequence;
        for (next, change) in self.records.clone() {
            while moments.front().is_some_and(|moment| *moment < next) {
                self.index.freeze(Moment { sequence: moments.pop_front().unwrap_or(0), from_order: 0 });
            }
            let (Change::Set { start, len, .. } | Change::Clear { start, len } | Change::Move { start, len, .. }) =
                change;
            self.fetch(start, len)?;
            carry_out(&mut self.index, change);
            number = next;
        }
        for sequence in moments {
            self.index.freeze(Moment { sequence, from_order: 0 });
        }
        ensure!(number <= self.sequence, "a record from the future");
        self.look()
    }

    fn look(&mut self) -> Result<(), String> {
        self.fetch(0, 3 * PAGE_SPAN)?;
        same(&self.index, &self.now)?;
        for (chunk, bytes) in self.now.live() {
            ensure!(self.index.live_of(chunk) == bytes, "{bytes} bytes of chunk {chunk} are alive");
        }
        Ok(())
    }
}

fn same(index: &Index, bytes: &Bytes) -> Result<(), String> {
    let mut seen: Vec<At> = Vec::with_capacity(LEN);
    for (start, len) in SPANS {
        let mut at = start;
        for piece in index.lookup(start, len) {
            ensure!(piece.start == at && piece.len > 0, "pieces have gaps at {at}");
            at += piece.len;
            seen.extend((0..piece.len).map(|byte| piece.at.map(|(chunk, offset)| (chunk, offset + byte))));
        }
        ensure!(at == start + len, "pieces end at {at}");
    }
    match watched().zip(seen.iter().zip(&bytes.0)).find(|(_, (seen, is))| seen != is) {
        None => Ok(()),
        Some((at, (seen, is))) => Err(format!("byte {at} is mapped to {seen:?}, and lies at {is:?}")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn index_does_what_a_map_does_over_crashes_and_checkpoints() {
        for seed in 0..4000 {
            if let Err(why) = super::run(seed) {
                panic!("seed {seed}: {why}");
            }
        }
    }
}
