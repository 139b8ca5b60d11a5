//! Settings of a store.

/// Numbers an operator or a test may turn.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes of a slot of the data file; fixed when the store is made.
    pub slot_size: u64,
    /// Slots kept written ahead of need; 0 = none are.
    pub prewritten_slots: u64,
    /// A checkpoint is taken after this many new records.
    pub checkpoint_records: u64,
    /// Appends are refused when the file system has less than this many bytes available.
    pub reserve_bytes: u64,
    /// Bytes of checksum tables kept for small reads of large records.
    pub tables_bytes: usize,
    /// Most bytes the data file may take; 0 = what the file system gives.
    pub capacity_bytes: u64,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            slot_size: 4 << 20,
            prewritten_slots: 16,
            checkpoint_records: 20_000,
            reserve_bytes: 96 << 20,
            tables_bytes: 16 << 20,
            capacity_bytes: 0,
        }
    }
}
