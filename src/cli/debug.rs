//! `bixi debug records DIR`: what the records of a data directory say of themselves.
//!
//! Reads `identity` and `data` and changes nothing; a running server is not disturbed. Behind a
//! damaged header the next one is looked for block by block; a block of zeros ends its slot. What
//! is left of deleted shards is listed too, until their slots are used again.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proto::identity::Identity;
use proto::record::{BLOCK, RecordHeader, RecordKind, record_len};
use serde_json::json;

use super::failure::Failure;
use super::output::{print_json, print_line};
use crate::args::Output;

/// Lists the records of `dir`, or only those that `request` wrote.
pub fn records(dir: &Path, request: Option<u64>, output: Output) -> Result<(), Failure> {
    let identity = read_identity(dir)?;
    let path = dir.join("data");
    let data =
        File::open(&path).map_err(|error| Failure::caused(&format!("cannot open {}", path.display()), &error))?;
    let len = data.metadata().map_err(|error| Failure::caused("cannot read the data file", &error))?.len();
    if output == Output::Table {
        print_line(&format!(
            "{:>14} {:>16} {:9} {:>16} {:>10} {:>5} {:>6} {:>10} {:>8}",
            "position", "request", "kind", "chunk", "placement", "shard", "epoch", "offset", "len"
        ))?;
    }
    let slot_size = identity.slot_size.max(BLOCK as u64);
    let mut block = vec![0; BLOCK];
    let mut at = BLOCK as u64;
    while at + BLOCK as u64 <= len {
        data.read_exact_at(&mut block, at).map_err(|error| Failure::caused("cannot read the data file", &error))?;
        let slot_end = (at / slot_size + 1).saturating_mul(slot_size);
        match RecordHeader::decode(&block, identity.store) {
            Ok(header) => {
                if request.is_none_or(|wanted| wanted == header.request.0) {
                    print(at, &header, output)?;
                }
                at += record_len(header.payload_len as usize) as u64;
            }
            // Nothing was ever written here: so it is with the rest of the slot.
            Err(_) if block.iter().all(|byte| *byte == 0) => at = slot_end,
            Err(_) => at += BLOCK as u64,
        }
    }
    Ok(())
}

fn read_identity(dir: &Path) -> Result<Identity, Failure> {
    let path = dir.join("identity");
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| Failure::caused(&format!("{} is no data directory", dir.display()), &error))?;
    Identity::decode(&bytes).map_err(|error| Failure::caused(&path.display().to_string(), &error))
}

fn print(at: u64, header: &RecordHeader, output: Output) -> Result<(), Failure> {
    let kind = match header.kind {
        RecordKind::Data => "data",
        RecordKind::Fence => "fence",
        RecordKind::Seal => "seal",
        RecordKind::Tombstone => "tombstone",
    };
    if output == Output::Json {
        return print_json(&json!({
            "position": at,
            "request": header.request.to_string(),
            "kind": kind,
            "chunk": header.chunk.to_string(),
            "placement": header.placement.to_string(),
            "shard": header.shard.0,
            "epoch": header.epoch.0,
            "offset": header.offset,
            "len": header.payload_len,
            "durable_len": header.durable_len,
            "slot_sequence": header.slot_sequence,
            "slot_index": header.slot_index,
            "cut": header.cut,
        }));
    }
    print_line(&format!(
        "{at:>14} {:>16} {kind:9} {:>16} {:>10} {:>5} {:>6} {:>10} {:>8}",
        header.request.to_string(),
        header.chunk.to_string(),
        header.placement.to_string(),
        header.shard.0,
        header.epoch.0,
        header.offset,
        header.payload_len
    ))
}
