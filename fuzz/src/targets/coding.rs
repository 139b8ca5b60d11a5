//! Coders: any loss within the parity is made good, by every kernel alike; CRCs do not depend on
//! how their bytes come.

use erasure::kernel::{Kernel, available_kernels};
use erasure::{Coder, SHARDS_MAX};
use types::checksum::{Crc, CrcKind, combine, crc32, crc64};

use crate::input::Input;

/// Reed-Solomon.
pub fn erasure(input: &mut Input) {
    let data_count = 1 + input.below(SHARDS_MAX);
    let parity_count = input.below(SHARDS_MAX - data_count + 1);
    let len = if input.once_in(4) { input.below(5000) } else { input.below(300) };
    let kernels = available_kernels();
    let coder =
        Coder::with_kernel(data_count, parity_count, kernels[input.below(kernels.len())]).expect("a shape that can be");
    let data: Vec<Vec<u8>> = (0..data_count).map(|_| input.exactly(len)).collect();
    let parity = encoded(&coder, &data, len);
    let portable = Coder::with_kernel(data_count, parity_count, Kernel::Portable).expect("a shape that can be");
    assert_eq!(parity, encoded(&portable, &data, len), "kernels agree");

    let mut shards = data;
    shards.extend(parity);
    lose_and_rebuild(input, &coder, &shards, len);
    let views: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
    assert_eq!(coder.verify(&views), Ok(true), "parity fits");
    if parity_count > 0 && len > 0 {
        let (shard, at) = (input.below(shards.len()), input.below(len));
        shards[shard][at] ^= 1 << input.below(8);
        let views: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
        assert_eq!(coder.verify(&views), Ok(false), "a flipped bit of shard {shard} does not fit");
    }
    let (data, parity) = (input.below(80), input.below(80));
    assert_eq!(Coder::new(data, parity).is_ok(), data >= 1 && data + parity <= SHARDS_MAX, "{data}+{parity}");
}

fn encoded(coder: &Coder, data: &[Vec<u8>], len: usize) -> Vec<Vec<u8>> {
    // What the buffers held before must not matter.
    let mut parity = vec![vec![0xa5; len]; coder.parity()];
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&inputs, &mut outputs).expect("slices fit");
    parity
}

/// Loses shards at random and asks for some of them; with too few left the answer is an error.
fn lose_and_rebuild(input: &mut Input, coder: &Coder, shards: &[Vec<u8>], len: usize) {
    let mut order: Vec<usize> = (0..shards.len()).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, input.below(at + 1));
    }
    let lost_count = input.below((coder.parity() + 2).min(shards.len() + 1));
    let (lost, kept) = order.split_at(lost_count);
    let present: Vec<(usize, &[u8])> = kept.iter().map(|index| (*index, shards[*index].as_slice())).collect();
    let asked = &lost[..input.below(lost.len() + 1)];
    let mut made = vec![vec![0x5a; len]; asked.len()];
    let mut missing: Vec<(usize, &mut [u8])> =
        asked.iter().copied().zip(made.iter_mut().map(Vec::as_mut_slice)).collect();
    let outcome = coder.reconstruct(&present, &mut missing);
    let is_possible = kept.len() >= coder.data() || asked.is_empty();
    assert_eq!(outcome.is_ok(), is_possible, "{} of {} shards left", kept.len(), shards.len());
    if is_possible {
        for (index, made) in asked.iter().zip(&made) {
            assert_eq!(made, &shards[*index], "shard {index} is made good");
        }
    }
}

/// CRCs.
pub fn checksum(input: &mut Input) {
    let bytes = input.bytes(3000);
    let (first, second) = bytes.split_at(input.below(bytes.len() + 1));
    for kind in [CrcKind::Crc32, CrcKind::Crc32c, CrcKind::Crc64Nvme] {
        let of = |pieces: &[&[u8]]| {
            let mut crc = Crc::new(kind);
            pieces.iter().for_each(|piece| crc.update(piece));
            crc.finish()
        };
        let whole = of(&[&bytes]);
        assert_eq!(of(&[first, second]), whole, "{kind:?} in pieces");
        let joined = combine(kind, &of(&[first]), &of(&[second]), second.len() as u64);
        assert_eq!(joined.as_ref(), Some(&whole), "{kind:?} combined");
        let _ = combine(kind, &input.bytes(9), &input.bytes(9), input.number());
        let shortcut = match kind {
            CrcKind::Crc32 => crc32(&bytes).to_be_bytes().to_vec(),
            CrcKind::Crc64Nvme => crc64(&bytes).to_be_bytes().to_vec(),
            CrcKind::Crc32c => whole.clone(),
        };
        assert_eq!(shortcut, whole, "{kind:?} at once");
    }
}
