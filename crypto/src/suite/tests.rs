//! The ciphers against the published vectors, and what the code adds to them: any run of blocks, any place.

use aes_gcm::aes::cipher::BlockCipherEncrypt as _;

use super::{BLOCK, BlockSuite, SUITES, Suite, UNIT};
use crate::hash::hex_encode;
use crate::secret::Secret;

fn hex(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(digit).collect()
}

fn cipher(suite: Suite, key: Vec<u8>) -> Box<dyn BlockSuite> {
    suite.cipher(&Secret::new(key)).unwrap_or_else(|error| panic!("{error}"))
}

fn own(suite: Suite) -> Box<dyn BlockSuite> {
    cipher(suite, (0..suite.key_len() as u8).collect())
}

#[test]
fn aes_256_xts_is_that_of_ieee_1619() {
    // IEEE 1619-2007, annex B, vector 10: unit 255 of 512 bytes. Ours have 4096, so it is the first eighth.
    let key = hex(concat!(
        "2718281828459045235360287471352662497757247093699959574966967627",
        "3141592653589793238462643383279502884197169399375105820974944592"
    ));
    let cipher = cipher(Suite::Aes256Xts, key);
    let plain: Vec<u8> = (0..512u32).map(|byte| byte as u8).collect();
    let mut bytes = plain.clone();
    cipher.encrypt(255 * UNIT, &mut bytes);
    assert_eq!(
        hex_encode(&bytes[..64]),
        concat!(
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
            "5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd"
        )
    );
    cipher.decrypt(255 * UNIT, &mut bytes);
    assert_eq!(bytes, plain);
}

#[test]
fn sm4_xts_is_that_of_gb_t_17964() {
    // GB/T 17964-2021's example, also in OpenSSL's evpciph_sm4.txt: 56 bytes, of which stealing leaves two blocks.
    let key = hex("2b7e151628aed2a6abf7158809cf4f3c000102030405060708090a0b0c0d0e0f");
    let (one, other) = key.split_at(16);
    let xts = super::Xts::<super::Sm4, super::National>::new(one, other).expect("a key");
    let mut bytes = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    let mut unit = [0; 16];
    unit.copy_from_slice(&hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
    xts.run(xts.first(unit), &mut bytes, |cipher, blocks| cipher.encrypt_blocks(blocks));
    assert_eq!(hex_encode(&bytes), "e9538251c71d7b80bbe4483fef497bd12c5c581bd6242fc51e08964fb4f60fdb");
}

#[test]
fn aes_256_xts_takes_any_number_for_a_unit() {
    // NIST's XTSGenAES256.rsp, the first of 256 bits.
    let key = hex(concat!(
        "1ea661c58d943a0e4801e42f4b0947149e7f9f8e3e68d0c7505210bd311a0e7c",
        "d6e13ffdf2418d8d1911c004cda58da3d619b7e2b9141e58318eea392cf41b08"
    ));
    let (one, other) = key.split_at(32);
    let xts = super::Xts::<super::Aes256, super::Ieee>::new(one, other).expect("a key");
    let mut bytes = hex("2eedea52cd8215e1acc647e810bbc3642e87287f8d2e57e36c0a24fbc12a202e");
    let mut unit = [0; 16];
    unit.copy_from_slice(&hex("adf8d92627464ad2f0428e84a9f87564"));
    xts.run(xts.first(unit), &mut bytes, |cipher, blocks| cipher.encrypt_blocks(blocks));
    assert_eq!(hex_encode(&bytes), "cbaad0e2f6cea3f50b37f934d46a9b130b9d54f07e34f36af793e86f73c6d7db");
}

#[test]
fn sm4_gcm_is_that_of_rfc_8998() {
    let key = hex("0123456789abcdeffedcba9876543210");
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&hex("00001234567800000000abcd"));
    let plain = Secret::new(hex(concat!(
        "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd",
        "eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa"
    )));
    let context = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let wrapped = Suite::Sm4Xts.wrap(&key, nonce, &context, &plain).expect("a key");
    assert_eq!(
        hex_encode(&wrapped),
        concat!(
            "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735",
            "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d",
            "83de3541e4c2b58177e065a9bf7b62ec"
        )
    );
    assert_eq!(Suite::Sm4Xts.unwrap(&key, nonce, &context, &wrapped).expect("opens").expose(), plain.expose());
}

#[test]
fn any_run_of_blocks_is_the_same_by_itself() {
    for suite in SUITES {
        let cipher = own(suite);
        let plain: Vec<u8> = (0..3 * UNIT).map(|at| ((at * 7) >> 3) as u8).collect();
        let start = 5 * UNIT - 4 * BLOCK;
        let mut whole = plain.clone();
        cipher.encrypt(start, &mut whole);
        for (from, upto) in [(0, 1), (3, 5), (4, 260), (4, 261), (17, 700), (767, 768)] {
            let (from, upto) = (from * BLOCK as usize, upto * BLOCK as usize);
            let mut part = plain[from..upto].to_vec();
            cipher.encrypt(start + from as u64, &mut part);
            assert_eq!(part, whole[from..upto], "{suite} {from} {upto}");
            cipher.decrypt(start + from as u64, &mut part);
            assert_eq!(part, plain[from..upto]);
        }
    }
}

#[test]
fn the_same_bytes_elsewhere_or_by_another_key_are_others() {
    for suite in SUITES {
        let (one, other) = (own(suite), cipher(suite, (1..=suite.key_len() as u8).collect()));
        let at = |cipher: &dyn BlockSuite, position| {
            let mut bytes = vec![0; BLOCK as usize];
            cipher.encrypt(position, &mut bytes);
            bytes
        };
        let first = at(&*one, 0);
        for position in [BLOCK, UNIT - BLOCK, UNIT, 1 << 40] {
            assert_ne!(first, at(&*one, position));
        }
        assert_ne!(first, at(&*other, 0));
        assert_ne!(first, vec![0; BLOCK as usize]);
    }
}

#[test]
fn a_key_of_another_length_or_with_equal_halves_is_refused() {
    for suite in SUITES {
        assert!(suite.cipher(&Secret::new(vec![1; suite.key_len()])).is_err());
        assert!(suite.cipher(&Secret::new((0..suite.key_len() as u8 - 1).collect())).is_err());
        assert_eq!(suite.name().parse(), Ok(suite));
        assert_eq!(Suite::of_number(suite.number()), Some(suite));
    }
    let refused = "rot13".parse::<Suite>().map_err(|error| error.to_string());
    assert_eq!(refused, Err("there is no cipher \"rot13\"; there are aes-256-xts and sm4-xts".into()));
    assert_eq!(Suite::of_number(0), None);
}
