//! The index of a volume: which of its bytes lie where. No IO, no clock.
//!
//! Bytes are mapped by extents of any length, so a write that is not aligned needs nothing read. What
//! nothing maps reads as zeroes. Extents are kept in pages of 4 MiB of the volume; a page is here, or its
//! place in the journal is known and it is fetched before it is asked ([`Index::absent`]). Pages that are
//! stored as they are can be let go again ([`Index::shrink`]), but for those that are pinned.
//!
//! The index can be frozen any number of times ([`Index::freeze`]): a checkpoint stores it as it was at the
//! first of these moments, then at the next, whatever changes meanwhile.
//!
//! Invariants: extents of a page are in order and do not overlap; the live bytes of each chunk are the
//! sum of the extents that name it, in pages that are here or not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use std::cell::Cell;

use proto::volume::{IndexPage, IndexRoot, LiveRow, PageRow};
use thiserror::Error;

/// Bytes of the volume that a page maps.
pub const PAGE_SPAN: u64 = 4 << 20;

/// Bytes of a volume and where they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First byte of the volume.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Chunk and logical offset there; none: zeroes.
    pub at: Option<(u64, u64)>,
}

/// A page or a root that cannot be: nothing of it is taken over.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("index page {page}: {why}")]
pub struct BadPage {
    page: u64,
    why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    /// Counted from the page's first byte.
    start: u32,
    len: u32,
    chunk: u64,
    offset: u32,
}

impl Extent {
    fn end(&self) -> u32 {
        self.start + self.len
    }

    /// What of it lies in `from..upto`.
    fn cut(&self, from: u32, upto: u32) -> Option<Extent> {
        let (start, end) = (self.start.max(from), self.end().min(upto));
        (start < end).then(|| Extent { start, len: end - start, offset: self.offset + (start - self.start), ..*self })
    }
}

#[derive(Default)]
struct Page {
    /// None: it is only in the journal.
    extents: Option<Vec<Extent>>,
    stored: Option<PageRow>,
    /// It was asked for since [`Index::shrink`] looked last.
    used: Cell<bool>,
}

/// See the module.
#[derive(Default)]
pub struct Index {
    pages: BTreeMap<u64, Page>,
    dirty: BTreeSet<u64>,
    live: BTreeMap<u64, u64>,
    /// Bytes of encoded pages, by the chunk they lie in.
    page_bytes: BTreeMap<u64, u64>,
    /// Moments at which it was frozen and not stored yet, in order. A page to store is in `left` of at most
    /// one of them: the last one before which it changed.
    frozen: VecDeque<Frozen>,
    /// Pages of the first moment that are being stored, as they were then: what is stored of them is older.
    storing: BTreeMap<u64, Option<IndexPage>>,
    /// Pages that changes under way need here, whether they are there yet or not.
    pins: BTreeMap<u64, u32>,
    /// Extents of the pages that are here.
    extents_here: usize,
    /// Where [`Index::shrink`] goes on.
    hand: u64,
}

/// The index as it was.
#[derive(Default)]
struct Frozen {
    moment: Moment,
    /// Pages to store that have not changed since.
    left: BTreeSet<u64>,
    /// Those that have, as they were.
    early: BTreeMap<u64, Option<IndexPage>>,
    live: BTreeMap<u64, u64>,
}

/// A moment of a volume: after a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// The record's sequence number.
    pub sequence: u64,
    /// Chunks of a lower order hold no later record.
    pub from_order: u64,
}

impl Page {
    fn encoded(&self) -> Option<IndexPage> {
        encoded(self.extents.as_ref().expect("a page that was changed is here"))
    }
}

fn encoded(extents: &[Extent]) -> Option<IndexPage> {
    let page = IndexPage {
        starts: extents.iter().map(|extent| extent.start).collect(),
        lens: extents.iter().map(|extent| extent.len).collect(),
        chunks: extents.iter().map(|extent| extent.chunk).collect(),
        offsets: extents.iter().map(|extent| extent.offset).collect(),
    };
    (!extents.is_empty()).then_some(page)
}

fn add(sums: &mut BTreeMap<u64, u64>, chunk: u64, bytes: u64) {
    *sums.entry(chunk).or_insert(0) += bytes;
}

fn take(sums: &mut BTreeMap<u64, u64>, chunk: u64, bytes: u64) {
    if let Some(sum) = sums.get_mut(&chunk) {
        assert!(*sum >= bytes, "more is taken from a chunk than was alive there");
        *sum -= bytes;
        if *sum == 0 {
            sums.remove(&chunk);
        }
    }
}

/// The pages that a range touches, with the part in each.
fn parts(start: u64, len: u64) -> impl Iterator<Item = (u64, u32, u32)> {
    let end = start + len;
    let pages = if len == 0 { 0..0 } else { start / PAGE_SPAN..(end - 1) / PAGE_SPAN + 1 };
    pages.map(move |page| {
        let base = page * PAGE_SPAN;
        (page, (start.max(base) - base) as u32, (end.min(base + PAGE_SPAN) - base) as u32)
    })
}

impl Index {
    /// The index of a root that was read back. Its pages are not here yet.
    ///
    /// # Errors
    /// A root that no index could have written.
    pub fn from_root(root: &IndexRoot) -> Result<Index, BadPage> {
        let mut index = Index::default();
        for row in &root.pages {
            add(&mut index.page_bytes, row.chunk, row.len.into());
            let page = Page { stored: Some(*row), ..Page::default() };
            if index.pages.insert(row.page, page).is_some() {
                return Err(BadPage { page: row.page, why: "named twice" });
            }
        }
        index.live = root.live.iter().map(|row| (row.chunk, row.bytes)).collect();
        Ok(index)
    }

    /// Remembers the index as it is now, to be stored.
    pub fn freeze(&mut self, moment: Moment) {
        let left = std::mem::take(&mut self.dirty);
        self.frozen.push_back(Frozen { moment, left, early: BTreeMap::new(), live: self.live.clone() });
    }

    /// The first moment that is not stored yet: pages to store follow by [`Index::next_page`], then comes
    /// [`Index::root`].
    pub fn first_frozen(&self) -> Option<Moment> {
        self.frozen.front().map(|frozen| frozen.moment)
    }

    /// The last moment that is not stored yet.
    pub fn last_frozen(&self) -> Option<Moment> {
        self.frozen.back().map(|frozen| frozen.moment)
    }

    /// The next page to store; [`Index::stored`] or [`Index::put_back`] follows. An empty page has no bytes
    /// to store.
    pub fn next_page(&mut self) -> Option<(u64, Option<IndexPage>)> {
        let frozen = self.frozen.front_mut()?;
        let (number, page) = match frozen.early.pop_first() {
            Some(early) => early,
            None => {
                let number = frozen.left.pop_first()?;
                (number, self.pages.get(&number).and_then(Page::encoded))
            }
        };
        self.storing.insert(number, page.clone());
        Some((number, page))
    }

    /// Pages that were to be stored and are not, because that failed or was given up, are the next ones again.
    pub fn put_back(&mut self) {
        if let Some(frozen) = self.frozen.front_mut() {
            frozen.early.append(&mut self.storing);
        }
    }

    /// Whether a page is not stored as it is.
    fn waits(&self, number: u64) -> bool {
        let is_of = |frozen: &Frozen| frozen.left.contains(&number) || frozen.early.contains_key(&number);
        self.dirty.contains(&number) || self.storing.contains_key(&number) || self.frozen.iter().any(is_of)
    }

    /// The root of the index as it was at the first moment, all of whose pages are stored, and how many
    /// bytes it maps.
    pub fn root(&self) -> (IndexRoot, u64) {
        let live = self.frozen.front().map_or(&self.live, |frozen| &frozen.live);
        let root = IndexRoot {
            pages: self.pages.values().filter_map(|page| page.stored).collect(),
            live: live.iter().map(|(chunk, bytes)| LiveRow { chunk: *chunk, bytes: *bytes }).collect(),
        };
        (root, live.values().sum())
    }

    /// The first moment is stored, root and all.
    pub fn thaw(&mut self) {
        self.frozen.pop_front();
    }

    /// Whether the index needs a chunk now, or did at a moment that is not stored yet.
    pub fn needs(&self, chunk: u64) -> bool {
        self.live_of(chunk) > 0 || self.frozen.iter().any(|frozen| frozen.live.contains_key(&chunk))
    }

    /// Whether all that it needed at the first moment lies in chunks for which this holds.
    pub fn all_in(&self, is_own: impl Fn(u64) -> bool) -> bool {
        let live = self.frozen.front().map_or(&self.live, |frozen| &frozen.live);
        self.page_bytes.keys().chain(live.keys()).all(|chunk| is_own(*chunk))
    }

    /// The pages of a range stay here until [`Index::unpin`], once they are.
    pub fn pin(&mut self, start: u64, len: u64) {
        for (number, ..) in parts(start, len) {
            *self.pins.entry(number).or_insert(0) += 1;
        }
    }

    /// See [`Index::pin`].
    pub fn unpin(&mut self, start: u64, len: u64) {
        for (number, ..) in parts(start, len) {
            let Some(pins) = self.pins.get_mut(&number) else { continue };
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&number);
            }
        }
    }

    /// Lets pages go that are stored as they are and were not asked for since it looked last, until no more
    /// extents than that are here, or all pages were looked at twice.
    pub fn shrink(&mut self, extents_max: usize) {
        let mut looks = self.pages.len() * 2;
        while self.extents_here > extents_max && looks > 0 {
            looks -= 1;
            let next = self.pages.range(self.hand..).next().or_else(|| self.pages.iter().next());
            let Some(number) = next.map(|(number, _)| *number) else { return };
            self.hand = number + 1;
            let is_kept = self.waits(number);
            let Some(page) = self.pages.get_mut(&number) else { return };
            if is_kept || self.pins.contains_key(&number) || page.stored.is_none() || page.used.replace(false) {
                continue;
            }
            if let Some(extents) = page.extents.take() {
                self.extents_here -= extents.len();
            }
        }
    }

    /// Numbers of all pages.
    pub fn page_numbers(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    /// Where a page is stored as it is now.
    pub fn stored_at(&self, number: u64) -> Option<PageRow> {
        if self.waits(number) { None } else { self.pages.get(&number)?.stored }
    }

    /// Pages of the range that must be fetched and [`Index::install`]ed before the range is asked or changed.
    pub fn absent(&self, start: u64, len: u64) -> Vec<PageRow> {
        let Some((first, ..)) = parts(start, len).next() else { return Vec::new() };
        let last = (start + len - 1) / PAGE_SPAN;
        let pages = self.pages.range(first..=last);
        pages.filter(|(_, page)| page.extents.is_none()).filter_map(|(_, page)| page.stored).collect()
    }

    /// Takes in a page that was fetched from `from`. One that has come meanwhile, or lies elsewhere by now,
    /// is left as it is.
    ///
    /// # Errors
    /// It is not a page.
    pub fn install(&mut self, from: &PageRow, bytes: &IndexPage) -> Result<(), BadPage> {
        let bad = |why| BadPage { page: from.page, why };
        let count = bytes.starts.len();
        if bytes.lens.len() != count || bytes.chunks.len() != count || bytes.offsets.len() != count {
            return Err(bad("its lists are not equally long"));
        }
        let mut extents = Vec::with_capacity(count);
        let mut upto = 0u64;
        for at in 0..count {
            let (start, len, offset) = (bytes.starts[at], bytes.lens[at], bytes.offsets[at]);
            if u64::from(start) < upto || len == 0 || u64::from(start) + u64::from(len) > PAGE_SPAN {
                return Err(bad("its extents overlap or lie outside"));
            }
            if offset.checked_add(len).is_none() {
                return Err(bad("an extent lies beyond any chunk"));
            }
            upto = u64::from(start) + u64::from(len);
            extents.push(Extent { start, len, chunk: bytes.chunks[at], offset });
        }
        if let Some(page) = self.pages.get_mut(&from.page)
            && page.extents.is_none()
            && page.stored.as_ref() == Some(from)
        {
            self.extents_here += extents.len();
            page.used.set(true);
            page.extents = Some(extents);
        }
        Ok(())
    }

    /// The range lies there now.
    pub fn set(&mut self, start: u64, len: u64, chunk: u64, offset: u64) {
        let mut offset = u32::try_from(offset).expect("a chunk has less than 4 GiB");
        for (number, from, upto) in parts(start, len) {
            let new = Extent { start: from, len: upto - from, chunk, offset };
            self.exchange(number, from, upto, &[new]);
            offset += upto - from;
        }
    }

    /// The range reads as zeroes now.
    pub fn clear(&mut self, start: u64, len: u64) {
        let Some((first, ..)) = parts(start, len).next() else { return };
        let last = (start + len - 1) / PAGE_SPAN;
        let there: Vec<u64> = self.pages.range(first..=last).map(|(number, _)| *number).collect();
        for number in there {
            let base = number * PAGE_SPAN;
            let (from, upto) = (start.max(base) - base, (start + len).min(base + PAGE_SPAN) - base);
            self.exchange(number, from as u32, upto as u32, &[]);
        }
    }

    /// What of the range still lies in chunk `from` lies at its copy now, which begins at `offset` of
    /// `chunk`. Answers how many bytes that were.
    pub fn set_moved(&mut self, from: u64, start: u64, len: u64, chunk: u64, offset: u64) -> u64 {
        let still: Vec<Piece> =
            self.lookup(start, len).into_iter().filter(|piece| piece.at.is_some_and(|(at, _)| at == from)).collect();
        for piece in &still {
            self.set(piece.start, piece.len, chunk, offset + (piece.start - start));
        }
        still.iter().map(|piece| piece.len).sum()
    }

    /// Where the bytes of the range lie: pieces in order, without gaps. Neighbours that lie side by side in
    /// a chunk are one.
    pub fn lookup(&self, start: u64, len: u64) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut push = |piece: Piece| {
            if let Some(last) = pieces.last_mut() {
                let goes_on = match (last.at, piece.at) {
                    (None, None) => true,
                    (Some((chunk, offset)), Some(next)) => (chunk, offset + last.len) == next,
                    _ => false,
                };
                if goes_on {
                    last.len += piece.len;
                    return;
                }
            }
            pieces.push(piece);
        };
        for (number, from, upto) in parts(start, len) {
            let base = number * PAGE_SPAN;
            let mut at = from;
            if let Some(page) = self.pages.get(&number) {
                let extents = page.extents.as_ref().expect("a page is fetched before it is asked");
                page.used.set(true);
                let first = extents.partition_point(|extent| extent.end() <= from);
                for extent in extents[first..].iter().map_while(|extent| extent.cut(from, upto)) {
                    if extent.start > at {
                        push(Piece { start: base + u64::from(at), len: u64::from(extent.start - at), at: None });
                    }
                    push(Piece {
                        start: base + u64::from(extent.start),
                        len: extent.len.into(),
                        at: Some((extent.chunk, extent.offset.into())),
                    });
                    at = extent.end();
                }
            }
            if at < upto {
                push(Piece { start: base + u64::from(at), len: u64::from(upto - at), at: None });
            }
        }
        pieces
    }

    /// Puts `new` (at most one extent, filling the range) in the place of what a page maps there.
    fn exchange(&mut self, number: u64, from: u32, upto: u32, new: &[Extent]) {
        let page = self.pages.entry(number).or_insert_with(|| Page { extents: Some(Vec::new()), ..Page::default() });
        let extents = page.extents.as_mut().expect("a page is fetched before it is changed");
        let first = extents.partition_point(|extent| extent.end() <= from);
        let last = first + extents[first..].partition_point(|extent| extent.start < upto);
        let old: Vec<Extent> = extents[first..last].to_vec();
        if old.is_empty() && new.is_empty() {
            return;
        }
        if let Some(frozen) = self.frozen.iter_mut().rev().find(|frozen| frozen.left.contains(&number)) {
            frozen.left.remove(&number);
            frozen.early.insert(number, encoded(extents));
        }
        let before = extents.len();
        let left = old.first().and_then(|extent| extent.cut(0, from));
        let right = old.last().and_then(|extent| extent.cut(upto, u32::MAX));
        let gone = old.iter().filter_map(|extent| extent.cut(from, upto));
        for extent in gone {
            take(&mut self.live, extent.chunk, extent.len.into());
        }
        for extent in new {
            add(&mut self.live, extent.chunk, extent.len.into());
        }
        extents.splice(first..last, left.into_iter().chain(new.iter().copied()).chain(right));
        self.extents_here = self.extents_here + extents.len() - before;
        self.dirty.insert(number);
    }

    /// Bytes that the index maps.
    pub fn used(&self) -> u64 {
        self.live.values().sum()
    }

    /// Bytes of a chunk that are alive: extents of the volume and pages of this index.
    pub fn live_of(&self, chunk: u64) -> u64 {
        self.live.get(&chunk).copied().unwrap_or(0) + self.page_bytes.get(&chunk).copied().unwrap_or(0)
    }

    /// Whether everything is stored.
    pub fn is_stored(&self) -> bool {
        self.dirty.is_empty() && self.frozen.is_empty()
    }

    /// A page lies there now, or nowhere if it was empty.
    pub fn stored(&mut self, number: u64, row: Option<PageRow>) {
        self.storing.remove(&number);
        let waits = self.waits(number);
        let Some(page) = self.pages.get_mut(&number) else { return };
        if let Some(old) = std::mem::replace(&mut page.stored, row) {
            take(&mut self.page_bytes, old.chunk, old.len.into());
        }
        if let Some(new) = row {
            add(&mut self.page_bytes, new.chunk, new.len.into());
        } else if page.extents.as_ref().is_some_and(Vec::is_empty) && !waits {
            self.pages.remove(&number);
        }
    }

    /// Pages that lie in a chunk: they are stored anew, so that it can go. They must be here.
    pub fn pages_in(&self, chunk: u64) -> Vec<PageRow> {
        if !self.page_bytes.contains_key(&chunk) {
            return Vec::new();
        }
        self.pages.values().filter_map(|page| page.stored).filter(|row| row.chunk == chunk).collect()
    }

    /// Has a page stored anew.
    pub fn touch(&mut self, number: u64) {
        // One that waits for its moment is: a later moment must not have it too.
        let waits = self.frozen.iter().any(|frozen| frozen.left.contains(&number));
        if !waits && self.pages.get(&number).is_some_and(|page| page.extents.is_some()) {
            self.dirty.insert(number);
        }
    }
}

#[cfg(test)]
mod tests;
