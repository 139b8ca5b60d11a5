//! Faults that a simulation can be told to inject into a disk.

/// One fault of a simulated disk. Lasting ones hold until [`DiskFault::Healthy`] or a wipe, also over crashes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DiskFault {
    /// Every flush fails from now on.
    FlushFails,
    /// Every read fails from now on.
    ReadFails,
    /// Every write fails from now on.
    WriteFails,
    /// No file can grow from now on.
    Full,
    /// Every operation takes this many times as long from now on.
    SlowBy(u32),
    /// Flips one bit of what the device holds, once. `bit` is 0..8. Nothing if the file or the offset is absent.
    RotBit {
        /// Name of the file.
        file: String,
        /// Offset of the byte in the file.
        offset: u64,
        /// Which bit of the byte.
        bit: u8,
    },
    /// Copies the 4 KiB block at `from` over the one at `to`, once, as if a write had gone astray.
    Misdirect {
        /// Name of the file.
        file: String,
        /// Offset of the block that is copied.
        from: u64,
        /// Offset of the block that is overwritten.
        to: u64,
    },
    /// The next write is answered as done but never reaches the device, once.
    LoseNextWrite,
    /// Ends all lasting faults.
    Healthy,
}
