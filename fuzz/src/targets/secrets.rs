//! Text forms of secrets, sealed secrets and the handshake's proofs.

use crypto::hash::{base64_decode, base64_encode, constant_time_eq, hex_decode, hex_encode};
use crypto::mac::{FrameMac, Role, proof, session_key};
use crypto::seal::{KEY_LEN, NONCE_LEN, open, seal};

use crate::input::Input;

/// Hex, base64, AES-GCM, proofs and tags.
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
