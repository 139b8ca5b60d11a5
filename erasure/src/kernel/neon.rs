//! The kernel for aarch64: the two halves of each byte are looked up by `tbl`.

use std::arch::aarch64::{uint8x16_t, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8};

use super::Plan;
use super::vector::{Vector, multiply};
use crate::field::Factor;

/// Whether the machine has NEON.
pub fn has_neon() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "neon")]
pub unsafe fn multiply_neon(plan: &Plan, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    // SAFETY: the caller's promise is the same.
    unsafe { multiply::<Neon, 4>(plan, inputs, outputs) }
}

#[derive(Clone, Copy)]
struct Neon(uint8x16_t);

// SAFETY (of every block below): the trait's callers have enabled the instructions and vouch for
// the bytes behind the pointers.
impl Vector for Neon {
    const LEN: usize = 16;
    /// Products with the low halves, products with the high halves.
    type Factor = (uint8x16_t, uint8x16_t);

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Neon(vdupq_n_u8(0)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        unsafe { Neon(vld1q_u8(from)) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const u8, len: usize) -> Self {
        let mut buffer = [0u8; 16];
        unsafe {
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), len);
            Neon(vld1q_u8(buffer.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        unsafe { vst1q_u8(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut u8, len: usize) {
        let mut buffer = [0u8; 16];
        unsafe {
            vst1q_u8(buffer.as_mut_ptr(), self.0);
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, len);
        }
    }

    #[inline(always)]
    unsafe fn load_factor(factor: *const Factor) -> (uint8x16_t, uint8x16_t) {
        unsafe {
            let tables = (*factor).nibbles.as_ptr();
            (vld1q_u8(tables), vld1q_u8(tables.add(16)))
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, input: Self, factor: (uint8x16_t, uint8x16_t)) -> Self {
        unsafe {
            let low = vqtbl1q_u8(factor.0, vandq_u8(input.0, vdupq_n_u8(15)));
            let high = vqtbl1q_u8(factor.1, vshrq_n_u8::<4>(input.0));
            Neon(veorq_u8(self.0, veorq_u8(low, high)))
        }
    }
}
