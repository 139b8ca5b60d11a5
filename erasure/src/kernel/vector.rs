//! The loop that all vector kernels share, generic over the vector.
//!
//! Everything here is inlined into a function that enables the instructions (`x86.rs`,
//! `neon.rs`); arrays of constant size become registers.

use super::Plan;
use crate::field::Factor;

/// A register full of bytes.
pub trait Vector: Copy {
    /// Count of bytes.
    const LEN: usize;
    /// A factor in registers.
    type Factor: Copy;

    /// All zeroes.
    unsafe fn zero() -> Self;
    /// Loads `LEN` bytes.
    unsafe fn load(from: *const u8) -> Self;
    /// Loads `len < LEN` bytes; the others are arbitrary.
    unsafe fn load_partial(from: *const u8, len: usize) -> Self;
    /// Stores `LEN` bytes.
    unsafe fn store(self, to: *mut u8);
    /// Stores the first `len < LEN` bytes.
    unsafe fn store_partial(self, to: *mut u8, len: usize);
    /// Takes a factor into registers.
    unsafe fn load_factor(factor: *const Factor) -> Self::Factor;
    /// `self + factor * input`.
    unsafe fn add_product(self, input: Self, factor: Self::Factor) -> Self;
}

/// Multiplies with `WIDTH` vectors of up to four outputs in registers.
///
/// # Safety
/// The instructions of `V` are there; counts fit the plan and all slices have one length.
#[inline(always)]
pub unsafe fn multiply<V: Vector, const WIDTH: usize>(plan: &Plan, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let mut first = 0;
    while first < plan.outputs {
        let rest = plan.outputs - first;
        // Even groups: five outputs go as three and two, not as four and one.
        let count = rest.div_ceil(rest.div_ceil(4));
        let group = &mut outputs[first..first + count];
        // SAFETY: as the caller promised; `group` holds the outputs from `first` on.
        unsafe {
            match count {
                1 => multiply_group::<V, WIDTH, 1>(plan, first, inputs, group),
                2 => multiply_group::<V, WIDTH, 2>(plan, first, inputs, group),
                3 => multiply_group::<V, WIDTH, 3>(plan, first, inputs, group),
                _ => multiply_group::<V, WIDTH, 4>(plan, first, inputs, group),
            }
        }
        first += count;
    }
}

#[inline(always)]
unsafe fn multiply_group<V: Vector, const WIDTH: usize, const ROWS: usize>(
    plan: &Plan,
    first: usize,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
) {
    let len = outputs[0].len();
    let targets: [*mut u8; ROWS] = std::array::from_fn(|row| outputs[row].as_mut_ptr());
    let mut offset = 0;
    // SAFETY: every slice is `len` long and `offset` plus the bytes touched stays within it.
    unsafe {
        while offset + WIDTH * V::LEN <= len {
            block::<V, WIDTH, ROWS>(plan, first, inputs, targets, offset);
            offset += WIDTH * V::LEN;
        }
        while offset + V::LEN <= len {
            block::<V, 1, ROWS>(plan, first, inputs, targets, offset);
            offset += V::LEN;
        }
        if offset < len {
            tail::<V, ROWS>(plan, first, inputs, targets, offset, len - offset);
        }
    }
}

#[allow(clippy::needless_range_loop, reason = "measured a fifth slower with iterators")]
#[inline(always)]
unsafe fn block<V: Vector, const WIDTH: usize, const ROWS: usize>(
    plan: &Plan,
    first: usize,
    inputs: &[&[u8]],
    targets: [*mut u8; ROWS],
    offset: usize,
) {
    // SAFETY: the caller keeps `offset + WIDTH * LEN` within every slice, and the plan has
    // `outputs` factors for each input, of which `first..first + ROWS` exist.
    unsafe {
        let mut sums = [[V::zero(); WIDTH]; ROWS];
        let mut factors = plan.factors.as_ptr().add(first);
        for input in inputs {
            let from = input.as_ptr().add(offset);
            let mut loaded = [V::zero(); WIDTH];
            for column in 0..WIDTH {
                loaded[column] = V::load(from.add(column * V::LEN));
            }
            for row in 0..ROWS {
                let factor = V::load_factor(factors.add(row));
                for column in 0..WIDTH {
                    sums[row][column] = sums[row][column].add_product(loaded[column], factor);
                }
            }
            factors = factors.wrapping_add(plan.outputs);
        }
        for row in 0..ROWS {
            for column in 0..WIDTH {
                sums[row][column].store(targets[row].add(offset + column * V::LEN));
            }
        }
    }
}

#[inline(always)]
unsafe fn tail<V: Vector, const ROWS: usize>(
    plan: &Plan,
    first: usize,
    inputs: &[&[u8]],
    targets: [*mut u8; ROWS],
    offset: usize,
    len: usize,
) {
    // SAFETY: as in `block`, with `len` bytes.
    unsafe {
        let mut sums = [V::zero(); ROWS];
        let mut factors = plan.factors.as_ptr().add(first);
        for input in inputs {
            let loaded = V::load_partial(input.as_ptr().add(offset), len);
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add_product(loaded, V::load_factor(factors.add(row)));
            }
            factors = factors.wrapping_add(plan.outputs);
        }
        for (sum, target) in sums.into_iter().zip(targets) {
            sum.store_partial(target.add(offset), len);
        }
    }
}
