//! Words of the domain as text: refused or read, and written back as they were read.

use types::extent::Extent;
use types::ids::{ChunkId, Partition};
use types::names::{BucketName, KEY_LEN_MAX, ObjectKey};
use types::redundancy::{COPIES_MAX, Redundancy, SHARDS_MAX};
use types::size::{format_size, parse_size};

use crate::input::Input;

/// `copies:N`, `ec:K+M`, and the law of sealing.
pub fn redundancy(input: &mut Input) {
    let text = match input.below(3) {
        0 => format!("copies:{}", input.number()),
        1 => format!("ec:{}+{}", input.below(40), input.below(40)),
        _ => input.text("ec:opis+0123456789", 12),
    };
    let Ok(policy) = text.parse::<Redundancy>() else { return };
    assert_eq!(policy.to_string().parse(), Ok(policy), "{text} reads back");
    let (shards, needed) = (policy.shards(), policy.needed());
    assert!((1..=usize::from(SHARDS_MAX)).contains(&shards) && (1..=shards).contains(&needed), "{text} can be");
    let small = policy.small().policy;
    assert_eq!(small.parity(), policy.parity(), "small data survives as many losses");
    assert!(small.shards() <= usize::from(COPIES_MAX));
    let (acked, answered) = (input.below(shards + 1), input.below(shards + 1));
    assert_eq!(policy.seal_is_safe(acked, answered), acked + answered >= shards + needed, "{text}");
    assert!(policy.seal_is_safe(shards, needed), "all acks and enough answers are safe");
}

/// `4k`, `10M`, `5GiB`.
pub fn size(input: &mut Input) {
    let number = input.number();
    let unit = input.pick(&["", "k", "M", "G", "T", "KiB", "mib", "b", "x", " k"]);
    let text = if input.once_in(2) { format!("{number}{unit}") } else { input.text("0123456789kMGTiB .-", 12) };
    if let Ok(bytes) = parse_size(&text) {
        assert_eq!(parse_size(&bytes.to_string()), Ok(bytes), "{text:?} is a number of bytes");
    }
    let _ = format_size(number);
    let factor = 1u64 << (10 * input.below(5));
    let letter = ["", "k", "M", "G", "T"][factor.trailing_zeros() as usize / 10];
    assert_eq!(parse_size(&format!("{number}{letter}")).ok(), number.checked_mul(factor), "{number}{letter}");
}

/// Bucket names, keys, extents, chunk ids.
pub fn names(input: &mut Input) {
    let name = input.text("abz09.-", 66);
    if let Ok(bucket) = BucketName::new(&name) {
        let bytes = bucket.as_str().as_bytes();
        assert_eq!(bucket.as_str(), name);
        assert!((3..=63).contains(&bytes.len()) && !name.contains(".."), "{name}");
        let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(byte);
        assert!(bytes.iter().all(is_plain), "{name} is safe in a path and a host name");
    }
    let key = input.text("a/.é", KEY_LEN_MAX + 8);
    assert_eq!(ObjectKey::new(&key).is_ok(), (1..=KEY_LEN_MAX).contains(&key.len()), "{} bytes", key.len());

    // Extents are ours, so their ends fit 64 bits; the window asked for is a stranger's.
    let extent = Extent {
        logical: input.number() >> 1,
        chunk: ChunkId::new(Partition(input.any() as u16), input.any() >> 16),
        offset: input.number() >> 1,
        len: input.number() >> 2,
    };
    let (start, end) = (input.number(), input.number());
    if let Some(part) = extent.slice(start, end) {
        assert!(part.len > 0 && part.logical >= start && part.logical + part.len <= end, "inside the window");
        assert_eq!(part.offset - extent.offset, part.logical - extent.logical, "both offsets move alike");
        assert!(part.offset + part.len <= extent.offset + extent.len, "inside the extent");
    } else {
        let end_of_extent = extent.logical + extent.len;
        let is_empty = extent.len == 0 || start >= end;
        assert!(is_empty || end <= extent.logical || start >= end_of_extent, "nothing in common");
    }
}
