//! Bringing the parts of a gather write into a shape that direct IO takes.

use bytes::Bytes;

use crate::buffer::{BLOCK, Buffer, is_aligned};

/// More parts than this do not fit one device write (IOV_MAX).
const PARTS_MAX: usize = 1024;

/// Total bytes of `parts`.
pub(crate) fn total_len(parts: &[Bytes]) -> usize {
    parts.iter().map(Bytes::len).sum()
}

/// The same bytes in the same order, in parts that are all aligned: aligned parts that lie at a multiple of
/// [`BLOCK`] go as they are, each run of others is copied once. The total must be a multiple of [`BLOCK`].
pub(crate) fn align(parts: Vec<Bytes>) -> Vec<Bytes> {
    if parts.len() <= PARTS_MAX && parts.iter().all(is_aligned) {
        return parts;
    }
    if parts.len() > PARTS_MAX {
        return vec![copied(&parts)];
    }
    let mut aligned = Vec::with_capacity(parts.len());
    let mut run_start = 0;
    let mut run_len = 0;
    for index in 0..parts.len() {
        if run_len % BLOCK == 0 && is_aligned(&parts[index]) {
            if run_len > 0 {
                aligned.push(copied(&parts[run_start..index]));
            }
            aligned.push(parts[index].clone());
            run_start = index + 1;
            run_len = 0;
        } else {
            run_len += parts[index].len();
        }
    }
    if run_len > 0 {
        aligned.push(copied(&parts[run_start..]));
    }
    aligned
}

fn copied(parts: &[Bytes]) -> Bytes {
    let mut buffer = Buffer::with_capacity(total_len(parts));
    for part in parts {
        buffer.extend_from_slice(part);
    }
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_parts_are_not_copied_and_the_rest_is_joined() {
        let page = |fill: u8| {
            let mut page = Buffer::zeroed(BLOCK);
            page.fill(fill);
            page.freeze()
        };
        let (one, two) = (page(1), page(2));
        let head = Bytes::from(vec![3u8; 100]);
        let tail = Bytes::from(vec![4u8; BLOCK - 100]);
        let parts = vec![one.clone(), head.clone(), tail, two.clone(), head.clone(), two.clone(), one.slice(100..)];
        let expected: Vec<u8> = parts.concat();
        let aligned = align(parts);
        assert_eq!(aligned.concat(), expected);
        assert!(aligned.iter().all(is_aligned));
        assert_eq!(aligned.len(), 4);
        assert_eq!(aligned[0].as_ptr(), one.as_ptr());
        assert_eq!(aligned[2].as_ptr(), two.as_ptr());
    }
}
