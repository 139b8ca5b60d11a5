//! Text forms of secrets, sealed secrets, ciphers for volumes and the handshake's proofs.

use crypto::envelope::{NUMBER_LEN, ROOT_LEN, RootKey};
use crypto::hash::{base64_decode, base64_encode, constant_time_eq, hex_decode, hex_encode};
use crypto::mac::{FrameMac, Role, proof, session_key};
use crypto::seal::{KEY_LEN, NONCE_LEN, open, seal};
use crypto::secret::Secret;
use crypto::suite::{BLOCK, SUITES};

use crate::input::Input;

/// Hex, base64, AES-GCM, XTS, wrapped keys, proofs and tags.
pub fn secrets(input: &mut Input) {
    let bytes = input.bytes(60);
    assert_eq!(hex_decode(&hex_encode(&bytes)).as_ref(), Some(&bytes), "hex reads back");
    assert_eq!(base64_decode(&base64_encode(&bytes)).as_ref(), Some(&bytes), "base64 reads back");
    let text = input.text("0123abcdefABCDEF+/=", 24);
    if let Some(read) = hex_decode(&text) {
        assert_eq!(hex_encode(&read), text.to_ascii_lowercase(), "hex has one spelling but for its case");
    }
    if let Some(read) = base64_decode(&text) {
        assert_eq!(base64_encode(&read), text, "base64 has one spelling");
    }
    sealed(input, &bytes);
    at_rest(input, &bytes);
    handshake(input);
}

fn sealed(input: &mut Input, plain: &[u8]) {
    let (mut key, mut nonce) = ([0; KEY_LEN], [0; NONCE_LEN]);
    key.copy_from_slice(&input.exactly(KEY_LEN));
    nonce.copy_from_slice(&input.exactly(NONCE_LEN));
    let context = input.bytes(20);
    let whole = seal(&key, nonce, &context, plain);
    let opened = open(&key, nonce, &context, &whole).expect("it opens with what it was sealed with");
    assert_eq!(opened.expose(), plain);
    let mut bad = whole.clone();
    input.damage(&mut bad);
    assert!(bad == whole || open(&key, nonce, &context, &bad).is_err(), "damage is seen");
}

/// Ciphers for volumes, in any pieces, and the envelope of their keys.
fn at_rest(input: &mut Input, text: &[u8]) {
    let _ = RootKey::parse(text);
    let suite = SUITES[input.below(SUITES.len())];
    let key = Secret::new(input.exactly(suite.key_len()));
    let Ok(cipher) = suite.cipher(&key) else { return };
    let (start, count) = (input.number() % (64 << 40) / BLOCK * BLOCK, 1 + input.below(600));
    let plain = input.exactly(count * BLOCK as usize);
    let mut whole = plain.clone();
    cipher.encrypt(start, &mut whole);
    let cut = input.below(count + 1) * BLOCK as usize;
    let (mut one, mut other) = (plain[..cut].to_vec(), plain[cut..].to_vec());
    cipher.encrypt(start, &mut one);
    cipher.encrypt(start + cut as u64, &mut other);
    one.extend_from_slice(&other);
    assert_eq!(one, whole, "pieces are encrypted as the whole is");
    cipher.decrypt(start, &mut whole);
    assert_eq!(whole, plain);
    let root = RootKey::draw(|bytes| bytes.copy_from_slice(&input.exactly(ROOT_LEN)));
    let (mut number, mut nonce) = ([0; NUMBER_LEN], [0; NONCE_LEN]);
    number.copy_from_slice(&input.exactly(NUMBER_LEN));
    nonce.copy_from_slice(&input.exactly(NONCE_LEN));
    let wrapped = root.wrap(suite, &number, nonce, &key).expect("a key of the suite");
    let opened = root.unwrap(suite, &number, &wrapped).expect("it opens with what it was wrapped by");
    assert_eq!(opened.expose(), key.expose());
    let mut bad = wrapped.clone();
    input.damage(&mut bad);
    assert!(bad == wrapped || root.unwrap(suite, &number, &bad).is_err(), "damage is seen");
}

fn handshake(input: &mut Input) {
    let (secret, nonce_a, nonce_b) = (input.bytes(40), input.bytes(20), input.bytes(20));
    let ours = proof(&secret, &nonce_a, &nonce_b, Role::Initiator);
    assert_ne!(ours, proof(&secret, &nonce_a, &nonce_b, Role::Acceptor), "a proof cannot be reflected");
    let other = input.bytes(20);
    let is_same = constant_time_eq(&ours, &proof(&secret, &other, &nonce_b, Role::Initiator));
    assert_eq!(is_same, other == nonce_a, "a proof is bound to its nonces");
    let mac = FrameMac::new(&session_key(&secret, &nonce_a, &nonce_b, Role::Acceptor));
    let frame = input.bytes(100);
    let tag = mac.tag(&[&frame]);
    assert!(mac.verify(&[&frame], &tag), "a tag fits its frame");
    let mut bad = frame.clone();
    input.damage(&mut bad);
    assert!(bad == frame || !mac.verify(&[&bad], &tag), "damage is seen");
}
