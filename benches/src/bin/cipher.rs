//! Speed of the ciphers for volumes: MiB/s of one thread, for lengths that clients read and write.
//!
//! Each figure is the median of short windows; the best window stands behind it, since neighbours disturb.
//!
//! Run: `cargo run --release -p bixi-benches --bin cipher`

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use crypto::secret::Secret;
use crypto::suite::SUITES;

const LENGTHS: [usize; 4] = [512, 4 << 10, 64 << 10, 1 << 20];
const WINDOWS: usize = 101;
const WINDOW: Duration = Duration::from_millis(2);

fn main() {
    println!(
        "{:<12} {:>9} {:>18} {:>18}   MiB/s of one thread: median (best)",
        "cipher", "bytes", "encrypt", "decrypt"
    );
    for suite in SUITES {
        let key = Secret::new((0..suite.key_len() as u8).collect::<Vec<u8>>());
        let cipher = suite.cipher(&key).expect("a key of the right length");
        for len in LENGTHS {
            let mut bytes = vec![0x5a; len];
            let encrypt = speed(len, || cipher.encrypt(black_box(1 << 30), black_box(&mut bytes)));
            let decrypt = speed(len, || cipher.decrypt(black_box(1 << 30), black_box(&mut bytes)));
            println!("{:<12} {len:>9} {encrypt:>18} {decrypt:>18}", suite.name());
        }
    }
}

fn speed(len: usize, mut work: impl FnMut()) -> String {
    let mut windows: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let (began, mut rounds) = (Instant::now(), 0);
            while began.elapsed() < WINDOW {
                work();
                rounds += 1;
            }
            (len * rounds) as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64()
        })
        .collect();
    windows.sort_by(f64::total_cmp);
    format!("{:.0} ({:.0})", windows[WINDOWS / 2], windows[WINDOWS - 1])
}
