//! Stripes: data in columns and the parity beside them, computed once and looked at again.
//!
//! A processor that computes wrongly now and then would give parity that nobody misses until a disk is
//! lost. So a window of every append is computed back by the plain arithmetic, and every 64th append as
//! a whole; what differs is computed anew that way, counted and told.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;
use erasure::Coder;
use erasure::kernel::Kernel;
use platform::Platform;
use platform::buffer::Buffer;
use platform::planted::PlantedBug;
use types::redundancy::Redundancy;

use super::layout::gather;

/// Bytes of a column that are computed back.
const WINDOW: usize = 4096;
/// One append of so many is computed back as a whole.
const WHOLE_EVERY: u64 = 64;

/// Computes parity. One for each process.
#[derive(Default)]
pub struct Parity {
    coders: RefCell<BTreeMap<(u8, u8), (Coder, Coder)>>,
    appends: Cell<u64>,
    wrong: Cell<u64>,
}

impl Parity {
    /// What each shard takes of `data` (whole stripes of a policy with parity), by index.
    pub fn columns(&self, platform: &Platform, policy: Redundancy, cell: usize, data: &Bytes) -> Vec<Bytes> {
        let Redundancy::Erasure { data: k, parity: m } = policy else {
            return vec![data.clone(); policy.shards()];
        };
        let (coder, plain) = self.coders(k, m);
        let (k, m) = (usize::from(k), usize::from(m));
        assert_eq!(data.len() % (k * cell), 0, "whole stripes only");
        let len = data.len() / k;
        let mut columns: Vec<Buffer> = (0..k)
            .map(|column| {
                let mut out = Buffer::zeroed(len);
                gather(k, cell, column, data, &mut out);
                out
            })
            .collect();
        columns.extend((0..m).map(|_| Buffer::zeroed(len)));
        encode(&coder, k, &mut columns);
        let number = self.appends.get();
        self.appends.set(number + 1);
        let window = if number.is_multiple_of(WHOLE_EVERY) || len <= WINDOW {
            0..len
        } else {
            let at = platform.random().below((len - WINDOW) as u64 + 1) as usize;
            at..at + WINDOW
        };
        if platform.planted(PlantedBug::ParityWrong) {
            columns[k][0] ^= 1;
        } else if !is_right(&plain, number, &columns, window) {
            self.wrong.set(self.wrong.get() + 1);
            tracing::error!("parity came out wrong: this machine's processor or memory cannot be trusted");
            encode(&plain, k, &mut columns);
        }
        columns.into_iter().map(Buffer::freeze).collect()
    }

    /// The coder of a policy, and the one that uses no special instructions.
    fn coders(&self, data: u8, parity: u8) -> (Coder, Coder) {
        let mut coders = self.coders.borrow_mut();
        let made = coders.entry((data, parity)).or_insert_with(|| {
            let (k, m) = (usize::from(data), usize::from(parity));
            match (Coder::new(k, m), Coder::with_kernel(k, m, Kernel::Portable)) {
                (Ok(coder), Ok(plain)) => (coder, plain),
                (Err(error), _) | (_, Err(error)) => {
                    unreachable!("a policy was parsed that cannot be coded: {error}")
                }
            }
        });
        made.clone()
    }

    /// The coder of a policy.
    pub fn coder(&self, data: u8, parity: u8) -> Coder {
        self.coders(data, parity).0
    }

    /// Appends whose parity came out wrong.
    pub fn wrong(&self) -> u64 {
        self.wrong.get()
    }
}

/// Computes the parity columns, those from `data` on.
fn encode(coder: &Coder, data: usize, columns: &mut [Buffer]) {
    let (sources, targets) = columns.split_at_mut(data);
    let sources: Vec<&[u8]> = sources.iter().map(|column| &column[..]).collect();
    let mut targets: Vec<&mut [u8]> = targets.iter_mut().map(|column| &mut column[..]).collect();
    if let Err(error) = coder.encode(&sources, &mut targets) {
        unreachable!("equal lengths were given: {error}");
    }
}

/// Computes a window of one data column back from the others and the parity, another choice each time.
fn is_right(plain: &Coder, number: u64, columns: &[Buffer], window: std::ops::Range<usize>) -> bool {
    let (k, all) = (plain.data(), columns.len());
    let missing = (number % k as u64) as usize;
    // As many of the last as are needed, so that every parity column takes its turn.
    let turn = (number / k as u64) as usize;
    let parity = (0..all - k).map(|at| k + (at + turn) % (all - k)).take(1);
    let data = (0..k).filter(|at| *at != missing);
    let sources: Vec<(usize, &[u8])> =
        data.chain(parity).map(|at| (at, &columns[at][window.start..window.end])).collect();
    let mut back = vec![0; window.len()];
    match plain.reconstruct(&sources, &mut [(missing, &mut back[..])]) {
        Ok(()) => back[..] == columns[missing][window],
        Err(error) => unreachable!("enough columns of equal length were given: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, Coder, Kernel, encode, is_right};

    #[test]
    fn wrong_byte_in_any_column_is_seen_where_it_is_looked_at() {
        let (k, m, len) = (4, 2, 64);
        let plain = Coder::with_kernel(k, m, Kernel::Portable).expect("coder");
        let column = |at: usize| Buffer::copy_of(&(0..len).map(|byte| (byte * 7 + at * 31) as u8).collect::<Vec<u8>>());
        let mut columns: Vec<Buffer> = (0..k + m).map(column).collect();
        encode(&plain, k, &mut columns);
        for number in 0..8 {
            assert!(is_right(&plain, number, &columns, 0..len));
        }
        for at in k..k + m {
            columns[at][9] ^= 4;
            let seen = (0..8).filter(|number| !is_right(&plain, *number, &columns, 0..len)).count();
            assert_eq!(seen, 4, "each parity column is looked at every other time");
            assert!((0..8).all(|number| is_right(&plain, number, &columns, 10..len)), "nothing is wrong there");
            columns[at][9] ^= 4;
        }
    }
}
