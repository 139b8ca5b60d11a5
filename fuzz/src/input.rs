//! What a case draws from its seed: numbers, bytes, text, damage, and protobuf that mostly decodes.

/// The source of one case. Equal seeds give equal cases.
pub struct Input {
    state: u64,
}

/// Numbers at the edges of their types, where arithmetic goes wrong.
const EDGES: [u64; 14] =
    [0, 1, 2, 7, 8, 255, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, u32::MAX as u64, 1 << 63, u64::MAX];

/// How deep generated protobuf nests.
const DEPTH_MAX: usize = 4;

impl Input {
    /// The case of `seed`.
    pub fn new(seed: u64) -> Input {
        Input { state: seed }
    }

    /// Any number (SplitMix64: neighbouring seeds give unrelated streams).
    pub fn any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.any() % n as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number that is often small and often at an edge.
    pub fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => EDGES[self.below(EDGES.len())],
            1 => self.any() & 0xff,
            2 => self.any() >> self.below(64),
            _ => self.any(),
        }
    }

    /// `len` random bytes; half the time of few different values.
    pub fn exactly(&mut self, len: usize) -> Vec<u8> {
        let mask = if self.once_in(2) { 0xff } else { 0x03 };
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.any().to_le_bytes());
        }
        bytes.truncate(len);
        bytes.iter_mut().for_each(|byte| *byte &= mask);
        bytes
    }

    /// Up to `len_max` random bytes.
    pub fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.below(len_max + 1);
        self.exactly(len)
    }

    /// Up to `len_max` characters, those of `likely` preferred.
    pub fn text(&mut self, likely: &str, len_max: usize) -> String {
        let likely: Vec<char> = likely.chars().collect();
        let len = self.below(len_max + 1);
        (0..len)
            .map(|_| match self.below(12) {
                0 => char::from_u32((self.any() % 0x11_0000) as u32).unwrap_or('\u{fffd}'),
                1 => (self.any() & 0x7f) as u8 as char,
                _ => likely[self.below(likely.len())],
            })
            .collect()
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// Damages `bytes` one to four times: flips a bit, sets a byte, overwrites a number by an edge,
    /// cuts, repeats a run, inserts, or copies a run over another.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                bytes.push(self.any() as u8);
                continue;
            }
            let at = self.below(bytes.len());
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.any() as u8,
                2 => {
                    let width = 1 << self.below(4);
                    let edge = self.number().to_le_bytes();
                    let len = width.min(bytes.len() - at);
                    bytes[at..at + len].copy_from_slice(&edge[..len]);
                }
                3 => bytes.truncate(at),
                4 => {
                    let end = (at + 1 + self.below(16)).min(bytes.len());
                    let run = bytes[at..end].to_vec();
                    bytes.splice(at..at, run);
                }
                5 => {
                    let run = self.bytes(9);
                    bytes.splice(at..at, run);
                }
                _ => {
                    let from = self.below(bytes.len());
                    let len = (1 + self.below(16)).min(bytes.len() - at.max(from));
                    bytes.copy_within(from..from + len, at);
                }
            }
        }
    }

    /// Protobuf of up to `fields_max` fields, all of which `accepts` took together: each field is
    /// drawn at random and kept if the bytes so far still decode.
    pub fn protobuf(&mut self, fields_max: usize, accepts: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(fields_max + 1) {
            let len = bytes.len();
            self.push_field(&mut bytes, DEPTH_MAX);
            if !accepts(&bytes) {
                bytes.truncate(len);
            }
        }
        bytes
    }

    fn push_field(&mut self, out: &mut Vec<u8>, depth: usize) {
        let tag = 1 + self.below(45) as u64;
        match self.below(8) {
            0 => {
                push_varint(out, tag << 3 | 1);
                out.extend_from_slice(&self.number().to_le_bytes());
            }
            1..=3 => {
                push_varint(out, tag << 3);
                let value = self.number();
                push_varint(out, value);
            }
            kind => {
                let mut inner = Vec::new();
                match kind {
                    4 => inner = self.text("abc/-", 12).into_bytes(),
                    5 => inner = self.bytes(24),
                    _ if depth > 0 => {
                        for _ in 0..self.below(4) {
                            self.push_field(&mut inner, depth - 1);
                        }
                    }
                    _ => {}
                }
                push_varint(out, tag << 3 | 2);
                push_varint(out, inner.len() as u64);
                out.extend_from_slice(&inner);
            }
        }
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::Input;

    #[test]
    fn equal_seeds_give_equal_cases() {
        let draw = |seed| {
            let mut input = Input::new(seed);
            let mut bytes = input.bytes(100);
            input.damage(&mut bytes);
            (bytes, input.text("ab", 20), input.protobuf(8, |_| true), input.number())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
