//! Images in memory: what was written is read back, and hostile ones are refused.

use bytes::Bytes;

use super::header::{self, Header};
use super::*;
use crate::image::{Extent, HEAD_LEN, ImageError, Kind, Piece, Span};

/// A generator of numbers that is enough for tests.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a disk is told to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    pub start: u64,
    pub len: u64,
    pub is_data: bool,
}

/// Bytes of the disk that depend on their place.
pub fn pattern(start: u64, len: u64) -> Bytes {
    (start..start + len).map(|at| (at * 31 + at / 251 + (at >> 16) * 7) as u8).collect::<Vec<u8>>().into()
}

/// A file and all that was written to it.
#[derive(Default)]
pub struct Sink {
    pub bytes: Vec<u8>,
}

impl Sink {
    pub fn write(&mut self, pieces: Vec<Piece>) {
        for Piece { offset, bytes } in pieces {
            let (from, upto) = (offset as usize, offset as usize + bytes.len());
            self.bytes.resize(self.bytes.len().max(upto), 0);
            self.bytes[from..upto].copy_from_slice(&bytes);
        }
    }
}

pub fn image(size: u64, told: &[Told]) -> Vec<u8> {
    let (mut writer, mut sink) = (Writer::new(size).expect("size"), Sink::default());
    for Told { start, len, is_data } in told {
        let pieces = if *is_data { writer.data(*start, pattern(*start, *len)) } else { writer.zeroes(*start, *len) };
        assert!(pieces.iter().map(|piece| piece.offset).is_sorted(), "written from the front to the back");
        sink.write(pieces);
    }
    let rest = writer.finish();
    assert_eq!(rest.pieces.last().map(|piece| piece.offset), Some(0), "the header is the last");
    sink.write(rest.pieces);
    assert_eq!(sink.bytes.len() as u64, rest.file_len);
    sink.bytes
}

/// All extents of an image; they have no gaps.
pub fn extents(file: &[u8]) -> Result<(Reader, Vec<Extent>), ImageError> {
    let mut reader = Reader::open(&file[..file.len().min(HEAD_LEN)], file.len() as u64)?;
    let (mut extents, mut at): (Vec<Extent>, u64) = (Vec::new(), 0);
    loop {
        match reader.step()? {
            Step::Read(span) => reader.feed(part(file, span))?,
            Step::Extent(extent) => {
                assert!(extent.start == at && extent.len > 0, "extents have no gaps");
                at += extent.len;
                extents.push(extent);
            }
            Step::End => break,
        }
    }
    assert_eq!(at, reader.size());
    Ok((reader, extents))
}

fn part(file: &[u8], span: Span) -> Bytes {
    Bytes::copy_from_slice(&file[span.offset as usize..][..span.len as usize])
}

/// The bytes of an extent; none if the image has none.
pub fn bytes_of(file: &[u8], reader: &Reader, extent: &Extent) -> Result<Option<Bytes>, ImageError> {
    Ok(match extent.kind {
        Kind::Data { file_offset } => Some(part(file, Span { offset: file_offset, len: extent.len })),
        Kind::Packed(span) => Some(reader.inflate(extent, &part(file, span))?.into()),
        Kind::Zero | Kind::Unallocated => None,
    })
}

/// Random ranges of a disk of some tables, most of them close together, many across borders of tables.
pub fn ranges(draw: &mut Draw) -> (u64, Vec<Told>) {
    let size = draw.below(1600 << 20);
    let (mut told, mut at) = (Vec::new(), 0);
    loop {
        at += match draw.below(6) {
            0 | 1 => 0,
            2 => draw.below(CLUSTER),
            3 => draw.below(8) * CLUSTER + CLUSTER - at % CLUSTER,
            4 => draw.below(40) * CLUSTER,
            _ => ((512 << 20) - at % (512 << 20)).saturating_sub(draw.below(3) * CLUSTER / 2),
        };
        if at >= size || told.len() > 40 {
            return (size, told);
        }
        let len = match draw.below(4) {
            0 => draw.below(1000),
            1 => CLUSTER * draw.below(4),
            2 => CLUSTER - at % CLUSTER,
            _ => draw.below(5 * CLUSTER),
        };
        let mut range = Told { start: at, len: len.min(size - at), is_data: draw.below(3) > 0 };
        if !range.is_data && draw.below(5) == 0 {
            range.len = draw.below(900 << 20).min(size - at);
        }
        at += range.len;
        told.push(range);
    }
}

/// What a cluster of the image has to be, by the ranges that touch it.
fn kind_of(told: &[Told], cluster: u64) -> &'static str {
    let (from, upto) = (cluster * CLUSTER, (cluster + 1) * CLUSTER);
    let touches = |range: &&Told| range.len > 0 && range.start < upto && range.start + range.len > from;
    let touching: Vec<&Told> = told.iter().filter(touches).collect();
    match touching.iter().any(|range| range.is_data) {
        true => "data",
        false if touching.is_empty() => "unallocated",
        false => "zero",
    }
}

#[test]
fn what_was_written_is_read_back() {
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let (size, told) = ranges(&mut draw);
        let file = image(size, &told);
        let (reader, extents) = extents(&file).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(reader.size(), size.next_multiple_of(512));
        assert_eq!(reader.backing_name(), None);
        for extent in &extents {
            let name = match extent.kind {
                Kind::Data { .. } => "data",
                Kind::Zero => "zero",
                Kind::Unallocated => "unallocated",
                Kind::Packed(_) => "packed",
            };
            assert_eq!(extent.start % CLUSTER, 0);
            let mut clusters = extent.start / CLUSTER..(extent.start + extent.len).div_ceil(CLUSTER);
            assert!(clusters.all(|cluster| kind_of(&told, cluster) == name), "seed {seed}: {extent:?}");
            let Some(bytes) = bytes_of(&file, &reader, extent).expect("bytes") else { continue };
            let mut expected = vec![0; bytes.len()];
            for range in told.iter().filter(|range| range.is_data) {
                let from = range.start.max(extent.start);
                let upto = (range.start + range.len).min(extent.start + extent.len);
                if from < upto {
                    expected[(from - extent.start) as usize..(upto - extent.start) as usize]
                        .copy_from_slice(&pattern(from, upto - from));
                }
            }
            assert!(bytes == expected, "seed {seed}: {extent:?} has other bytes");
        }
    }
}

#[test]
fn the_bytes_of_an_image_are_these() {
    let told = [Told { start: 65536, len: 3, is_data: true }, Told { start: 3 * 65536, len: 65536, is_data: false }];
    let file = image((1 << 20) + 1, &told);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // Header, data, L2, L1, refcount table, refcount block.
    assert_eq!(file.len(), 6 * 65536);
    let head = "514649fb 00000003 0000000000000000 00000000 00000010 0000000000100200 00000000 00000001 \
        0000000000030000 0000000000040000 00000001 00000000 0000000000000000 0000000000000000 0000000000000000 \
        0000000000000000 00000004 00000068 0000000000000000";
    assert_eq!(hex(&file[..112]), head.replace(' ', ""));
    assert!(file[112..65536].iter().all(|byte| *byte == 0));
    assert_eq!(file[65536..65540], [pattern(65536, 3).as_ref(), &[0]].concat());
    assert_eq!(
        hex(&file[2 * 65536..][..40]),
        "00000000000000008000000000010000000000000000000000000000000000010000000000000000"
    );
    assert_eq!(hex(&file[3 * 65536..][..16]), "80000000000200000000000000000000");
    assert_eq!(hex(&file[4 * 65536..][..16]), "00000000000500000000000000000000");
    assert_eq!(hex(&file[5 * 65536..][..16]), "00010001000100010001000100000000");
}

#[test]
fn whole_clusters_are_written_in_one_piece_and_not_copied() {
    let mut writer = Writer::new(1 << 30).expect("size");
    let bytes = Bytes::from(vec![1; 20 * CLUSTER as usize]);
    let pieces = writer.data((512 << 20) - 5 * CLUSTER, bytes.clone());
    let offsets: Vec<(u64, usize)> =
        pieces.iter().map(|piece| (piece.offset / CLUSTER, piece.bytes.len() / CLUSTER as usize)).collect();
    assert_eq!(offsets, [(1, 5), (6, 1), (7, 15)], "the table lies between");
    assert_eq!(pieces[0].bytes.as_ptr(), bytes.as_ptr());
}

#[test]
fn trimmed_disks_of_64_tib_share_their_tables() {
    let size = 64 << 40;
    let mut writer = Writer::new(size).expect("size");
    let mut pieces = writer.zeroes(0, size);
    let rest = writer.finish();
    assert_eq!(rest.file_len, (1 + 131_072 + 16 + 1 + 5) * CLUSTER);
    pieces.extend(rest.pieces);
    let places: std::collections::BTreeSet<*const u8> = pieces.iter().map(|piece| piece.bytes.as_ptr()).collect();
    assert!(places.len() < 12, "{} buffers", places.len());
    assert!(Writer::new(SIZE_MAX).is_ok());
    assert_eq!(Writer::new(SIZE_MAX + 1).err(), Some(ImageError::TooLarge { size: SIZE_MAX + 1, max: SIZE_MAX }));
}

#[test]
#[should_panic(expected = "ranges ascend")]
fn ranges_do_not_go_back() {
    let mut writer = Writer::new(1 << 20).expect("size");
    writer.data(100, Bytes::from_static(b"abc"));
    writer.zeroes(102, 1);
}

/// An image with clusters of 512 bytes: header, L1, L2, and a cluster of data.
fn small() -> Vec<u8> {
    let mut file = header::encode(64 * 512, 9, Span { offset: 512, len: 8 }, Span { offset: 0, len: 512 });
    file.resize(4 * 512, 0);
    put(&mut file, 512, COPIED | 1024);
    put(&mut file, 1024, COPIED | 1536);
    file[1536..].fill(7);
    file
}

fn put(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn small_clusters_are_read() {
    let (reader, found) = extents(&small()).expect("image");
    assert_eq!(reader.cluster(), 512);
    let kinds: Vec<(u64, Kind)> = found.iter().map(|extent| (extent.len, extent.kind)).collect();
    assert_eq!(kinds, [(512, Kind::Data { file_offset: 1536 }), (63 * 512, Kind::Unallocated)]);
    let expected =
        Header { version: 3, size: 64 * 512, cluster_bits: 9, l1: Span { offset: 512, len: 8 }, backing: None };
    assert_eq!(header::decode(&small(), 2048), Ok(expected));
}

#[test]
fn what_the_files_end_lacks_of_a_cluster_are_zeroes() {
    let file = &small()[..1600];
    let (_, found) = extents(file).expect("image");
    let kinds: Vec<(u64, Kind)> = found.iter().map(|extent| (extent.len, extent.kind)).collect();
    let rest = (512 * 63, Kind::Unallocated);
    assert_eq!(kinds, [(64, Kind::Data { file_offset: 1536 }), (448, Kind::Zero), rest]);
    let damaged = Err(ImageError::Damaged { what: "an L2 entry", value: COPIED | 1536 });
    assert_eq!(extents(&small()[..1536]).map(|_| ()), damaged, "all of it is lacking");
}

#[test]
fn hostile_headers_are_refused() {
    let unsupported = |error: &ImageError| matches!(error, ImageError::Unsupported { .. });
    let damaged = |error: &ImageError| matches!(error, ImageError::Damaged { .. });
    type Expected = fn(&ImageError) -> bool;
    let cases: [(&str, usize, &[u8], Expected); 22] = [
        ("magic", 0, b"QFI\xfa", |error| *error == ImageError::Magic),
        ("version 1", 4, &[0, 0, 0, 1], unsupported),
        ("version 4", 4, &[0, 0, 0, 4], unsupported),
        ("clusters of 256", 20, &[0, 0, 0, 8], damaged),
        ("clusters of 4 MiB", 20, &[0, 0, 0, 22], damaged),
        ("clusters of 2^255", 20, &[0, 0, 0, 255], damaged),
        ("a disk larger than its table", 24, &[0, 0, 0, 0, 0, 0, 0x80, 1], damaged),
        ("the largest disk", 24, &[0xff; 8], damaged),
        ("encryption", 32, &[0, 0, 0, 2], unsupported),
        ("no L1 entries", 36, &[0; 4], damaged),
        ("4 billion L1 entries", 36, &[0xff; 4], damaged),
        ("L1 at an odd place", 40, &[0, 0, 0, 0, 0, 0, 2, 8], damaged),
        ("L1 behind the end", 40, &[0, 0, 0, 0, 0, 0, 8, 0], damaged),
        ("L1 at the end of numbers", 40, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0], damaged),
        ("corrupt", 79, &[2], |error| *error == ImageError::Corrupt),
        ("data in another file", 79, &[4], unsupported),
        ("compression without a method", 79, &[8], damaged),
        ("extended L2 entries", 79, &[16], unsupported),
        ("unknown features", 72, &[0x80], unsupported),
        ("a short header", 100, &[0, 0, 0, 96], damaged),
        ("an odd header", 100, &[0, 0, 0, 105], damaged),
        ("a header longer than a cluster", 100, &[0, 0, 2, 8], damaged),
    ];
    for (name, at, bytes, is_expected) in cases {
        let mut file = small();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let error = extents(&file).map(|_| ()).expect_err(name);
        assert!(is_expected(&error), "{name}: {error}");
    }
    for len in 0..104 {
        assert!(extents(&small()[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn methods_of_compression_are_told_apart() {
    let with = |bit: u8, kind: u8| {
        let mut file = small();
        (file[79], file[103], file[104]) = (bit, 112, kind);
        extents(&file).map(|_| ())
    };
    assert_eq!(with(0, 0), Ok(()));
    assert_eq!(with(1, 0), Ok(()), "a dirty image has wrong refcounts, which are not looked at");
    assert_eq!(with(8, 1), Err(ImageError::Unsupported { what: "zstd compression", value: 1 }));
    assert_eq!(with(8, 2), Err(ImageError::Unsupported { what: "an unknown compression", value: 2 }));
    assert_eq!(with(0, 1), Err(ImageError::Damaged { what: "the method of compression", value: 1 }));
    assert_eq!(with(8, 0), Err(ImageError::Damaged { what: "the method of compression", value: 0 }));
}

#[test]
fn the_name_of_a_backing_file_is_within_the_first_cluster() {
    let named = |offset: u64, len: u32| {
        let mut file = small();
        put(&mut file, 8, offset);
        file[16..20].copy_from_slice(&len.to_be_bytes());
        extents(&file).map(|(reader, _)| reader.backing_name())
    };
    assert_eq!(named(112, 5), Ok(Some(Span { offset: 112, len: 5 })));
    assert_eq!(named(507, 5), Ok(Some(Span { offset: 507, len: 5 })));
    assert_eq!((named(112, 0), named(0, 5)), (Ok(None), Ok(None)));
    for (offset, len) in [(508, 5), (512, 1), (112, 1024), (u64::MAX, 1), (u64::MAX, u32::MAX)] {
        assert!(named(offset, len).is_err(), "{len} at {offset}");
    }
}

#[test]
fn hostile_tables_are_refused() {
    for (at, entry) in [
        (512, 1024 | 1),
        (512, COPIED | 1 << 62 | 1024),
        (512, COPIED | 2048),
        (512, OFFSET),
        (1024, 1536 | 2),
        (1024, 1536 | 1 << 56),
        (1024, COPIED | 2048),
        (1024, OFFSET),
        (1024, COPIED | PACKED | 1536),
        (1024, PACKED | 2048),
        (1024, !COPIED),
    ] {
        let mut file = small();
        put(&mut file, at, entry);
        let error = extents(&file).map(|_| ()).expect_err("damaged");
        assert!(matches!(error, ImageError::Damaged { .. }), "{entry:x} at {at}: {error}");
    }
    let mut file = small();
    put(&mut file, 1024, ZERO);
    assert_eq!(extents(&file).expect("zero").1[0].kind, Kind::Zero);
    file[7] = 2;
    assert!(extents(&file).is_err(), "version 2 has no zero clusters");
}

#[test]
fn unaligned_tables_of_large_clusters_are_refused() {
    let mut file = header::encode(1 << 30, 10, Span { offset: 1024, len: 8 << 13 }, Span { offset: 0, len: 0 });
    file.resize(100 << 10, 0);
    put(&mut file, 1024, 512 * 3);
    assert!(extents(&file).is_err());
    put(&mut file, 1024, 0);
    let whole = Extent { start: 0, len: 1 << 30, kind: Kind::Unallocated };
    assert_eq!(extents(&file).expect("empty").1, [whole]);
}

#[test]
fn a_file_that_became_shorter_is_seen() {
    let file = small();
    let mut reader = Reader::open(&file, file.len() as u64).expect("header");
    let first = reader.step();
    assert_eq!(first, Ok(Step::Read(Span { offset: 512, len: 8 })));
    assert_eq!(reader.step(), first, "asked again it answers the same");
    assert_eq!(reader.feed(Bytes::from_static(b"abc")), Err(ImageError::Short { have: 3, need: 8 }));
}

#[test]
fn junk_never_panics() {
    let mut draw = Draw(5);
    for _ in 0..20_000 {
        let mut file = small();
        for _ in 0..=draw.below(4) {
            let at = if draw.below(2) == 0 { draw.below(112) } else { draw.below(1600) } as usize;
            file[at] = draw.below(256) as u8;
        }
        file.truncate(if draw.below(4) == 0 { draw.below(2049) as usize } else { 2048 });
        if let Ok((reader, found)) = extents(&file) {
            // A hole may be larger than memory: only what has bytes is fetched.
            found.iter().for_each(|extent| drop(bytes_of(&file, &reader, extent)));
        }
    }
}
