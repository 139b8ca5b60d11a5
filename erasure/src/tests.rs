//! Promises of the coder, checked against `reed-solomon-erasure` and by random erasures.

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::subsequence;
use proptest::test_runner::Config;
use reed_solomon_erasure::galois_8::ReedSolomon;

use crate::kernel::{Kernel, available_kernels, kernel_name};
use crate::{Coder, ErasureError, SHARDS_MAX};

/// Bytes that look random and are the same in every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn slices(shards: &[Vec<u8>]) -> Vec<&[u8]> {
    shards.iter().map(Vec::as_slice).collect()
}

/// All shards of noise under `coder`.
fn encoded(coder: &Coder, seed: u64, len: usize) -> Vec<Vec<u8>> {
    let mut shards: Vec<Vec<u8>> = (0..coder.data()).map(|index| noise(seed * 64 + index as u64, len)).collect();
    let mut parity = vec![vec![0xaa; len]; coder.parity()];
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&slices(&shards), &mut outputs).unwrap();
    shards.append(&mut parity);
    shards
}

/// Makes the shards named in `missing` from those named in `present`.
fn reconstructed(coder: &Coder, shards: &[Vec<u8>], present: &[usize], missing: &[usize]) -> Vec<Vec<u8>> {
    let present: Vec<(usize, &[u8])> = present.iter().map(|index| (*index, shards[*index].as_slice())).collect();
    let mut made = vec![vec![0xaa; shards[0].len()]; missing.len()];
    let mut outputs: Vec<(usize, &mut [u8])> =
        missing.iter().copied().zip(made.iter_mut().map(Vec::as_mut_slice)).collect();
    coder.reconstruct(&present, &mut outputs).unwrap();
    made
}

#[test]
fn parity_equals_reed_solomon_erasure_for_every_shape() {
    for data in 1..SHARDS_MAX {
        for parity in 1..=SHARDS_MAX - data {
            let coder = Coder::new(data, parity).unwrap();
            let ours = encoded(&coder, data as u64, 100);
            let mut theirs = ours.clone();
            theirs[data..].iter_mut().for_each(|shard| shard.fill(0));
            ReedSolomon::new(data, parity).unwrap().encode(&mut theirs).unwrap();
            assert!(ours == theirs, "{data}+{parity}");
        }
    }
}

#[test]
fn every_kernel_reconstructs_every_loss_of_4_plus_2() {
    for kernel in available_kernels() {
        let coder = Coder::with_kernel(4, 2, kernel).unwrap();
        let shards = encoded(&coder, 7, 333);
        for mask in 0u32..64 {
            if mask.count_ones() <= 2 {
                let missing: Vec<usize> = (0..6).filter(|index| mask >> index & 1 == 1).collect();
                let present: Vec<usize> = (0..6).filter(|index| mask >> index & 1 == 0).collect();
                let made = reconstructed(&coder, &shards, &present, &missing);
                for (index, shard) in missing.iter().zip(&made) {
                    assert_eq!(shard, &shards[*index], "{} {mask:b}", kernel.name());
                }
            }
        }
    }
}

/// A shape, a length, and the order in which shards are lost.
fn erasures() -> impl Strategy<Value = (usize, usize, usize, u64, Vec<usize>)> {
    (1..=SHARDS_MAX).prop_flat_map(|data| (Just(data), 0..=SHARDS_MAX - data)).prop_flat_map(|(data, parity)| {
        let lost = subsequence((0..data + parity).collect::<Vec<usize>>(), 0..=parity);
        (Just(data), Just(parity), 0usize..700, any::<u64>(), lost)
    })
}

proptest! {
    #![proptest_config(Config { cases: 1500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_data_shards_give_back_all_others((data, parity, len, seed, mut lost) in erasures()) {
        let kernels = available_kernels();
        let coder = Coder::with_kernel(data, parity, kernels[(seed % kernels.len() as u64) as usize]).unwrap();
        let shards = encoded(&coder, seed >> 8, len);
        prop_assert!(coder.verify(&slices(&shards)).unwrap());
        let mut present: Vec<usize> = (0..data + parity).filter(|index| !lost.contains(index)).collect();
        if seed & 1 == 1 {
            // The order in which shards are named does not matter.
            lost.reverse();
            present.reverse();
        }
        if seed & 2 == 2 {
            // Neither does a surplus.
            present.truncate(data);
        }
        let made = reconstructed(&coder, &shards, &present, &lost);
        for (index, shard) in lost.iter().zip(&made) {
            prop_assert_eq!(shard, &shards[*index]);
        }
    }
}

#[test]
fn verify_finds_one_wrong_byte_anywhere() {
    let coder = Coder::new(5, 3).unwrap();
    let len = 40_000;
    let shards = encoded(&coder, 1, len);
    assert!(coder.verify(&slices(&shards)).unwrap());
    for index in 0..8 {
        for position in [0, 16_383, 16_384, len - 1] {
            let mut damaged = shards.clone();
            damaged[index][position] ^= 0x10;
            assert!(!coder.verify(&slices(&damaged)).unwrap(), "shard {index} at {position}");
        }
    }
}

#[test]
fn a_code_without_parity_encodes_nothing_and_fits() {
    let coder = Coder::new(3, 0).unwrap();
    let shards = encoded(&coder, 1, 10);
    assert_eq!(shards.len(), 3);
    assert!(coder.verify(&slices(&shards)).unwrap());
}

#[test]
fn impossible_shapes_are_refused() {
    for (data, parity) in [(0, 0), (0, 3), (33, 0), (30, 3), (1, 32), (usize::MAX, 1), (1, usize::MAX)] {
        assert_eq!(Coder::new(data, parity).unwrap_err(), ErasureError::Shape { data, parity });
    }
    assert!(Coder::new(32, 0).is_ok());
    assert!(Coder::new(1, 31).is_ok());
}

#[test]
fn wrong_slices_are_refused_and_nothing_is_written() {
    let coder = Coder::new(2, 1).unwrap();
    let (a, b, short) = ([1u8; 8], [2u8; 8], [3u8; 7]);
    let mut out = [9u8; 8];
    let count = |given, expected| Err(ErasureError::ShardCount { given, expected });
    let len = |given, expected| Err(ErasureError::ShardLen { given, expected });
    let index = |index| Err(ErasureError::ShardIndex { index, shards: 3 });
    assert_eq!(coder.encode(&[&a], &mut [&mut out]), count(1, 2));
    assert_eq!(coder.encode(&[&a, &b], &mut []), count(0, 1));
    assert_eq!(coder.encode(&[&a, &short], &mut [&mut out]), len(7, 8));
    assert_eq!(coder.encode(&[&a, &b], &mut [&mut out[..7]]), len(7, 8));
    assert_eq!(coder.reconstruct(&[(0, &a), (0, &b)], &mut [(1, &mut out)]), index(0));
    assert_eq!(coder.reconstruct(&[(0, &a), (1, &b)], &mut [(1, &mut out)]), index(1));
    assert_eq!(coder.reconstruct(&[(0, &a), (3, &b)], &mut [(1, &mut out)]), index(3));
    assert_eq!(coder.reconstruct(&[(0, &a), (2, &short)], &mut [(1, &mut out)]), len(7, 8));
    assert_eq!(coder.reconstruct(&[(0, &a), (2, &b)], &mut [(1, &mut out[..7])]), len(7, 8));
    assert_eq!(
        coder.reconstruct(&[(0, &a)], &mut [(1, &mut out)]),
        Err(ErasureError::TooFewShards { given: 1, needed: 2 })
    );
    assert_eq!(coder.verify(&[&a, &b]), Err(ErasureError::ShardCount { given: 2, expected: 3 }));
    assert_eq!(out, [9; 8]);
}

#[test]
fn the_machine_has_a_kernel_and_it_is_named() {
    assert_eq!(available_kernels().last(), Some(&Kernel::Portable));
    assert_eq!(kernel_name(), available_kernels()[0].name());
}
