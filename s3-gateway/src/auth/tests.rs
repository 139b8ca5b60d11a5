//! What the verifier takes and refuses, on AWS's published examples and on our own signer.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use client::object::api::AccessKey;
use crypto::secret::Secret;
use http::request::Parts;
use proptest::prelude::{any, proptest};

use super::signer::{Credentials, Signer, UNSIGNED_PAYLOAD, Unsigned};
use super::{Authenticated, Payload, Verifier};
use crate::errors::{Code, S3Result};
use crate::uri;

const ACCESS: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const NOW_MS: u64 = 1_369_353_600_000;
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn known_key() -> AccessKey {
    AccessKey {
        access_key: ACCESS.to_owned(),
        secret_key: Secret::new(SECRET.to_owned()),
        user: "alice".to_owned(),
        is_root: false,
        created_ms: 0,
    }
}

fn check_at(parts: &Parts, now_ms: u64) -> S3Result<Authenticated> {
    let verifier = Verifier::new("us-east-1");
    let known = async |name: &str| Ok((name == ACCESS).then(known_key));
    let future = pin!(verifier.authenticate(parts, now_ms, known));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("nothing here waits"),
    }
}

fn check(parts: &Parts) -> S3Result<Authenticated> {
    check_at(parts, NOW_MS)
}

fn refused(parts: &Parts) -> Code {
    check(parts).err().map(|error| error.code).expect("must be refused")
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn signed(method: &str, path: &str, query: &[(&str, &str)], extra: &[(&str, &str)]) -> Parts {
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let (query, extra) = (owned(query), owned(extra));
    let unsigned = Unsigned { method, path, query: &query, headers: &extra, payload_hash: UNSIGNED_PAYLOAD };
    let headers = signer().sign(&unsigned, NOW_MS);
    let mut target = path.to_owned();
    if !query.is_empty() {
        target = format!("{path}?{}", super::signer::joined(&query));
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    request(method, &target, &headers)
}

fn signer() -> Signer {
    let credentials = Credentials { access_key: ACCESS.to_owned(), secret_key: Secret::new(SECRET.to_owned()) };
    Signer::new(credentials, "us-east-1", "localhost:9000")
}

fn presigned(path: &str, expires_s: u64) -> String {
    let unsigned = Unsigned { method: "GET", path, query: &[], headers: &[], payload_hash: UNSIGNED_PAYLOAD };
    signer().presign(&unsigned, expires_s, NOW_MS)
}

#[test]
fn aws_example_get_object_is_accepted() {
    let parts = request(
        "GET",
        "/test.txt",
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                 SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                 Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
        ],
    );
    let who = check(&parts).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(who.identity.user, "alice");
    assert!(matches!(who.payload, Payload::Exact(_)));
}

#[test]
fn aws_example_put_object_is_accepted() {
    let parts = request(
        "PUT",
        "/test$file.text",
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                 SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,\
                 Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
        ],
    );
    assert!(check(&parts).is_ok());
}

#[test]
fn aws_examples_of_queries_are_accepted() {
    for (query, signature) in [
        ("lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
        );
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            ("authorization", authorization.as_str()),
        ];
        assert!(check(&request("GET", &format!("/?{query}"), &headers)).is_ok(), "{query}");
        assert_eq!(refused(&request("GET", &format!("/?{query}&x=1"), &headers)), Code::SignatureDoesNotMatch);
    }
}

#[test]
fn aws_example_presigned_is_accepted_until_it_expires() {
    let target = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
        &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
        &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
        &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let parts = request("GET", target, &[("host", "examplebucket.s3.amazonaws.com")]);
    assert!(check_at(&parts, NOW_MS + 86_400_000).is_ok());
    assert_eq!(check_at(&parts, NOW_MS + 86_401_000).err().map(|e| e.code), Some(Code::AccessDenied));
    assert_eq!(check_at(&parts, NOW_MS - 901_000).err().map(|e| e.code), Some(Code::AccessDenied));
}

#[test]
fn nobody_and_strangers_are_refused() {
    assert_eq!(refused(&request("GET", "/b/k", &[("host", "h")])), Code::AccessDenied);
    let mut stranger = signed("GET", "/b/k", &[], &[]);
    let value = stranger.headers["authorization"].to_str().unwrap().replace(ACCESS, "AKIAUNKNOWN");
    stranger.headers.insert("authorization", value.parse().unwrap());
    assert_eq!(refused(&stranger), Code::InvalidAccessKeyId);
    let v2 = request("GET", "/b/k", &[("host", "h"), ("authorization", "AWS AKIA:c2ln")]);
    assert_eq!(refused(&v2), Code::InvalidRequest);
    let odd = request("GET", "/b/k", &[("host", "h"), ("authorization", "AWS HAHAHA")]);
    assert_eq!(refused(&odd), Code::InvalidArgument);
    let v2_query = request("GET", "/b/k?AWSAccessKeyId=A&Signature=x&Expires=1", &[("host", "h")]);
    assert_eq!(refused(&v2_query), Code::InvalidRequest);
}

#[test]
fn both_mechanisms_at_once_are_refused() {
    let target = presigned("/b/k", 60);
    let mut parts = signed("GET", "/b/k", &[], &[]);
    parts.uri = target.parse().unwrap();
    assert_eq!(refused(&parts), Code::InvalidArgument);
}

#[test]
fn a_changed_request_is_refused() {
    let right = signed("GET", "/b/k", &[("prefix", "a")], &[("x-amz-meta-a", "1")]);
    assert!(check(&right).is_ok());
    let mut method = right.clone();
    method.method = http::Method::DELETE;
    assert_eq!(refused(&method), Code::SignatureDoesNotMatch);
    let mut path = right.clone();
    path.uri = "/b/l?prefix=a".parse().unwrap();
    assert_eq!(refused(&path), Code::SignatureDoesNotMatch);
    let mut header = right.clone();
    header.headers.insert("x-amz-meta-a", "2".parse().unwrap());
    assert_eq!(refused(&header), Code::SignatureDoesNotMatch);
    let mut doubled = right.clone();
    doubled.headers.append("x-amz-meta-a", "1".parse().unwrap());
    assert_eq!(refused(&doubled), Code::SignatureDoesNotMatch);
    let mut added = right.clone();
    added.headers.insert("x-amz-acl", "private".parse().unwrap());
    assert_eq!(refused(&added), Code::AccessDenied);
    let mut absent = right.clone();
    absent.headers.remove("x-amz-meta-a");
    assert_eq!(refused(&absent), Code::AccessDenied);
    let mut dates = right;
    dates.headers.append("x-amz-date", "20130524T000000Z".parse().unwrap());
    assert_eq!(refused(&dates), Code::InvalidArgument);
}

#[test]
fn host_must_be_signed() {
    let mut parts = signed("GET", "/b/k", &[], &[]);
    let value = parts.headers["authorization"].to_str().unwrap().replace("SignedHeaders=host;", "SignedHeaders=");
    parts.headers.insert("authorization", value.parse().unwrap());
    assert_eq!(refused(&parts), Code::AccessDenied);
}

#[test]
fn skew_of_fifteen_minutes_is_the_edge() {
    let parts = signed("GET", "/b/k", &[], &[]);
    for (now_ms, fine) in
        [(NOW_MS + 900_000, true), (NOW_MS - 900_000, true), (NOW_MS + 900_001, false), (NOW_MS - 900_001, false)]
    {
        let got = check_at(&parts, now_ms).err().map(|error| error.code);
        assert_eq!(got, (!fine).then_some(Code::RequestTimeTooSkewed), "{now_ms}");
    }
}

#[test]
fn scope_must_fit() {
    let parts = signed("GET", "/b/k", &[], &[]);
    for (from, to) in
        [("us-east-1", "eu-west-1"), ("/s3/", "/ec2/"), ("aws4_request", "aws5_request"), ("20130524/", "20130525/")]
    {
        let mut wrong = parts.clone();
        let value = wrong.headers["authorization"].to_str().unwrap().replacen(from, to, 1);
        wrong.headers.insert("authorization", value.parse().unwrap());
        assert_eq!(refused(&wrong), Code::AuthorizationHeaderMalformed, "{to}");
    }
}

#[test]
fn presigned_lives_between_a_second_and_a_week() {
    let host = [("host", "localhost:9000")];
    assert!(check(&request("GET", &presigned("/b/k", 604_800), &host)).is_ok());
    for expires in [0, 604_801] {
        let parts = request("GET", &presigned("/b/k", expires), &host);
        assert_eq!(refused(&parts), Code::AuthorizationQueryParametersError, "{expires}");
    }
    let negative = presigned("/b/k", 60).replace("X-Amz-Expires=60", "X-Amz-Expires=-60");
    assert_eq!(refused(&request("GET", &negative, &host)), Code::AuthorizationQueryParametersError);
}

#[test]
fn presigned_covers_everything_added_later() {
    let target = presigned("/b/k", 60);
    let header = request("GET", &target, &[("host", "localhost:9000"), ("x-amz-meta-a", "1")]);
    assert_eq!(refused(&header), Code::AccessDenied);
    for added in ["&versionId=1", "&response-content-type=text/html", "&X-Amz-Expires=60"] {
        let parts = request("GET", &format!("{target}{added}"), &[("host", "localhost:9000")]);
        let code = refused(&parts);
        assert!(matches!(code, Code::SignatureDoesNotMatch | Code::AuthorizationQueryParametersError), "{added}");
    }
    let swapped = request("PUT", &target, &[("host", "localhost:9000")]);
    assert_eq!(refused(&swapped), Code::SignatureDoesNotMatch);
}

#[test]
fn paths_are_neither_normalised_nor_encoded_twice() {
    for key in ["a/b", "a//b", "a/./b", "a/../b", "a b", "a+b", "a%b", "é/e\u{301}", "a?b#c;d", "~*'()!", "a%2Fb", "/"]
    {
        let path = format!("/bucket/{}", uri::encode_path(key));
        assert!(check(&signed("GET", &path, &[], &[])).is_ok(), "{key}");
    }
    // A client that sends characters bare and signs them encoded, and one that signs what it sends.
    let mut bare = signed("GET", "/b/a%28b%29%2B", &[], &[]);
    bare.uri = "/b/a(b)+".parse().unwrap();
    assert!(check(&bare).is_ok());
    assert!(check(&signed("GET", "/b/a(b)+", &[("prefix", "a(b)")], &[])).is_ok());
    let mut lower = signed("GET", "/b/a%2Bb", &[], &[]);
    lower.uri = "/b/a%2bb".parse().unwrap();
    assert!(check(&lower).is_ok());
    let mut other = signed("GET", "/b/a//b", &[], &[]);
    other.uri = "/b/a/b".parse().unwrap();
    assert_eq!(refused(&other), Code::SignatureDoesNotMatch);
}

proptest! {
    #[test]
    fn any_key_verifies(key in "\\PC{1,40}", name in "[a-z-]{1,8}", value in "\\PC{0,20}") {
        let path = format!("/bucket/{}", uri::encode_path(&key));
        let (name, value) = (uri::encode(&name), uri::encode(&value));
        assert!(check(&signed("PUT", &path, &[(&name, &value)], &[])).is_ok());
    }

    #[test]
    fn junk_never_panics(authorization in "(AWS4-HMAC-SHA256 )?[ -~]{0,80}", query in "[a-zA-Z&=%0-9-]{0,60}") {
        if let Ok(uri) = format!("/b?{query}").parse::<http::Uri>() {
            let mut parts = signed("GET", "/b", &[], &[]);
            parts.uri = uri;
            let _ = check(&parts);
            if let Ok(value) = authorization.parse() {
                parts.headers.insert("authorization", value);
                let _ = check(&parts);
            }
        }
    }

    #[test]
    fn a_wrong_signature_never_passes(byte in 0usize..32, flip in 1u8..=255, _seed in any::<u8>()) {
        let mut parts = signed("GET", "/b/k", &[], &[]);
        let value = parts.headers["authorization"].to_str().unwrap().to_owned();
        let (head, signature) = value.rsplit_once('=').unwrap();
        let mut bytes = crypto::hash::hex_decode(signature).unwrap();
        bytes[byte] ^= flip;
        let value = format!("{head}={}", crypto::hash::hex_encode(&bytes));
        parts.headers.insert("authorization", value.parse().unwrap());
        assert_eq!(refused(&parts), Code::SignatureDoesNotMatch);
    }
}
