//! The kernels for x86-64.
//!
//! GFNI multiplies by an affine map (see `field.rs` for why not by `gf2p8mulb`). AVX2 without it
//! looks up the two halves of each byte by `pshufb`, after Plank, Greenan and Miller, "Screaming
//! Fast Galois Field Arithmetic Using Intel SIMD Instructions", FAST 2013.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_gf2p8affine_epi64_epi8, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256, _mm512_gf2p8affine_epi64_epi8,
    _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_storeu_si512, _mm512_xor_si512,
};

use super::Plan;
use super::vector::{Vector, multiply};
use crate::field::Factor;

/// Whether the machine has GFNI and AVX-512.
pub fn has_gfni512() -> bool {
    is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Whether the machine has GFNI and AVX2.
pub fn has_gfni256() -> bool {
    is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx2")
}

/// Whether the machine has AVX2.
pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "gfni,avx512f,avx512bw")]
pub unsafe fn multiply_gfni512(plan: &Plan, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    // SAFETY: the caller's promise is the same.
    unsafe { multiply::<Gfni512, 4>(plan, inputs, outputs) }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "gfni,avx2")]
pub unsafe fn multiply_gfni256(plan: &Plan, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    // SAFETY: the caller's promise is the same.
    unsafe { multiply::<Gfni256, 2>(plan, inputs, outputs) }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2")]
pub unsafe fn multiply_avx2(plan: &Plan, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    // SAFETY: the caller's promise is the same.
    unsafe { multiply::<Avx2, 2>(plan, inputs, outputs) }
}

#[derive(Clone, Copy)]
struct Gfni512(__m512i);

// SAFETY (of every block below): the trait's callers have enabled the instructions and vouch for
// the bytes behind the pointers.
impl Vector for Gfni512 {
    const LEN: usize = 64;
    type Factor = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Gfni512(_mm512_setzero_si512()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        unsafe { Gfni512(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const u8, len: usize) -> Self {
        unsafe { Gfni512(_mm512_maskz_loadu_epi8((1 << len) - 1, from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut u8, len: usize) {
        unsafe { _mm512_mask_storeu_epi8(to.cast(), (1 << len) - 1, self.0) }
    }

    #[inline(always)]
    unsafe fn load_factor(factor: *const Factor) -> __m512i {
        unsafe { _mm512_set1_epi64((*factor).affine as i64) }
    }

    #[inline(always)]
    unsafe fn add_product(self, input: Self, factor: __m512i) -> Self {
        unsafe { Gfni512(_mm512_xor_si512(self.0, _mm512_gf2p8affine_epi64_epi8::<0>(input.0, factor))) }
    }
}

#[derive(Clone, Copy)]
struct Gfni256(__m256i);

impl Vector for Gfni256 {
    const LEN: usize = 32;
    type Factor = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Gfni256(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        unsafe { Gfni256(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const u8, len: usize) -> Self {
        unsafe { Gfni256(load_partial_256(from, len)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut u8, len: usize) {
        unsafe { store_partial_256(self.0, to, len) }
    }

    #[inline(always)]
    unsafe fn load_factor(factor: *const Factor) -> __m256i {
        unsafe { _mm256_set1_epi64x((*factor).affine as i64) }
    }

    #[inline(always)]
    unsafe fn add_product(self, input: Self, factor: __m256i) -> Self {
        unsafe { Gfni256(_mm256_xor_si256(self.0, _mm256_gf2p8affine_epi64_epi8::<0>(input.0, factor))) }
    }
}

#[derive(Clone, Copy)]
struct Avx2(__m256i);

impl Vector for Avx2 {
    const LEN: usize = 32;
    /// Products with the low halves, products with the high halves.
    type Factor = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Avx2(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        unsafe { Avx2(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const u8, len: usize) -> Self {
        unsafe { Avx2(load_partial_256(from, len)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut u8, len: usize) {
        unsafe { store_partial_256(self.0, to, len) }
    }

    #[inline(always)]
    unsafe fn load_factor(factor: *const Factor) -> (__m256i, __m256i) {
        unsafe {
            let tables: *const __m128i = (*factor).nibbles.as_ptr().cast();
            let low = _mm256_broadcastsi128_si256(_mm_loadu_si128(tables));
            let high = _mm256_broadcastsi128_si256(_mm_loadu_si128(tables.add(1)));
            (low, high)
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, input: Self, factor: (__m256i, __m256i)) -> Self {
        unsafe {
            let mask = _mm256_set1_epi8(15);
            let low = _mm256_shuffle_epi8(factor.0, _mm256_and_si256(input.0, mask));
            let high = _mm256_shuffle_epi8(factor.1, _mm256_and_si256(_mm256_srli_epi64::<4>(input.0), mask));
            Avx2(_mm256_xor_si256(self.0, _mm256_xor_si256(low, high)))
        }
    }
}

#[inline(always)]
unsafe fn load_partial_256(from: *const u8, len: usize) -> __m256i {
    let mut buffer = [0u8; 32];
    // SAFETY: the caller vouches for `len < 32` bytes at `from`.
    unsafe {
        std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), len);
        _mm256_loadu_si256(buffer.as_ptr().cast())
    }
}

#[inline(always)]
unsafe fn store_partial_256(vector: __m256i, to: *mut u8, len: usize) {
    let mut buffer = [0u8; 32];
    // SAFETY: the caller vouches for `len < 32` bytes at `to`.
    unsafe {
        _mm256_storeu_si256(buffer.as_mut_ptr().cast(), vector);
        std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, len);
    }
}
