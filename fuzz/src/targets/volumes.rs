//! What a volume's journal holds: records and the index, foreign or damaged. They are refused or read, never a
//! panic; what is read is written back the same.

use std::collections::BTreeMap;

use client::volume::index::{Index, Moment, PAGE_SPAN};
use proto::journal::{ENTRY_LEN, Entry, EntryKind, HEAD_LEN, Head, decode_head, encode_head, peek_head, record_kind};
use proto::volume::{IndexPage, IndexRoot, LiveRow, PageRow};
use types::checksum::crc64;

use crate::input::Input;

/// Pages of a case.
const PAGES: u64 = 4;

/// Records.
pub fn journal(input: &mut Input) {
    let entries: Vec<Entry> = (0..input.below(6)).map(|_| entry(input)).collect();
    let written = |entry: &&Entry| entry.kind == EntryKind::Write;
    let data_len: u64 = entries.iter().filter(written).map(|entry| u64::from(entry.len)).sum();
    let head = Head {
        kind: record_kind::CHANGES + input.below(3) as u8,
        volume: input.number(),
        epoch: input.number(),
        sequence: input.number(),
        entries: entries.len() as u16,
        data_len: data_len as u32,
        moved_from: input.number(),
    };
    let mut bytes = encode_head(&head, &entries);
    if data_len <= u32::MAX.into() {
        assert_eq!(decode_head(&bytes), Ok((head, entries)), "a record reads back");
    }
    input.damage(&mut bytes);
    if input.once_in(2) && bytes.len() >= HEAD_LEN {
        forge(&mut bytes);
    }
    let Ok(peeked) = peek_head(&bytes) else {
        assert!(decode_head(&bytes).is_err(), "what is no head is no record");
        return;
    };
    if let Ok((head, entries)) = decode_head(&bytes) {
        assert_eq!(head, peeked);
        let len = HEAD_LEN + ENTRY_LEN * entries.len();
        let again = encode_head(&head, &entries);
        assert_eq!(decode_head(&again), Ok((head, entries.clone())), "what was read is written back");
        assert!(head.record_len() >= len as u64);
        replay(&entries);
    }
}

fn entry(input: &mut Input) -> Entry {
    let kind = if input.once_in(3) { EntryKind::Clear } else { EntryKind::Write };
    let len = if input.once_in(10) { input.number() as u32 } else { input.below(100_000) as u32 };
    Entry { kind, start: input.number() & ((1 << 56) - 1), len }
}

/// Right marks and checksum over what was damaged.
fn forge(bytes: &mut [u8]) {
    bytes[..4].copy_from_slice(b"BXVJ");
    let count = usize::from(u16::from_le_bytes([bytes[6], bytes[7]])) % 8;
    bytes[6..8].copy_from_slice(&(count as u16).to_le_bytes());
    let end = (HEAD_LEN + ENTRY_LEN * count).min(bytes.len());
    bytes[48..56].fill(0);
    let sum = crc64(&bytes[..end]);
    bytes[48..56].copy_from_slice(&sum.to_le_bytes());
}

/// Carries out what a record says, as a take-over does.
fn replay(entries: &[Entry]) {
    let (mut index, mut at) = (Index::default(), 0u64);
    for entry in entries {
        let (start, len) = (entry.start, u64::from(entry.len));
        // A record lies in its chunk, and a chunk has less than 4 GiB.
        if at + len > 1 << 30 || entry.kind == EntryKind::Clear && len > 64 << 20 {
            return;
        }
        match entry.kind {
            EntryKind::Write => index.set(start, len, 1, at),
            EntryKind::Clear => index.clear(start, len),
        }
        at += if entry.kind == EntryKind::Write { len } else { 0 };
        check(&index, start, len.min(64 << 20));
    }
}

/// A lookup is pieces in order, without gaps.
fn check(index: &Index, start: u64, len: u64) {
    let mut at = start;
    for piece in index.lookup(start, len) {
        assert!(piece.start == at && piece.len > 0, "pieces have no gaps");
        at += piece.len;
    }
    assert_eq!(at, start + len, "pieces reach to the end");
}

/// Roots and pages.
pub fn index(input: &mut Input) {
    let foreign: IndexRoot =
        proto::decode(&input.protobuf(12, |bytes| proto::decode::<IndexRoot>(bytes).is_ok())).expect("it decoded");
    drop(Index::from_root(&foreign).map(|index| (index.stored_at(0), index.live_of(1), index.is_stored())));

    let row = |page| PageRow { page, chunk: 9, offset: page as u32, len: 10 };
    let pages: Vec<(PageRow, IndexPage)> = (0..PAGES).map(|number| (row(number), page(input))).collect();
    let root = |live: Vec<LiveRow>| IndexRoot { pages: pages.iter().map(|(row, _)| *row).collect(), live };
    // Which of them can be, and what they hold: an index whose sums are right.
    let mut tried = Index::from_root(&root(Vec::new())).expect("pages are named once");
    let good: Vec<bool> = pages.iter().map(|(row, page)| tried.install(row, page).is_ok()).collect();
    let mut live: BTreeMap<u64, u64> = BTreeMap::new();
    for ((_, page), _) in pages.iter().zip(&good).filter(|(_, is_good)| **is_good) {
        for (chunk, len) in page.chunks.iter().zip(&page.lens) {
            *live.entry(*chunk).or_default() += u64::from(*len);
        }
    }
    let live = live.into_iter().map(|(chunk, bytes)| LiveRow { chunk, bytes }).collect();
    let mut index = Index::from_root(&root(live)).expect("pages are named once");
    for (row, page) in &pages {
        let _ = index.install(row, page);
    }
    for _ in 0..input.below(12) {
        let number = input.below(PAGES as usize);
        if !good[number] {
            assert!(index.absent(number as u64 * PAGE_SPAN, 1).len() == 1, "a bad page is not taken over");
            continue;
        }
        let from = input.any() % PAGE_SPAN;
        let len = 1 + input.any() % (PAGE_SPAN - from);
        let start = number as u64 * PAGE_SPAN + from;
        match input.below(5) {
            0 => index.set(start, len, 1 + input.any() % 4, input.any() % (1 << 31)),
            1 => index.clear(start, len),
            2 => _ = index.set_moved(1 + input.any() % 4, start, len, 7, input.any() % (1 << 31)),
            3 => stored(&mut index),
            _ => check(&index, start, len),
        }
        assert!(index.used() <= PAGES * PAGE_SPAN, "no byte is alive twice");
    }
    stored(&mut index);
}

/// Stores all that has changed, as a checkpoint does.
fn stored(index: &mut Index) {
    index.freeze(Moment::default());
    while let Some((number, page)) = index.next_page() {
        let row = page.map(|page| {
            let bytes = proto::encode(&page);
            assert_eq!(proto::decode::<IndexPage>(&bytes).as_ref(), Ok(&page), "a page reads back");
            PageRow { page: number, chunk: 9, offset: number as u32, len: 10 }
        });
        index.stored(number, row);
    }
    let (root, used) = index.root();
    index.thaw();
    let again = Index::from_root(&root).expect("our own root");
    assert_eq!(again.used(), used);
}

/// A page that mostly can be.
fn page(input: &mut Input) -> IndexPage {
    if input.once_in(8) {
        let bytes = input.protobuf(12, |bytes| proto::decode::<IndexPage>(bytes).is_ok());
        return proto::decode(&bytes).expect("it decoded");
    }
    let (mut page, mut at) = (IndexPage::default(), 0u64);
    for _ in 0..input.below(12) {
        let start = at + input.any() % 100_000;
        let len = input.any() % 300_000;
        let last = if input.once_in(40) { u64::MAX } else { PAGE_SPAN };
        if start + len > last {
            break;
        }
        page.starts.push(start as u32);
        page.lens.push(len.max(1).min(PAGE_SPAN - start.min(PAGE_SPAN - 1)) as u32);
        page.chunks.push(1 + input.any() % 4);
        page.offsets.push(if input.once_in(30) { input.number() as u32 } else { (input.any() % (1 << 31)) as u32 });
        at = start + len.max(1);
    }
    if input.once_in(10) {
        page.offsets.pop();
    }
    page
}
