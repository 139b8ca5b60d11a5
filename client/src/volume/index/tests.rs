//! The index against a map with an entry for each byte, and what no model draws.

use super::*;

/// A generator of numbers that is enough for tests.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The region that is watched lies around the border of two pages.
const BASE: u64 = PAGE_SPAN - 300;
const LEN: u64 = 600;

type Model = Vec<Option<(u64, u64)>>;

fn seen(index: &Index) -> Model {
    let mut model = Vec::new();
    let mut at = BASE;
    for piece in index.lookup(BASE, LEN) {
        assert_eq!(piece.start, at, "pieces have gaps");
        at += piece.len;
        model.extend((0..piece.len).map(|byte| piece.at.map(|(chunk, offset)| (chunk, offset + byte))));
    }
    assert_eq!(at, BASE + LEN);
    model
}

fn lives(model: &Model) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for (chunk, _) in model.iter().flatten() {
        add(&mut sums, *chunk, 1);
    }
    sums
}

/// Stores the first moment; answers the index that is read back from its root.
fn again(index: &mut Index, pages: &mut BTreeMap<(u64, u32), IndexPage>, draw: &mut Draw) -> Index {
    while let Some((number, page)) = index.next_page() {
        if page.is_some() && draw.below(9) == 0 {
            index.put_back();
            continue;
        }
        let row = page.map(|page| {
            let row = PageRow { page: number, chunk: 1000, offset: pages.len() as u32, len: 10 };
            pages.insert((row.chunk, row.offset), page);
            row
        });
        index.stored(number, row);
    }
    let (root, used) = index.root();
    index.thaw();
    let mut back = Index::from_root(&root).expect("root");
    assert_eq!(back.used(), used);
    fetched(&mut back, pages);
    back
}

fn fetched(index: &mut Index, pages: &BTreeMap<(u64, u32), IndexPage>) {
    for row in index.absent(0, 10 * PAGE_SPAN) {
        index.install(&row, &pages[&(row.chunk, row.offset)]).expect("page");
    }
    let here = index.pages.values().filter_map(|page| page.extents.as_ref()).map(Vec::len).sum::<usize>();
    assert_eq!(index.extents_here, here);
}

fn story(seed: u64, steps: u64) {
    let mut draw = Draw(seed);
    let (mut index, mut model): (Index, Model) = (Index::default(), vec![None; LEN as usize]);
    let (mut pages, mut saved) = (BTreeMap::new(), VecDeque::new());
    for step in 0..steps {
        let from = draw.below(LEN);
        let most = (LEN - from).min(1 + draw.below(200));
        let len = 1 + draw.below(most);
        let range = from as usize..(from + len) as usize;
        let (chunk, offset) = (1 + draw.below(5), draw.below(1 << 20));
        match draw.below(12) {
            0..5 => {
                index.set(BASE + from, len, chunk, offset);
                model[range].iter_mut().enumerate().for_each(|(at, byte)| *byte = Some((chunk, offset + at as u64)));
            }
            5..7 => {
                index.clear(BASE + from, len);
                model[range].fill(None);
            }
            7..9 => {
                let old = 1 + draw.below(5);
                let mut moved = 0;
                for (at, byte) in model[range].iter_mut().enumerate() {
                    if byte.is_some_and(|(chunk, _)| chunk == old) {
                        (*byte, moved) = (Some((chunk + 10, offset + at as u64)), moved + 1);
                    }
                }
                assert_eq!(index.set_moved(old, BASE + from, len, chunk + 10, offset), moved);
            }
            9 => {
                index.freeze(Moment { sequence: step, from_order: 0 });
                saved.push_back((step, model.clone()));
            }
            10 => {
                // What was there at that moment comes back, whatever came after it.
                if let Some((moment, was)) = saved.pop_front() {
                    assert_eq!(index.first_frozen().map(|first| first.sequence), Some(moment));
                    let back = again(&mut index, &mut pages, &mut draw);
                    assert_eq!((&seen(&back), &back.live), (&was, &lives(&was)), "seed {seed}, step {step}");
                    if draw.below(4) == 0 {
                        (index, model, saved) = (back, was, VecDeque::new());
                    }
                }
            }
            _ => {
                index.pin(BASE + from, len);
                index.shrink(0);
                assert!(index.absent(BASE + from, len).is_empty(), "seed {seed}, step {step}: pinned");
                index.unpin(BASE + from, len);
                index.shrink(draw.below(4) as usize);
                fetched(&mut index, &pages);
            }
        }
        assert_eq!(seen(&index), model, "seed {seed}, step {step}");
        assert_eq!(index.live, lives(&model), "seed {seed}, step {step}");
        assert_eq!(index.used(), model.iter().flatten().count() as u64);
    }
    index.freeze(Moment::default());
    saved.push_back((0, model.clone()));
    for (_, was) in saved {
        let back = again(&mut index, &mut pages, &mut draw);
        assert_eq!((&seen(&back), &back.live), (&was, &lives(&was)), "seed {seed}");
    }
    assert!(index.is_stored());
    assert_eq!(seen(&index), model);
}

#[test]
fn index_does_what_a_map_of_bytes_does() {
    for seed in 0..400 {
        story(seed, 60);
    }
}

#[test]
fn page_that_could_not_be_stored_is_stored_as_it_was() {
    let mut index = Index::default();
    index.set(0, 10, 1, 0);
    index.set(PAGE_SPAN, 10, 1, 10);
    index.freeze(Moment { sequence: 7, from_order: 3 });
    let (_, page) = index.next_page().expect("page");
    let page = page.expect("not empty");
    index.set(0, 5, 2, 0);
    index.put_back();
    assert_eq!(index.next_page(), Some((0, Some(page))));
    index.stored(0, Some(PageRow { page: 0, chunk: 9, offset: 0, len: 4 }));
    let (number, _) = index.next_page().expect("page");
    index.stored(number, Some(PageRow { page: number, chunk: 9, offset: 4, len: 4 }));
    assert_eq!(index.next_page(), None);
    let (root, used) = index.root();
    assert_eq!((root.pages.len(), used, index.live_of(9)), (2, 20, 8));
    assert_eq!(root.live, [LiveRow { chunk: 1, bytes: 20 }], "as it was");
    index.clear(0, 2 * PAGE_SPAN);
    assert!(index.needs(1), "for the moment that is not stored yet");
    index.thaw();
    assert!(!index.needs(1) && index.needs(9) && !index.is_stored());
}

#[test]
fn page_touched_between_two_moments_is_stored_as_it_was_at_the_first() {
    let mut index = Index::default();
    index.set(0, 10, 1, 0);
    index.freeze(Moment { sequence: 1, from_order: 0 });
    index.touch(0);
    index.freeze(Moment { sequence: 2, from_order: 0 });
    index.set(0, 10, 2, 0);
    let (_, page) = index.next_page().expect("page");
    assert_eq!(page.expect("not empty").chunks, [1]);
}

#[test]
fn page_stays_here_while_it_is_being_stored() {
    let mut index = Index::default();
    let store = |index: &mut Index, offset| {
        let (number, _) = index.next_page().expect("page");
        index.stored(number, Some(PageRow { page: number, chunk: 9, offset, len: 4 }));
    };
    index.set(0, 10, 1, 0);
    index.freeze(Moment::default());
    store(&mut index, 0);
    index.thaw();
    index.set(0, 10, 2, 0);
    index.freeze(Moment::default());
    let is_here = |index: &mut Index| {
        index.shrink(0);
        index.shrink(0);
        index.absent(0, 10).is_empty()
    };
    let under_way = index.next_page();
    assert!(under_way.is_some() && is_here(&mut index), "what is stored is older");
    index.put_back();
    assert!(is_here(&mut index) && index.stored_at(0).is_none());
    store(&mut index, 4);
    assert!(!is_here(&mut index));
}

#[test]
fn what_is_no_page_is_refused() {
    let row = PageRow { page: 0, chunk: 9, offset: 0, len: 4 };
    let root = IndexRoot { pages: vec![row], live: vec![] };
    let page = |starts: &[u32], lens: &[u32]| IndexPage {
        starts: starts.to_vec(),
        lens: lens.to_vec(),
        chunks: vec![1; starts.len()],
        offsets: vec![0; starts.len()],
    };
    for bad in [
        page(&[0, 5], &[10, 5]),
        page(&[0], &[0]),
        page(&[0], &[PAGE_SPAN as u32 + 1]),
        page(&[0, 1], &[1]),
        IndexPage { offsets: vec![u32::MAX], ..page(&[0], &[10]) },
    ] {
        assert!(Index::from_root(&root).expect("root").install(&row, &bad).is_err(), "{bad:?}");
    }
    assert!(Index::from_root(&IndexRoot { pages: vec![row, row], live: vec![] }).is_err());
}
