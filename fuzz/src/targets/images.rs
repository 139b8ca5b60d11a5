//! Disk images: ours read back, and what strangers may hand in.

use block_gateway::image::qcow2::{CLUSTER, MAGIC, Reader, Step, Writer};
use block_gateway::image::{Extent, HEAD_LEN, ImageError, Kind, Piece, Span};
use bytes::Bytes;

use crate::input::Input;

/// Bytes of a table that the reader may ask for at once.
const READ_MAX: u64 = 64 << 10;

/// qcow2 images.
pub fn image(input: &mut Input) {
    if input.once_in(16) { written(input) } else { made_up(input) }
}

/// What was written is read back, and damaged it is read or refused.
fn written(input: &mut Input) {
    let size = input.any() % (20 * CLUSTER);
    let mut writer = Writer::new(size).expect("a small disk");
    let (mut file, mut disk, mut at) = (Vec::new(), vec![0; size.next_multiple_of(512) as usize], 0);
    let write = |file: &mut Vec<u8>, pieces: Vec<Piece>| {
        for Piece { offset, bytes } in pieces {
            let (from, upto) = (offset as usize, offset as usize + bytes.len());
            file.resize(file.len().max(upto), 0);
            file[from..upto].copy_from_slice(&bytes);
        }
    };
    loop {
        at += input.any() % (3 * CLUSTER);
        if at >= size {
            break;
        }
        let len = input.any() % (2 * CLUSTER).min(size - at + 1);
        if input.once_in(3) {
            write(&mut file, writer.zeroes(at, len));
        } else {
            let bytes = vec![1 + (input.any() % 255) as u8; len as usize];
            disk[at as usize..][..len as usize].copy_from_slice(&bytes);
            write(&mut file, writer.data(at, bytes.into()));
        }
        at += len;
    }
    let rest = writer.finish();
    write(&mut file, rest.pieces);
    assert_eq!(file.len() as u64, rest.file_len, "the pieces are the file");
    let (reader, extents) = walk(&file).expect("our own image");
    assert!(contents(&reader, &extents, &file) == disk, "what was written is read back");
    input.damage(&mut file);
    drop(walk(&file));
}

/// A small image with tables of numbers that are often plausible.
fn made_up(input: &mut Input) {
    let bits_max = if input.once_in(20) { 21 } else { 11 };
    let bits = 9 + input.below(bits_max - 8) as u32;
    let clusters = 1 + input.below(8) as u64;
    let mut file = input.exactly(((clusters << bits) as usize).min(1 << 16));
    let table = (input.any() % clusters) << bits;
    let mapped = 1u64 << (2 * bits - 3);
    let (version, size) = (2 + input.below(2) as u32, (input.any() % (mapped * 4)) >> input.below(12));
    let kind = if input.once_in(10) { input.number() } else { 0 };
    let l1 = table as usize..table as usize + 8 * size.div_ceil(mapped) as usize;
    for place in (0..file.len() - 7).step_by(8) {
        let offset = (input.any() % clusters) << bits;
        let entry = match input.below(100) {
            0 => input.number(),
            1 => (input.any() % (clusters + 1)) << bits,
            2..70 => 1 << 63 | offset,
            _ if l1.contains(&place) => 0,
            70..80 => u64::from(version - 2),
            80..90 => 1 << 62 | ((input.any() % 3) << (70 - bits)) | (input.any() % file.len() as u64),
            _ => 0,
        };
        file[place..place + 8].copy_from_slice(&entry.to_be_bytes());
    }
    let head = [
        &MAGIC[..],
        &version.to_be_bytes(),
        &[0; 12],
        &bits.to_be_bytes(),
        &size.to_be_bytes(),
        &[0; 4],
        &(size.div_ceil(mapped) as u32).to_be_bytes(),
        &table.to_be_bytes(),
        &[0; 24],
        &kind.to_be_bytes(),
        &[0; 16],
        &4u32.to_be_bytes(),
        &104u32.to_be_bytes(),
        &[0; 8],
    ]
    .concat();
    file[..head.len()].copy_from_slice(&head);
    if input.once_in(3) {
        input.damage(&mut file);
    }
    let Ok((reader, extents)) = walk(&file) else { return };
    for extent in &extents {
        drop(bytes_of(&reader, extent, &file));
    }
}

/// Reads an image as its caller would; what it asks for and tells keeps to the file and the disk.
fn walk(file: &[u8]) -> Result<(Reader, Vec<Extent>), ImageError> {
    let file_len = file.len() as u64;
    let mut reader = Reader::open(&file[..file.len().min(HEAD_LEN)], file_len)?;
    let is_inside = |span: Span| span.offset.checked_add(span.len).is_some_and(|end| end <= file_len);
    assert!(reader.backing_name().is_none_or(is_inside), "the name is in the file");
    let (mut extents, mut at): (Vec<Extent>, u64) = (Vec::new(), 0);
    loop {
        match reader.step()? {
            Step::Read(span) => {
                assert!(is_inside(span) && (1..=READ_MAX).contains(&span.len), "{span:?} is read");
                reader.feed(Bytes::copy_from_slice(part(file, span)))?;
            }
            Step::Extent(extent) => {
                assert!(extent.start == at && extent.len > 0, "extents have no gaps");
                at += extent.len;
                match extent.kind {
                    Kind::Data { file_offset } => assert!(is_inside(Span { offset: file_offset, len: extent.len })),
                    Kind::Packed(span) => assert!(is_inside(span) && span.len <= 2 * reader.cluster()),
                    Kind::Zero | Kind::Unallocated => {}
                }
                extents.push(extent);
            }
            Step::End => break,
        }
    }
    assert_eq!(at, reader.size(), "all of the disk is told");
    Ok((reader, extents))
}

fn part(file: &[u8], span: Span) -> &[u8] {
    &file[span.offset as usize..][..span.len as usize]
}

fn bytes_of(reader: &Reader, extent: &Extent, file: &[u8]) -> Result<Vec<u8>, ImageError> {
    let bytes = match extent.kind {
        Kind::Data { file_offset } => part(file, Span { offset: file_offset, len: extent.len }).to_vec(),
        Kind::Packed(span) => reader.inflate(extent, part(file, span))?,
        Kind::Zero | Kind::Unallocated => return Ok(Vec::new()),
    };
    assert_eq!(bytes.len() as u64, extent.len, "an extent has all its bytes");
    Ok(bytes)
}

fn contents(reader: &Reader, extents: &[Extent], file: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; reader.size() as usize];
    for extent in extents {
        let bytes = bytes_of(reader, extent, file).expect("our own image");
        disk[extent.start as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    disk
}
