//! The words and numbers of virtio-blk (Virtual I/O Device 1.2, section 5.2) and of the split ring (2.7).

/// Features that device and driver agree on.
pub mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MULTI_QUEUE: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}

/// Kinds of requests.
pub mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// What the last byte of a request says when it is done.
pub mod status {
    pub const OK: u8 = 0;
    pub const IOERR: u8 = 1;
    pub const UNSUPP: u8 = 2;
}

/// Flags of descriptors.
pub mod descriptor_flag {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}

/// In the flags of the available ring: the driver wants no interrupts.
pub const NO_INTERRUPT: u16 = 1;
/// In the flags of a range to be zeroed: its space may be given back.
pub const MAY_UNMAP: u32 = 1;

/// Bytes of a sector, whatever the device's block is.
pub const SECTOR: u64 = 512;
/// Bytes of a request's header: kind, reserved, sector.
pub const HEADER_LEN: usize = 16;
/// Bytes of a range to be cleared: sector, sectors, flags.
pub const RANGE_LEN: usize = 16;
/// Bytes of a device's name.
pub const ID_LEN: usize = 20;
/// Bytes of a descriptor: address, length, flags, next.
pub const DESCRIPTOR_LEN: usize = 16;

/// Descriptors with data in one request, and bytes in one of them.
pub const SEGMENTS_MAX: u32 = 126;
pub const SEGMENT_MAX: u32 = 256 << 10;
/// Sectors that one range clears, and ranges of one request.
pub const CLEAR_SECTORS_MAX: u32 = (1 << 30) / SECTOR as u32;
pub const CLEAR_RANGES_MAX: u32 = 16;
/// The block that the volume likes best, in sectors.
const BEST_SECTORS: u32 = 8;

/// Bytes of the configuration space.
pub const CONFIG_LEN: usize = 60;

/// The configuration space of a device of `size` bytes, little-endian:
///
/// ```text
///  0 u64 capacity, sectors       28 u32 optimal IO, blocks       44 u32 discard alignment, sectors
///  8 u32 size_max                32 u8  writeback (0)            48 u32 max write-zeroes sectors
/// 12 u32 seg_max                 33 u8  0                        52 u32 max write-zeroes ranges
/// 16 u8[4] geometry (0)          34 u16 queues                   56 u8  write-zeroes may unmap
/// 20 u32 block size              36 u32 max discard sectors      57 u8[3] 0
/// 24 u8 exponent of the physical block, u8 its offset, u16 minimum IO in blocks
///                                40 u32 max discard ranges
/// ```
pub fn config_space(size: u64, queues: u16) -> [u8; CONFIG_LEN] {
    let mut out = [0; CONFIG_LEN];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(size / SECTOR).to_le_bytes());
    put(8, &SEGMENT_MAX.to_le_bytes());
    put(12, &SEGMENTS_MAX.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(24, &[BEST_SECTORS.trailing_zeros() as u8, 0]);
    put(26, &(BEST_SECTORS as u16).to_le_bytes());
    put(28, &BEST_SECTORS.to_le_bytes());
    put(34, &queues.to_le_bytes());
    put(36, &CLEAR_SECTORS_MAX.to_le_bytes());
    put(40, &CLEAR_RANGES_MAX.to_le_bytes());
    put(44, &BEST_SECTORS.to_le_bytes());
    put(48, &CLEAR_SECTORS_MAX.to_le_bytes());
    put(52, &CLEAR_RANGES_MAX.to_le_bytes());
    put(56, &[1]);
    out
}

#[cfg(test)]
mod tests {
    use super::config_space;

    #[test]
    fn configuration_space_is_pinned() {
        let expected: [u8; 60] = [
            0x00, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 126, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 3, 0, 8, 0, 8, 0, 0, 0, 0,
            0, 16, 0, 0, 0, 0x20, 0, 16, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0x20, 0, 16, 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(config_space((1 << 20) + 511, 16), expected);
    }
}
