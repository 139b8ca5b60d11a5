//! Reed-Solomon coding of any `data + parity` up to 32 shards.
//!
//! The code is systematic: data shards are stored as they are, parity shards are linear
//! combinations of them over GF(2^8) (`field`), by a matrix that equals the one of the package
//! `reed-solomon-erasure` (`matrix`). Any `data` shards give back all others.
//!
//! Pure: no IO, no clock, no randomness. The fastest instructions of the machine are chosen when
//! the program runs (`kernel`); what comes out does not depend on the choice.
//!
//! What it leaves to others: whether the bytes given are the bytes stored (checksums are in
//! `types`), how a chunk is cut into stripes and cells, where shards lie.

mod field;

mod matrix;

pub mod kernel;

mod decode_cache;

use std::sync::Arc;

use crate::decode_cache::{DecodeCache, Erasure};
use crate::kernel::{Kernel, Plan};
use crate::matrix::Matrix;

/// Most shards of a code, data and parity together.
pub const SHARDS_MAX: usize = 32;

/// Matrices of reconstructions that a coder keeps (a few KiB each).
const DECODE_CACHE_ENTRIES_MAX: usize = 64;

/// Bytes of each shard that [`Coder::verify`] computes before it compares.
const VERIFY_BLOCK: usize = 16 * 1024;

/// Why a call was refused. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    /// The code does not exist: choose another redundancy.
    #[error("no code of {data}+{parity} shards: needs a data shard and at most 32 shards")]
    Shape { data: usize, parity: usize },
    /// A slice is lacking or left over: the caller's mistake.
    #[error("{given} shards given, {expected} expected")]
    ShardCount { given: usize, expected: usize },
    /// Shards of one call differ in length: the caller's mistake.
    #[error("a shard of {given} bytes among shards of {expected} bytes")]
    ShardLen { given: usize, expected: usize },
    /// A shard that the code does not have, or one named twice: the caller's mistake.
    #[error("shard {index} is named twice or is not one of {shards}")]
    ShardIndex { index: usize, shards: usize },
    /// Not enough shards to reconstruct: read another one.
    #[error("{given} shards given, {needed} are needed to reconstruct")]
    TooFewShards { given: usize, needed: usize },
}

/// Encodes and reconstructs shards of one code. A clone is cheap and shares the cache.
#[derive(Debug, Clone)]
pub struct Coder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data: usize,
    parity: usize,
    kernel: Kernel,
    generator: Matrix,
    encode: Plan,
    decode: DecodeCache,
}

impl Coder {
    /// A coder of `data` data shards and `parity` parity shards: `1 <= data`, `data + parity <= 32`.
    pub fn new(data: usize, parity: usize) -> Result<Coder, ErasureError> {
        Coder::with_kernel(data, parity, Kernel::best())
    }

    /// As [`Coder::new`] with chosen instructions, for tests and benchmarks.
    ///
    /// # Panics
    /// If this machine lacks the kernel.
    pub fn with_kernel(data: usize, parity: usize, kernel: Kernel) -> Result<Coder, ErasureError> {
        assert!(kernel.is_available(), "this machine lacks the kernel {}", kernel.name());
        if data == 0 || data > SHARDS_MAX || parity > SHARDS_MAX - data {
            return Err(ErasureError::Shape { data, parity });
        }
        let generator = Matrix::generator(data, parity);
        let encode = Plan::new(&generator.select_rows(data..data + parity));
        let decode = DecodeCache::new(DECODE_CACHE_ENTRIES_MAX);
        Ok(Coder { inner: Arc::new(Inner { data, parity, kernel, generator, encode, decode }) })
    }

    /// Count of data shards.
    pub fn data(&self) -> usize {
        self.inner.data
    }

    /// Count of parity shards.
    pub fn parity(&self) -> usize {
        self.inner.parity
    }

    /// Count of all shards.
    pub fn shards(&self) -> usize {
        self.inner.data + self.inner.parity
    }

    /// Computes all parity shards. All slices have one length (any, also 0); what `parity` held
    /// before does not matter.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), ErasureError> {
        check_count(data.len(), self.inner.data)?;
        check_count(parity.len(), self.inner.parity)?;
        check_lens(data[0].len(), data.iter().map(|shard| shard.len()))?;
        check_lens(data[0].len(), parity.iter().map(|shard| shard.len()))?;
        self.inner.encode.multiply(self.inner.kernel, data, parity);
        Ok(())
    }

    /// Computes the `missing` shards (data or parity, in any order) from the `present` ones, of
    /// which any `data` suffice; more are ignored, data shards are preferred. Shards named in
    /// neither list are not made. All slices have one length.
    pub fn reconstruct(
        &self,
        present: &[(usize, &[u8])],
        missing: &mut [(usize, &mut [u8])],
    ) -> Result<(), ErasureError> {
        let needed = self.inner.data;
        let mut seen = 0u32;
        for index in present.iter().map(|(index, _)| *index).chain(missing.iter().map(|(index, _)| *index)) {
            self.mark(&mut seen, index)?;
        }
        if missing.is_empty() {
            return Ok(());
        }
        if present.len() < needed {
            return Err(ErasureError::TooFewShards { given: present.len(), needed });
        }
        let len = present[0].1.len();
        check_lens(len, present.iter().map(|(_, shard)| shard.len()))?;
        check_lens(len, missing.iter().map(|(_, shard)| shard.len()))?;

        let mut used: Vec<(usize, &[u8])> = present.to_vec();
        used.sort_unstable_by_key(|(index, _)| *index);
        used.truncate(needed);
        let mut made: Vec<(usize, &mut [u8])> =
            missing.iter_mut().map(|(index, shard)| (*index, &mut **shard)).collect();
        made.sort_unstable_by_key(|(index, _)| *index);

        let erasure = Erasure {
            used: mask(used.iter().map(|(index, _)| *index)),
            missing: mask(made.iter().map(|(index, _)| *index)),
        };
        let plan = self.inner.decode.get_or_make(erasure, || self.decode_plan(erasure));
        let inputs: Vec<&[u8]> = used.into_iter().map(|(_, shard)| shard).collect();
        let mut outputs: Vec<&mut [u8]> = made.into_iter().map(|(_, shard)| shard).collect();
        plan.multiply(self.inner.kernel, &inputs, &mut outputs);
        Ok(())
    }

    /// Whether the parity shards fit the data shards. `shards` holds all of them in order.
    pub fn verify(&self, shards: &[&[u8]]) -> Result<bool, ErasureError> {
        check_count(shards.len(), self.shards())?;
        let len = shards[0].len();
        check_lens(len, shards.iter().map(|shard| shard.len()))?;
        let (data, parity) = shards.split_at(self.inner.data);
        let mut buffer = vec![0; len.min(VERIFY_BLOCK) * self.inner.parity];
        for start in (0..len).step_by(VERIFY_BLOCK) {
            let end = len.min(start + VERIFY_BLOCK);
            let inputs: Vec<&[u8]> = data.iter().map(|shard| &shard[start..end]).collect();
            let used = &mut buffer[..(end - start) * self.inner.parity];
            let mut outputs: Vec<&mut [u8]> = used.chunks_mut(end - start).collect();
            self.inner.encode.multiply(self.inner.kernel, &inputs, &mut outputs);
            if outputs.iter().zip(parity).any(|(made, given)| **made != given[start..end]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The product that makes the missing shards from the used ones: data = inverse * used, and
    /// each missing shard is its row of the generator times the data.
    fn decode_plan(&self, erasure: Erasure) -> Plan {
        let generator = &self.inner.generator;
        let inverse = generator.select_rows(members(erasure.used)).inverse().expect("any data rows are independent");
        Plan::new(&generator.select_rows(members(erasure.missing)).times(&inverse))
    }

    fn mark(&self, seen: &mut u32, index: usize) -> Result<(), ErasureError> {
        if index >= self.shards() || *seen >> index & 1 == 1 {
            return Err(ErasureError::ShardIndex { index, shards: self.shards() });
        }
        *seen |= 1 << index;
        Ok(())
    }
}

fn check_count(given: usize, expected: usize) -> Result<(), ErasureError> {
    if given == expected { Ok(()) } else { Err(ErasureError::ShardCount { given, expected }) }
}

fn check_lens(expected: usize, mut lens: impl Iterator<Item = usize>) -> Result<(), ErasureError> {
    match lens.find(|len| *len != expected) {
        Some(given) => Err(ErasureError::ShardLen { given, expected }),
        None => Ok(()),
    }
}

fn mask(indexes: impl Iterator<Item = usize>) -> u32 {
    indexes.fold(0, |mask, index| mask | 1 << index)
}

fn members(mask: u32) -> impl Iterator<Item = usize> {
    (0..SHARDS_MAX).filter(move |index| mask >> index & 1 == 1)
}

#[cfg(test)]
mod tests;
