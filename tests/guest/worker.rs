//! The program that writes in the guest. Files of pseudo-random bytes are made, rewritten in place, replaced by
//! renaming, and deleted, each change made durable; then it is told on the second serial port. The host
//! (machine.py) holds what was told, and kills the machine.
//!
//!     worker write <fs> <mount> <seed> <first step>     for ever
//!     worker list <fs> <mount>                          one line for each file, read from the disk
//!
//!     begin <fs> <n> anything         file n is about to be changed; until the next line about it it may be anything
//!     begin <fs> <n> <len> <hash>     file n is about to have these bytes; until then it is what it was, or that
//!     begin <fs> <n> gone             file n is about to be deleted; until then it is what it was, or is not there
//!     synced <fs> <n> <len> <hash>    file n has these bytes, durably
//!     deleted <fs> <n>                file n is not there, durably
//!     file <fs> <n> <len> <hash>      answer of `list`
//!     failed ...                      an error, and the end
//!
//! It is no part of the product: tests/guest/prepare.py compiles this one file without cargo and puts it into the
//! initramfs; to cargo it is an example, so that it is formatted and linted.

#![allow(clippy::disallowed_methods, reason = "it writes to the real file systems of the guest")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const FILES_MAX: usize = 150;
const LEN_BYTES_MAX: u64 = 1 << 20;
/// A file beside ours that is written and never made durable, so that there is always something under way.
const SCRATCH_BYTES: u64 = 8 << 20;

unsafe extern "C" {
    /// Waits until the serial port has sent everything.
    fn tcdrain(descriptor: i32) -> i32;
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let port = OpenOptions::new().write(true).open("/dev/ttyS1").expect("there is a second serial port");
    let done = match words[1..] {
        ["list", fs, mount] => list(&port, fs, Path::new(mount)),
        ["write", fs, mount, seed, first] => {
            let number = |word: &str| word.parse().expect("a number");
            Worker { port: &port, fs, mount: Path::new(mount) }.write(number(seed), number(first))
        }
        _ => Err(io::Error::other(format!("unknown words {words:?}"))),
    };
    if let Err(error) = done {
        tell(&port, &format!("failed {words:?}: {error}")).expect("the serial port takes a line");
        std::process::exit(1);
    }
}

/// The whole line at once, because another worker uses the same port; and sent when this returns.
fn tell(mut port: &File, line: &str) -> io::Result<()> {
    port.write_all(format!("{line}\n").as_bytes())?;
    // SAFETY: it takes a number and touches no memory of ours.
    unsafe { tcdrain(port.as_raw_fd()) };
    Ok(())
}

/// The numbers of the files that are there.
fn numbers(mount: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(mount)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if let Some(number) = name.strip_prefix('f').and_then(|rest| rest.parse().ok()) {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn list(port: &File, fs: &str, mount: &Path) -> io::Result<()> {
    for number in numbers(mount)? {
        let bytes = fs::read(mount.join(format!("f{number}")))?;
        tell(port, &format!("file {fs} {number} {}", told(&bytes)))?;
    }
    Ok(())
}

struct Worker<'a> {
    port: &'a File,
    fs: &'a str,
    mount: &'a Path,
}

impl Worker<'_> {
    fn write(&self, seed: u64, first: u64) -> io::Result<()> {
        let scratch = File::create(self.mount.join("scratch"))?;
        for step in first.. {
            let mut random = Random(seed ^ (step << 20) ^ hash(self.fs.as_bytes()));
            let (offset, len_bytes) = (random.below(SCRATCH_BYTES), random.below(1 << 17));
            scratch.write_all_at(&random.bytes(len_bytes), offset)?;
            let there = numbers(self.mount)?;
            let kind = if there.len() < 8 { 0 } else { random.below(10) };
            let one = there.get(random.below(there.len().max(1) as u64) as usize).copied().unwrap_or(step);
            match kind {
                _ if there.len() > FILES_MAX => self.delete(one)?,
                0..=4 => self.create(step, &mut random)?,
                5 | 6 => self.rewrite(one, &mut random)?,
                7 => self.append(one, &mut random)?,
                8 => self.replace(one, &mut random)?,
                _ => self.delete(one)?,
            }
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.mount.join(format!("f{number}"))
    }

    fn begin(&self, number: u64, what: &str) -> io::Result<()> {
        tell(self.port, &format!("begin {} {number} {what}", self.fs))
    }

    fn synced(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        tell(self.port, &format!("synced {} {number} {}", self.fs, told(bytes)))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(self.mount)?.sync_all()
    }

    fn create(&self, number: u64, random: &mut Random) -> io::Result<()> {
        let bytes = random.some();
        let mut file = File::create(self.path(number))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        self.sync_folder()?;
        self.synced(number, &bytes)
    }

    /// Some bytes in the middle, the length stays.
    fn rewrite(&self, number: u64, random: &mut Random) -> io::Result<()> {
        let mut bytes = fs::read(self.path(number))?;
        let start = random.below(bytes.len() as u64) as usize;
        let new = random.some();
        let end = bytes.len().min(start + new.len());
        bytes[start..end].copy_from_slice(&new[..end - start]);
        self.begin(number, "anything")?;
        let file = OpenOptions::new().write(true).open(self.path(number))?;
        file.write_all_at(&bytes[start..end], start as u64)?;
        file.sync_data()?;
        self.synced(number, &bytes)
    }

    /// Bytes behind the end; a file that has grown large is cut first.
    fn append(&self, number: u64, random: &mut Random) -> io::Result<()> {
        let mut bytes = fs::read(self.path(number))?;
        let new = random.some();
        self.begin(number, "anything")?;
        let file = OpenOptions::new().write(true).open(self.path(number))?;
        if bytes.len() as u64 > LEN_BYTES_MAX {
            bytes.truncate(random.below(1000) as usize);
            file.set_len(bytes.len() as u64)?;
        }
        file.write_all_at(&new, bytes.len() as u64)?;
        bytes.extend(new);
        file.sync_all()?;
        self.synced(number, &bytes)
    }

    fn replace(&self, number: u64, random: &mut Random) -> io::Result<()> {
        let bytes = random.some();
        let beside = self.mount.join("new");
        let mut file = File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        self.begin(number, &told(&bytes))?;
        fs::rename(&beside, self.path(number))?;
        self.sync_folder()?;
        self.synced(number, &bytes)
    }

    fn delete(&self, number: u64) -> io::Result<()> {
        self.begin(number, "gone")?;
        fs::remove_file(self.path(number))?;
        self.sync_folder()?;
        tell(self.port, &format!("deleted {} {number}", self.fs))
    }
}

/// The length and the hash of a file, as the host compares them.
fn told(bytes: &[u8]) -> String {
    format!("{} {:016x}", bytes.len(), hash(bytes))
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`, which is at least 1.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn bytes(&mut self, len_bytes: u64) -> Vec<u8> {
        (0..len_bytes.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len_bytes as usize).collect()
    }

    /// 1 byte to LEN_BYTES_MAX, small ones more often.
    fn some(&mut self) -> Vec<u8> {
        let most = 1 << self.below(21);
        let len_bytes = 1 + self.below(most);
        self.bytes(len_bytes.min(LEN_BYTES_MAX))
    }
}
