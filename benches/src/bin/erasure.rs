//! Speed of erasure coding: GB/s of data bytes, on one core, for each kernel of this machine.
//!
//! Prints encode, reconstruction of as many data shards as there is parity, and reconstruction of
//! one data shard, beside what `memcpy` of the same data does in the same run. Each figure is the
//! median of short windows; the best window stands behind it, since neighbours disturb.
//!
//! Run: `cargo run --release -p bixi-benches --bin erasure [-- SHARD_KIB]`

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use erasure::Coder;
use erasure::kernel::{available_kernels, kernel_name};

const SHAPES: [(usize, usize); 3] = [(4, 2), (8, 3), (8, 4)];
const WINDOWS: usize = 25;
const WINDOW: Duration = Duration::from_millis(10);

fn main() {
    let shard_kib = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(64usize);
    let len = shard_kib * 1024;
    println!("erasure coding, shards of {shard_kib} KiB, one core, GB/s of data: median (best)");
    println!("chosen kernel: {}", kernel_name());
    println!(
        "{:<13} {:>5} {:>16} {:>16} {:>16} {:>16}",
        "kernel", "shape", "encode", "rebuild all", "rebuild 1", "memcpy"
    );
    for (data, parity) in SHAPES {
        for kernel in available_kernels() {
            let coder = Coder::with_kernel(data, parity, kernel).expect("shapes are possible");
            let mut bench = Bench::new(coder, len);
            println!(
                "{:<13} {:>5} {:>16} {:>16} {:>16} {:>16}",
                kernel.name(),
                format!("{data}+{parity}"),
                bench.encode(),
                bench.rebuild(parity),
                bench.rebuild(1),
                bench.copy(),
            );
        }
    }
}

struct Bench {
    coder: Coder,
    len: usize,
    data: Vec<Vec<u8>>,
    parity: Vec<Vec<u8>>,
    made: Vec<Vec<u8>>,
}

impl Bench {
    fn new(coder: Coder, len: usize) -> Bench {
        let data = (0..coder.data()).map(|index| noise(index as u64, len)).collect();
        let parity = vec![vec![0; len]; coder.parity()];
        let made = vec![vec![0; len]; coder.data()];
        Bench { coder, len, data, parity, made }
    }

    fn encode(&mut self) -> String {
        let inputs: Vec<&[u8]> = self.data.iter().map(Vec::as_slice).collect();
        let mut outputs: Vec<&mut [u8]> = self.parity.iter_mut().map(Vec::as_mut_slice).collect();
        let bytes = inputs.len() * self.len;
        measure(bytes, || self.coder.encode(black_box(&inputs), black_box(&mut outputs)).expect("slices fit"))
    }

    /// Makes the first `count` data shards from the other ones and parity.
    fn rebuild(&mut self, count: usize) -> String {
        let all = self.data.iter().chain(&self.parity).map(Vec::as_slice);
        let present: Vec<(usize, &[u8])> = all.enumerate().skip(count).collect();
        let mut missing: Vec<(usize, &mut [u8])> =
            self.made.iter_mut().take(count).map(Vec::as_mut_slice).enumerate().collect();
        let bytes = self.data.len() * self.len;
        measure(bytes, || {
            self.coder.reconstruct(black_box(&present), black_box(&mut missing)).expect("slices fit");
        })
    }

    fn copy(&mut self) -> String {
        measure(self.data.len() * self.len, || {
            for (to, from) in self.made.iter_mut().zip(&self.data) {
                black_box(to.as_mut_slice()).copy_from_slice(black_box(from));
            }
        })
    }
}

/// GB/s of work that handles `bytes` per call.
fn measure(bytes: usize, mut work: impl FnMut()) -> String {
    let mut rates: Vec<f64> = (0..WINDOWS).map(|_| window(bytes, &mut work)).collect();
    rates.sort_by(f64::total_cmp);
    format!("{:.1} ({:.1})", rates[WINDOWS / 2], rates[WINDOWS - 1])
}

fn window(bytes: usize, work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < WINDOW {
        work();
        calls += 1;
    }
    (calls * bytes) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Bytes that look random.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}
