//! MD5 of several messages at once (RFC 1321): each lane of a vector register belongs to another message.
//!
//! MD5 of one message is a chain, every step waits for the one before, and no processor makes more than 500 to 700 MB/s of
//! it. A server has many messages under way. The idea is of the multi-buffer hashes of Intel (isa-l_crypto, "Processing
//! Multiple Buffers in Parallel", 2010).
//!
//! What it leaves to others: gathering the messages (the gateway's hashing), one message alone (`hash::Md5`).
//!
//! Invariant: what a stream has taken in does not depend on what went beside it.

/// Messages that go side by side.
pub const LANES: usize = 8;
/// Bytes of a block.
const BLOCK: usize = 64;
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// `floor(2^32 * abs(sin(i + 1)))`, RFC 1321 section 3.4.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];
/// Left rotations of the four rounds.
const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// A message that comes in pieces and may go beside others.
#[derive(Clone)]
pub struct Stream {
    state: [u32; 4],
    /// Bytes behind the last whole block.
    tail: [u8; BLOCK],
    tail_len: usize,
    len: u64,
}

impl Default for Stream {
    fn default() -> Stream {
        Stream { state: START, tail: [0; BLOCK], tail_len: 0, len: 0 }
    }
}

impl Stream {
    /// Adds `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        let whole = self.join(bytes);
        self.blocks(whole);
    }

    /// Ends the message.
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.len.wrapping_mul(8);
        let mut padding = [0; BLOCK + 8];
        padding[0] = 0x80;
        let zeroes = (BLOCK + 55 - self.tail_len) % BLOCK;
        let mut end = padding[..=zeroes].to_vec();
        end.extend_from_slice(&bits.to_le_bytes());
        self.update(&end);
        let mut digest = [0; 16];
        for (word, bytes) in self.state.iter().zip(digest.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }

    /// Completes the block that was begun, keeps what is behind the last whole one, and gives back the whole ones
    /// between.
    fn join<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [[u8; BLOCK]] {
        self.len = self.len.wrapping_add(bytes.len() as u64);
        if self.tail_len > 0 {
            let taken = bytes.len().min(BLOCK - self.tail_len);
            self.tail[self.tail_len..self.tail_len + taken].copy_from_slice(&bytes[..taken]);
            self.tail_len += taken;
            bytes = &bytes[taken..];
            if self.tail_len < BLOCK {
                return &[];
            }
            let block = self.tail;
            self.blocks(&[block]);
            self.tail_len = 0;
        }
        let (whole, rest) = bytes.as_chunks::<BLOCK>();
        self.tail[..rest.len()].copy_from_slice(rest);
        self.tail_len = rest.len();
        whole
    }

    fn blocks(&mut self, blocks: &[[u8; BLOCK]]) {
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            compress(&mut self.state, &std::array::from_fn(|word| u32::from_le_bytes(words[word])));
        }
    }
}

/// A message and the next pieces of it.
pub struct Job<'a> {
    /// The message.
    pub stream: &'a mut Stream,
    /// What is added, in order.
    pub pieces: &'a [&'a [u8]],
}

/// One lane: a job and the whole blocks of its present piece.
struct Lane<'a> {
    stream: &'a mut Stream,
    rest: &'a [&'a [u8]],
    whole: &'a [[u8; BLOCK]],
}

impl Lane<'_> {
    /// Goes on to the next piece that has whole blocks; whether there is one.
    fn advance(&mut self) -> bool {
        while self.whole.is_empty() {
            let [piece, rest @ ..] = self.rest else { return false };
            self.rest = rest;
            self.whole = self.stream.join(piece);
        }
        true
    }
}

/// Adds to each job's message its pieces. Lengths may differ; best is much of about the same.
pub fn update_all(jobs: &mut [Job<'_>]) {
    for group in jobs.chunks_mut(LANES) {
        let mut lanes: Vec<Lane<'_>> =
            group.iter_mut().map(|job| Lane { stream: job.stream, rest: job.pieces, whole: &[] }).collect();
        loop {
            lanes.retain_mut(Lane::advance);
            match lanes.as_mut_slice() {
                [] => break,
                [lane] => {
                    lane.stream.blocks(lane.whole);
                    lane.whole = &[];
                }
                several => side_by_side(several),
            }
        }
    }
}

/// Runs all lanes for as many blocks as the one with the fewest has.
fn side_by_side(lanes: &mut [Lane<'_>]) {
    let count = lanes.iter().map(|lane| lane.whole.len()).min().unwrap_or(0);
    // A lane without a message repeats the first one's.
    let of = |lane: usize| if lane < lanes.len() { lane } else { 0 };
    let blocks: [&[[u8; BLOCK]]; LANES] = std::array::from_fn(|lane| &lanes[of(lane)].whole[..count]);
    let mut state = std::array::from_fn(|word| std::array::from_fn(|lane| lanes[of(lane)].stream.state[word]));
    run(&mut state, blocks, count);
    for (number, lane) in lanes.iter_mut().enumerate() {
        lane.stream.state = state.map(|word| word[number]);
        lane.whole = &lane.whole[count..];
    }
}

fn run(state: &mut [[u32; LANES]; 4], blocks: [&[[u8; BLOCK]]; LANES], count: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { avx2::run(state, blocks, count) };
    }
    let mut words = state.map(Plain);
    #[expect(clippy::needless_range_loop, reason = "it counts blocks, of all lanes")]
    for number in 0..count {
        let of = |word: usize, lane: usize| {
            let at = 4 * word;
            let block: &[u8; BLOCK] = &blocks[lane][number];
            u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        };
        compress(&mut words, &std::array::from_fn(|word| Plain(std::array::from_fn(|lane| of(word, lane)))));
    }
    *state = words.map(|Plain(word)| word);
}

/// What the steps of MD5 need of a word, or of the same word of several messages.
trait Word: Copy {
    fn of(constant: u32) -> Self;
    fn plus(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    /// Bits of `self` that `other` has not.
    fn without(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn left(self, bits: u32) -> Self;
}

impl Word for u32 {
    #[inline(always)]
    fn of(constant: u32) -> u32 {
        constant
    }
    #[inline(always)]
    fn plus(self, other: u32) -> u32 {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn and(self, other: u32) -> u32 {
        self & other
    }
    #[inline(always)]
    fn without(self, other: u32) -> u32 {
        self & !other
    }
    #[inline(always)]
    fn or(self, other: u32) -> u32 {
        self | other
    }
    #[inline(always)]
    fn xor(self, other: u32) -> u32 {
        self ^ other
    }
    #[inline(always)]
    fn left(self, bits: u32) -> u32 {
        self.rotate_left(bits)
    }
}

/// Lanes for a processor of which nothing is known; the compiler may find its vectors.
#[derive(Clone, Copy)]
struct Plain([u32; LANES]);

impl Plain {
    #[inline(always)]
    fn each(self, other: Plain, both: impl Fn(u32, u32) -> u32) -> Plain {
        Plain(std::array::from_fn(|lane| both(self.0[lane], other.0[lane])))
    }
}

impl Word for Plain {
    #[inline(always)]
    fn of(constant: u32) -> Plain {
        Plain([constant; LANES])
    }
    #[inline(always)]
    fn plus(self, other: Plain) -> Plain {
        self.each(other, u32::plus)
    }
    #[inline(always)]
    fn and(self, other: Plain) -> Plain {
        self.each(other, u32::and)
    }
    #[inline(always)]
    fn without(self, other: Plain) -> Plain {
        self.each(other, u32::without)
    }
    #[inline(always)]
    fn or(self, other: Plain) -> Plain {
        self.each(other, u32::or)
    }
    #[inline(always)]
    fn xor(self, other: Plain) -> Plain {
        self.each(other, u32::xor)
    }
    #[inline(always)]
    fn left(self, bits: u32) -> Plain {
        Plain(self.0.map(|word| word.rotate_left(bits)))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{BLOCK, LANES, Word, compress};
    use std::arch::x86_64::*;

    /// A word of each lane. Made only inside [`run`], whose caller has seen that the processor has AVX2.
    #[derive(Clone, Copy)]
    struct Vector(__m256i);

    /// SAFETY of all: see [`Vector`].
    impl Word for Vector {
        #[inline(always)]
        fn of(constant: u32) -> Vector {
            Vector(unsafe { _mm256_set1_epi32(constant.cast_signed()) })
        }
        #[inline(always)]
        fn plus(self, other: Vector) -> Vector {
            Vector(unsafe { _mm256_add_epi32(self.0, other.0) })
        }
        #[inline(always)]
        fn and(self, other: Vector) -> Vector {
            Vector(unsafe { _mm256_and_si256(self.0, other.0) })
        }
        #[inline(always)]
        fn without(self, other: Vector) -> Vector {
            Vector(unsafe { _mm256_andnot_si256(other.0, self.0) })
        }
        #[inline(always)]
        fn or(self, other: Vector) -> Vector {
            Vector(unsafe { _mm256_or_si256(self.0, other.0) })
        }
        #[inline(always)]
        fn xor(self, other: Vector) -> Vector {
            Vector(unsafe { _mm256_xor_si256(self.0, other.0) })
        }
        #[inline(always)]
        fn left(self, bits: u32) -> Vector {
            let (left, right) = (bits.cast_signed(), (32 - bits).cast_signed());
            // The counts are constants once the steps are unrolled.
            Vector(unsafe {
                let high = _mm256_sll_epi32(self.0, _mm_cvtsi32_si128(left));
                _mm256_or_si256(high, _mm256_srl_epi32(self.0, _mm_cvtsi32_si128(right)))
            })
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn run(state: &mut [[u32; LANES]; 4], blocks: [&[[u8; BLOCK]]; LANES], count: usize) {
        let load = |lanes: &[u32; LANES]| {
            // SAFETY: 32 bytes, at any address.
            Vector(unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) })
        };
        let mut words = [load(&state[0]), load(&state[1]), load(&state[2]), load(&state[3])];
        #[expect(clippy::needless_range_loop, reason = "it counts blocks, of all lanes")]
        for number in 0..count {
            let first = transposed(std::array::from_fn(|lane| &blocks[lane][number]), 0);
            let second = transposed(std::array::from_fn(|lane| &blocks[lane][number]), 1);
            compress(&mut words, &std::array::from_fn(|word| [first, second][word / 8][word % 8]));
        }
        for (lanes, word) in state.iter_mut().zip(words) {
            // SAFETY: 32 bytes, at any address.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), word.0) };
        }
    }

    /// Of half a block (0 or 1) of each lane its eight words, each as a vector of the lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transposed(blocks: [&[u8; BLOCK]; LANES], half: usize) -> [Vector; 8] {
        let row = |lane: usize| {
            let bytes: &[u8] = &blocks[lane][32 * half..][..32];
            // SAFETY: 32 bytes, at any address.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        };
        let pair = |lane: usize| {
            (_mm256_unpacklo_epi32(row(lane), row(lane + 1)), _mm256_unpackhi_epi32(row(lane), row(lane + 1)))
        };
        let four = |lane: usize| {
            let ((low, high), (low_next, high_next)) = (pair(lane), pair(lane + 2));
            [
                _mm256_unpacklo_epi64(low, low_next),
                _mm256_unpackhi_epi64(low, low_next),
                _mm256_unpacklo_epi64(high, high_next),
                _mm256_unpackhi_epi64(high, high_next),
            ]
        };
        let (front, back) = (four(0), four(4));
        let low = |word: usize| Vector(_mm256_permute2x128_si256::<0x20>(front[word], back[word]));
        let high = |word: usize| Vector(_mm256_permute2x128_si256::<0x31>(front[word], back[word]));
        [low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3)]
    }
}

/// A block's sixteen words into the state (RFC 1321, section 3.4).
#[inline(always)]
fn compress<W: Word>(state: &mut [W; 4], words: &[W; 16]) {
    let [mut a, mut b, mut c, mut d] = *state;
    // Unrolled, so that words and rotations are constants.
    macro_rules! step {
        ($round:literal, $step:literal, $a:ident, $b:ident, $c:ident, $d:ident, $index:expr, $mix:expr) => {
            let known = words[$index($step) % 16].plus(W::of(SINES[$round * 16 + $step]));
            let sum = $a.plus(known).plus($mix($b, $c, $d));
            $a = sum.left(SHIFTS[$round][$step % 4]).plus($b);
        };
    }
    macro_rules! four {
        ($round:literal, [$one:literal, $two:literal, $three:literal, $four:literal], $index:expr, $mix:expr) => {
            step!($round, $one, a, b, c, d, $index, $mix);
            step!($round, $two, d, a, b, c, $index, $mix);
            step!($round, $three, c, d, a, b, $index, $mix);
            step!($round, $four, b, c, d, a, $index, $mix);
        };
    }
    macro_rules! round {
        ($round:literal, $index:expr, $mix:expr) => {
            four!($round, [0, 1, 2, 3], $index, $mix);
            four!($round, [4, 5, 6, 7], $index, $mix);
            four!($round, [8, 9, 10, 11], $index, $mix);
            four!($round, [12, 13, 14, 15], $index, $mix);
        };
    }
    round!(0, |step: usize| step, |x: W, y: W, z: W| z.xor(x.and(y.xor(z))));
    // A sum, not an or: the halves do not overlap, and the one does not wait for the other.
    round!(1, |step: usize| 5 * step + 1, |x: W, y: W, z: W| x.and(z).plus(y.without(z)));
    round!(2, |step: usize| 3 * step + 5, |x: W, y: W, z: W| x.xor(y).xor(z));
    round!(3, |step: usize| 7 * step, |x: W, y: W, z: W| y.xor(x.or(W::of(u32::MAX).without(z))));
    for (sum, word) in state.iter_mut().zip([a, b, c, d]) {
        *sum = sum.plus(word);
    }
}

#[cfg(test)]
mod tests {
    use super::{Job, LANES, Stream, update_all};
    use crate::hash::{hex_encode, md5};

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let step = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(step).collect()
    }

    #[test]
    fn the_examples_of_rfc_1321() {
        let of = |text: &str| {
            let mut stream = Stream::default();
            stream.update(text.as_bytes());
            hex_encode(&stream.finish())
        };
        assert_eq!(of(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(of("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        let digits = "1234567890".repeat(8);
        assert_eq!(of(&digits), "57edf4a22be3c955ac49da2e2107b67a");
    }

    #[test]
    fn every_length_alone_and_in_pieces() {
        for len in 0..300 {
            let bytes = noise(len as u64, len);
            for cut in [0, 1, len / 3, len.saturating_sub(1)] {
                let mut stream = Stream::default();
                stream.update(&bytes[..cut.min(len)]);
                stream.update(&bytes[cut.min(len)..]);
                assert_eq!(stream.finish(), md5(&bytes), "{len} {cut}");
            }
        }
    }

    #[test]
    fn any_number_of_messages_of_any_length_go_side_by_side() {
        for count in 0..=3 * LANES {
            let messages: Vec<Vec<u8>> =
                (0..count).map(|number| noise(number as u64 + 7, (number * 977 + count * 131) % 5000)).collect();
            let pieces: Vec<Vec<&[u8]>> =
                messages.iter().enumerate().map(|(number, bytes)| bytes.chunks(61 + number * 40).collect()).collect();
            let mut streams = vec![Stream::default(); count];
            let mut jobs: Vec<Job<'_>> =
                streams.iter_mut().zip(&pieces).map(|(stream, pieces)| Job { stream, pieces }).collect();
            update_all(&mut jobs);
            for (number, (stream, bytes)) in streams.into_iter().zip(&messages).enumerate() {
                assert_eq!(stream.finish(), md5(bytes), "{number} of {count}");
            }
        }
    }
}
