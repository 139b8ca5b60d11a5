//! XTS: each block of a unit is encrypted between two additions of its tweak.

use std::marker::PhantomData;

use aes_gcm::aead::KeyInit;
use aes_gcm::aead::consts::U16;
use aes_gcm::aes::cipher::{Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser};

use super::{BLOCK, BlockSuite, UNIT};

/// Blocks of a unit.
const BLOCKS: usize = (UNIT / BLOCK) as usize;

/// How a tweak becomes the next one: times alpha in a field of 2^128 elements, whose bits two standards write
/// down in opposite orders.
pub trait Doubling {
    /// From the bytes of a block.
    fn read(bytes: [u8; 16]) -> u128;
    /// To the bytes of a block.
    fn write(tweak: u128) -> [u8; 16];
    /// The next one.
    fn next(tweak: u128) -> u128;
}

/// IEEE 1619.
pub struct Ieee;

impl Doubling for Ieee {
    fn read(bytes: [u8; 16]) -> u128 {
        u128::from_le_bytes(bytes)
    }

    fn write(tweak: u128) -> [u8; 16] {
        tweak.to_le_bytes()
    }

    fn next(tweak: u128) -> u128 {
        (tweak << 1) ^ ((tweak >> 127) * 0x87)
    }
}

/// GB/T 17964-2021.
pub struct National;

impl Doubling for National {
    fn read(bytes: [u8; 16]) -> u128 {
        u128::from_be_bytes(bytes)
    }

    fn write(tweak: u128) -> [u8; 16] {
        tweak.to_be_bytes()
    }

    fn next(tweak: u128) -> u128 {
        (tweak >> 1) ^ ((tweak & 1) * (0xe1 << 120))
    }
}

/// A cipher with both keys.
pub struct Xts<C, D> {
    data: C,
    tweaks: C,
    doubling: PhantomData<D>,
}

impl<C: KeyInit + BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>, D: Doubling> Xts<C, D> {
    /// `None`: a key of another length.
    pub fn new(data: &[u8], tweaks: &[u8]) -> Option<Xts<C, D>> {
        let data = C::new_from_slice(data).ok()?;
        Some(Xts { data, tweaks: C::new_from_slice(tweaks).ok()?, doubling: PhantomData })
    }

    /// The tweak of the first block of a unit whose number has these bytes.
    pub fn first(&self, unit: [u8; 16]) -> u128 {
        let mut block = Array(unit);
        self.tweaks.encrypt_block(&mut block);
        D::read(block.0)
    }
}

impl<C: KeyInit + BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>, D: Doubling> Xts<C, D> {
    /// Carries `change` out over the blocks of one unit, the first of which has this tweak.
    pub fn run(&self, mut tweak: u128, bytes: &mut [u8], change: impl Fn(&C, &mut [Block<C>])) {
        let (blocks, rest) = Array::<u8, U16>::slice_as_chunks_mut(bytes);
        assert!(rest.is_empty() && blocks.len() <= BLOCKS, "whole blocks of one unit");
        let mut masks = [[0u8; 16]; BLOCKS];
        for (block, mask) in blocks.iter_mut().zip(&mut masks) {
            *mask = D::write(tweak);
            add(block, mask);
            tweak = D::next(tweak);
        }
        change(&self.data, blocks);
        for (block, mask) in blocks.iter_mut().zip(&masks) {
            add(block, mask);
        }
    }

    /// [`Xts::run`] over bytes of any number of units.
    fn each_unit(&self, position: u64, bytes: &mut [u8], change: impl Fn(&C, &mut [Block<C>]) + Copy) {
        assert!(position.is_multiple_of(BLOCK) && (bytes.len() as u64).is_multiple_of(BLOCK), "whole blocks");
        let (mut at, mut left) = (position, bytes);
        while !left.is_empty() {
            let within = at % UNIT;
            let len = ((UNIT - within) as usize).min(left.len());
            let (now, later) = left.split_at_mut(len);
            let mut tweak = self.first(u128::from(at / UNIT).to_le_bytes());
            for _ in 0..within / BLOCK {
                tweak = D::next(tweak);
            }
            self.run(tweak, now, change);
            at += len as u64;
            left = later;
        }
    }
}

fn add(block: &mut Array<u8, U16>, mask: &[u8; 16]) {
    let sum = u128::from_ne_bytes(block.0) ^ u128::from_ne_bytes(*mask);
    block.0 = sum.to_ne_bytes();
}

impl<C, D> BlockSuite for Xts<C, D>
where
    C: KeyInit + BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
    D: Doubling,
{
    fn encrypt(&self, position: u64, bytes: &mut [u8]) {
        self.each_unit(position, bytes, |cipher, blocks| cipher.encrypt_blocks(blocks));
    }

    fn decrypt(&self, position: u64, bytes: &mut [u8]) {
        self.each_unit(position, bytes, |cipher, blocks| cipher.decrypt_blocks(blocks));
    }
}
