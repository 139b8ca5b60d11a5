//! Images to and from QEMU's own tools, where they are installed: it checks ours, and we read its.

#![expect(clippy::disallowed_methods, reason = "the tools work on real files")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::tests::{Draw, Sink, Told, bytes_of, extents, image, pattern, ranges};
use super::{CLUSTER, Writer};
use crate::image::{Extent, ImageError, Kind};

/// A directory that goes with the test.
struct Place(PathBuf);

impl Place {
    /// None: the tools are not here.
    fn new(name: &str) -> Option<Place> {
        let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
        if !has("qemu-img") || !has("qemu-io") {
            eprintln!("skipped: qemu-img and qemu-io are not installed");
            return None;
        }
        let path = std::env::temp_dir().join(format!("bixi-image-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("directory");
        Some(Place(path))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.at(name), bytes).expect("file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).expect("file")
    }

    /// Runs a command line of words in the directory; answers whether it went well, and what it said.
    fn tried(&self, line: &str) -> (bool, String) {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().expect("a tool"));
        let output = command.args(words).current_dir(&self.0).output().expect("started");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    }

    fn run(&self, line: &str) -> String {
        let (is_good, text) = self.tried(line);
        assert!(is_good, "{line}: {text}");
        text
    }

    /// One tool with commands that have spaces.
    fn io(&self, name: &str, commands: &[&str]) {
        let mut io = Command::new("qemu-io");
        for command in commands {
            io.args(["-c", command]);
        }
        let output = io.arg(name).current_dir(&self.0).output().expect("started");
        // A command may be told to abort; that it came to it is seen by what is read.
        assert!(commands.contains(&"abort") || output.status.success(), "{output:?}");
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(line)).expect("JSON")
    }

    /// What a disk has to be, as a raw image.
    fn raw(&self, name: &str, size: u64, told: &[Told]) {
        let file = File::create(self.at(name)).expect("file");
        file.set_len(size).expect("length");
        for Told { start, len, .. } in told.iter().filter(|range| range.is_data) {
            file.write_all_at(&pattern(*start, *len), *start).expect("written");
        }
    }

    /// What we read of an image, as a raw image.
    fn unpacked(&self, name: &str, to: &str) -> Result<Vec<Extent>, ImageError> {
        let file = self.read(name);
        let (reader, extents) = extents(&file)?;
        let raw = File::create(self.at(to)).expect("file");
        raw.set_len(reader.size()).expect("length");
        for extent in &extents {
            if let Some(bytes) = bytes_of(&file, &reader, extent)? {
                raw.write_all_at(&bytes, extent.start).expect("written");
            }
        }
        Ok(extents)
    }

    /// QEMU finds the same bytes in an image as we do; answers what we found.
    fn is_read_alike(&self, name: &str) -> Vec<Extent> {
        let extents = self.unpacked(name, "ours.raw").unwrap_or_else(|error| panic!("{name}: {error}"));
        self.run(&format!("qemu-img compare -f raw -F qcow2 ours.raw {name}"));
        extents
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(Path::new(&self.0)));
    }
}

fn count(extents: &[Extent], is_it: impl Fn(Kind) -> bool) -> u64 {
    extents.iter().filter(|extent| is_it(extent.kind)).map(|extent| extent.len).sum()
}

fn is_packed(kind: Kind) -> bool {
    matches!(kind, Kind::Packed(_))
}

#[test]
fn qemu_finds_no_fault_in_our_images() {
    let Some(place) = Place::new("check") else { return };
    let empty = (0, Vec::new());
    let tiny = (1, vec![Told { start: 0, len: 1, is_data: true }]);
    let drawn = (100..112).map(|seed| ranges(&mut Draw(seed)));
    for (size, told) in [empty, tiny].into_iter().chain(drawn) {
        place.write("ours.qcow2", &image(size, &told));
        place.raw("model.raw", size.next_multiple_of(512), &told);
        let check = place.json("qemu-img check --output=json ours.qcow2");
        assert_eq!(
            (&check["check-errors"], &check["leaks"], &check["corruptions"]),
            (&0.into(), &Value::Null, &Value::Null)
        );
        let info = place.json("qemu-img info --output=json ours.qcow2");
        assert_eq!(info["virtual-size"], size.next_multiple_of(512));
        assert_eq!((&info["format"], &info["cluster-size"]), (&"qcow2".into(), &CLUSTER.into()));
        assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
        assert_eq!(info["format-specific"]["data"]["refcount-bits"], 16);
        assert_eq!(info["backing-filename"], Value::Null);
        place.run("qemu-img compare -f raw -F qcow2 model.raw ours.qcow2");
    }
}

#[test]
fn qemu_maps_our_images_as_they_were_told() {
    let Some(place) = Place::new("map") else { return };
    let size = 600 << 20;
    let told = [
        Told { start: CLUSTER, len: CLUSTER + 1, is_data: true },
        Told { start: 8 * CLUSTER, len: 2 * CLUSTER, is_data: false },
        Told { start: (512 << 20) - CLUSTER, len: 3 * CLUSTER, is_data: true },
    ];
    place.write("ours.qcow2", &image(size, &told));
    let map = place.json("qemu-img map --output=json ours.qcow2");
    let rows: Vec<(u64, u64, bool, bool, bool, Option<u64>)> = map
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let is = |key: &str| row[key].as_bool().expect("a bool");
            let number = |key: &str| row[key].as_u64();
            let (start, len) = (number("start").expect("start"), number("length").expect("length"));
            (
                start / CLUSTER,
                len / CLUSTER,
                is("present"),
                is("zero"),
                is("data"),
                number("offset").map(|at| at / CLUSTER),
            )
        })
        .collect();
    let border = 8192;
    assert_eq!(
        rows,
        [
            (0, 1, false, true, false, None),
            (1, 2, true, false, true, Some(1)),
            (3, 5, false, true, false, None),
            (8, 2, true, true, false, None),
            (10, border - 11, false, true, false, None),
            (border - 1, 1, true, false, true, Some(3)),
            (border, 2, true, false, true, Some(5)),
            (border + 2, 600 * 16 - border - 2, false, true, false, None),
        ]
    );
}

#[test]
fn an_increment_is_laid_over_an_older_image() {
    let Some(place) = Place::new("increment") else { return };
    let size = 40 * CLUSTER + 700;
    let old = [
        Told { start: 100, len: 20 * CLUSTER + 500, is_data: true },
        Told { start: 39 * CLUSTER, len: CLUSTER + 600, is_data: true },
    ];
    let new = [
        Told { start: 3 * CLUSTER, len: 4 * CLUSTER, is_data: false },
        Told { start: 20 * CLUSTER, len: CLUSTER, is_data: false },
        Told { start: 30 * CLUSTER, len: 2 * CLUSTER, is_data: true },
        Told { start: 40 * CLUSTER, len: 700, is_data: false },
    ];
    let mut model = vec![0; size.next_multiple_of(512) as usize];
    for Told { start, len, is_data } in old.into_iter().chain(new) {
        let bytes = if is_data { pattern(start, len) } else { vec![0; len as usize].into() };
        model[start as usize..][..len as usize].copy_from_slice(&bytes);
    }
    place.write("model.raw", &model);
    place.write("old.qcow2", &image(size, &old));
    place.write("new.qcow2", &image(size, &new));
    place.run("qemu-img rebase -u -b old.qcow2 -F qcow2 new.qcow2");
    place.run("qemu-img check new.qcow2");
    place.run("qemu-img compare -f raw -F qcow2 model.raw new.qcow2");
    place.run("qemu-img commit new.qcow2");
    place.run("qemu-img check old.qcow2");
    place.run("qemu-img compare -f raw -F qcow2 model.raw old.qcow2");
}

#[test]
fn images_with_more_than_one_refcount_block_are_whole() {
    let Some(place) = Place::new("large") else { return };
    // 3 GiB of data in a file with holes, so that it takes no room: pieces of zeroes are not written.
    let (size, step) = (3 << 30, 64 << 20);
    let (mut writer, zeroes) = (Writer::new(size).expect("size"), bytes::Bytes::from(vec![0; step as usize]));
    let file = File::create(place.at("ours.qcow2")).expect("file");
    let write = |pieces: Vec<crate::image::Piece>| {
        for piece in pieces.iter().filter(|piece| piece.bytes.iter().any(|byte| *byte != 0)) {
            file.write_all_at(&piece.bytes, piece.offset).expect("written");
        }
    };
    (0..size / step).for_each(|number| write(writer.data(number * step, zeroes.clone())));
    let rest = writer.finish();
    write(rest.pieces);
    file.set_len(rest.file_len).expect("length");
    let text = place.run("qemu-img check ours.qcow2");
    assert!(text.contains("No errors were found"), "{text}");
    assert!(text.contains("49152/49152 = 100.00% allocated"), "{text}");
}

#[test]
fn a_file_that_was_left_half_done_is_no_image() {
    let Some(place) = Place::new("half") else { return };
    let (mut writer, mut sink) = (Writer::new(1 << 20).expect("size"), Sink::default());
    sink.write(writer.data(0, pattern(0, 1 << 20)));
    let mut rest = writer.finish();
    rest.pieces.pop();
    sink.write(rest.pieces);
    place.write("half.qcow2", &sink.bytes);
    let (is_good, text) = place.tried("qemu-img info -f qcow2 half.qcow2");
    assert!(!is_good && text.contains("not in qcow2 format"), "{text}");
}

#[test]
fn images_of_every_version_and_cluster_are_read() {
    let Some(place) = Place::new("versions") else { return };
    for options in [
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "compat=1.1",
        "compat=1.1,cluster_size=512",
        "compat=1.1,cluster_size=4096,refcount_bits=1",
        "compat=1.1,cluster_size=2M,refcount_bits=64",
        "compat=1.1,preallocation=metadata",
        "compat=1.1,lazy_refcounts=on",
    ] {
        place.run(&format!("qemu-img create -q -f qcow2 -o {options} theirs.qcow2 70001K"));
        let writes = ["write -P 7 0 64k", "write -P 9 1000k 3000", "write -P 3 69900k 101k", "discard 16k 16k"];
        place.io("theirs.qcow2", &writes);
        let extents = place.is_read_alike("theirs.qcow2");
        assert!(count(&extents, |kind| matches!(kind, Kind::Data { .. })) >= 64 << 10, "{options}");
        if options.contains("compat=1.1") {
            place.io("theirs.qcow2", &["write -z 4M 8M", "write -z -u 20M 4M", "write -z 0 4k"]);
            let extents = place.is_read_alike("theirs.qcow2");
            assert!(count(&extents, |kind| kind == Kind::Zero) >= 12 << 20, "{options}");
        }
        // Packed: as it is, and as far as the last cluster, which is not whole.
        place.run(&format!(
            "qemu-img convert -c -O qcow2 -o {} theirs.qcow2 packed.qcow2",
            options.replace(",preallocation=metadata", "").replace(",lazy_refcounts=on", "")
        ));
        assert!(count(&place.is_read_alike("packed.qcow2"), is_packed) > 0, "{options}");
    }
}

#[test]
fn packed_random_text_and_plain_clusters_are_read() {
    let Some(place) = Place::new("packed") else { return };
    let mut draw = Draw(3);
    let mut disk = vec![0; 5_000_192];
    for (number, part) in disk.chunks_mut(30_000).enumerate() {
        match number % 4 {
            0 => part.iter_mut().for_each(|byte| *byte = draw.below(256) as u8),
            1 => part.iter_mut().for_each(|byte| *byte = b"abc def\n"[draw.below(8) as usize]),
            2 => part.copy_from_slice(&pattern(number as u64 * 30_000, part.len() as u64)),
            _ => {}
        }
    }
    place.write("disk.raw", &disk);
    for cluster in ["512", "4k", "64k", "2M"] {
        place.run(&format!("qemu-img convert -c -f raw -O qcow2 -o cluster_size={cluster} disk.raw packed.qcow2"));
        let extents = place.is_read_alike("packed.qcow2");
        assert!(count(&extents, is_packed) > 0, "{cluster}");
        assert!(place.read("ours.raw") == disk, "{cluster}");
    }
}

#[test]
fn snapshots_in_an_image_and_dirty_images_are_read() {
    let Some(place) = Place::new("snapshots") else { return };
    place.run("qemu-img create -q -f qcow2 -o lazy_refcounts=on theirs.qcow2 10M");
    place.io("theirs.qcow2", &["write -P 7 0 1M"]);
    place.run("qemu-img snapshot -c one theirs.qcow2");
    place.io("theirs.qcow2", &["write -P 8 64k 64k", "write -z 512k 64k"]);
    place.is_read_alike("theirs.qcow2");
    place.io("theirs.qcow2", &["write -P 9 5M 64k", "flush", "abort"]);
    assert_eq!(place.read("theirs.qcow2")[79] & 1, 1, "it is dirty");
    place.unpacked("theirs.qcow2", "ours.raw").expect("read");
    assert_eq!(place.read("ours.raw")[5 << 20], 9);
}

#[test]
fn what_is_not_read_says_so() {
    let Some(place) = Place::new("refused") else { return };
    let secret = "--object secret,id=key,data=abc -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    for (options, what) in [
        (secret, "encryption"),
        ("-o extended_l2=on", "extended L2 entries"),
        ("-o data_file=data.raw", "its data in another file"),
        ("-o compression_type=zstd", "zstd compression"),
    ] {
        place.run(&format!("qemu-img create -q -f qcow2 {options} theirs.qcow2 1M"));
        let error = place.unpacked("theirs.qcow2", "ours.raw").expect_err(what);
        assert!(matches!(error, ImageError::Unsupported { what: found, .. } if found == what), "{error}");
    }
}

#[test]
fn an_image_with_a_backing_file_names_it() {
    let Some(place) = Place::new("backing") else { return };
    place.run("qemu-img create -q -f qcow2 base.qcow2 1M");
    place.run("qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 theirs.qcow2");
    let file = place.read("theirs.qcow2");
    let name = extents(&file).expect("read").0.backing_name().expect("a backing file");
    assert_eq!(&file[name.offset as usize..][..name.len as usize], b"base.qcow2");
}
