"""Bad input gets a clear error of the right kind, and nothing is stored or lost by it.

Codes and statuses are AWS's. Every refused write is followed by a look whether something is there.
"""

import base64
import datetime
import hashlib
import http.client
import socket
import time
import zlib

import pytest

from harness import noise
from raw import UNSIGNED, quoted, utc_now

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
BODY = noise("bad input", 1000)


def refused(answer, status, code):
    assert (answer.status, answer.code) == (status, code), answer


@pytest.fixture
def absent(raw, bucket):
    """Asserts that a key holds nothing; the server answers, so it lives."""

    def check(key="k"):
        answer = raw.send("GET", f"/{bucket}/{key}")
        refused(answer, 404, "NoSuchKey")

    return check


# --- who asks ---------------------------------------------------------------------------------


def test_a_good_request_of_this_client_is_taken(raw, bucket):
    # All refusals below mean something only because this one passes.
    assert raw.send("PUT", f"/{bucket}/k ü", body=BODY).status == 200
    answer = raw.send("GET", f"/{bucket}/k ü", query=[("response-content-type", "a/b c")])
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, BODY, "a/b c")
    url = raw.presigned("GET", f"/{bucket}/k ü")
    assert raw.exchange("GET", url, {"host": raw.access.host}, b"").body == BODY


def test_wrong_signature(raw, bucket, absent):
    refused(raw.send("PUT", f"/{bucket}/k", body=BODY, secret_key="x" * 40), 403, "SignatureDoesNotMatch")
    absent()


@pytest.mark.parametrize("part", ["path", "header", "signature", "query"])
def test_a_request_changed_on_its_way(raw, bucket, absent, part):
    def tamper(target, headers):
        if part == "path":
            target = target.replace("/k", "/other")
        elif part == "query":
            target += "?acl"
        elif part == "header":
            headers = {**headers, "x-amz-meta-a": "2"}
        else:
            text = headers["authorization"]
            headers = {**headers, "authorization": text[:-1] + ("0" if text[-1] != "0" else "1")}
        return target, headers

    answer = raw.send("PUT", f"/{bucket}/k", headers={"x-amz-meta-a": "1"}, body=BODY, tamper=tamper)
    refused(answer, 403, "SignatureDoesNotMatch")
    absent("k")
    absent("other")


def test_unknown_access_key(raw, bucket, absent):
    refused(raw.send("PUT", f"/{bucket}/k", body=BODY, access_key="BXNOBODYNOBODYNOBODY"), 403, "InvalidAccessKeyId")
    absent()


def test_no_signature(raw, bucket, absent):
    refused(raw.send("PUT", f"/{bucket}/k", body=BODY, sign=False), 403, "AccessDenied")
    refused(raw.send("GET", f"/{bucket}", sign=False), 403, "AccessDenied")
    refused(raw.send("GET", "/", sign=False), 403, "AccessDenied")
    absent()


@pytest.mark.parametrize("minutes", [-20, 20])
def test_skewed_clock(raw, bucket, absent, minutes):
    now = utc_now() + datetime.timedelta(minutes=minutes)
    refused(raw.send("PUT", f"/{bucket}/k", body=BODY, now=now), 403, "RequestTimeTooSkewed")
    absent()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "nonsense",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=, SignedHeaders=, Signature=",
        "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=00",
        "AWS4-HMAC-SHA256 " + "Credential=a," * 500,
        "AWS BXOLD:c2lnbmF0dXJlIDI=",
        "Bearer token",
    ],
)
def test_mangled_authorization(raw, bucket, absent, authorization):
    headers = {"host": raw.access.host, "x-amz-date": "20260101T000000Z", "authorization": authorization}
    answer = raw.exchange("PUT", f"/{bucket}/k", {**headers, "x-amz-content-sha256": UNSIGNED}, BODY)
    assert answer.status in (400, 403) and answer.code, answer
    absent()


# --- presigned --------------------------------------------------------------------------------


def test_expired_presign(raw, bucket):
    raw.send("PUT", f"/{bucket}/k", body=BODY)
    url = raw.presigned("GET", f"/{bucket}/k", expires=60, now=utc_now() - datetime.timedelta(seconds=120))
    answer = raw.exchange("GET", url, {"host": raw.access.host}, b"")
    refused(answer, 403, "AccessDenied")
    assert b"expired" in answer.body
    url = raw.presigned("GET", f"/{bucket}/k", expires=1, now=utc_now() - datetime.timedelta(seconds=3))
    refused(raw.exchange("GET", url, {"host": raw.access.host}, b""), 403, "AccessDenied")


@pytest.mark.parametrize("expires", ["604801", "999999999999999999999", "-1", "soon", ""])
def test_presign_for_too_long_or_for_nonsense(raw, bucket, expires):
    raw.send("PUT", f"/{bucket}/k", body=BODY)
    url = raw.presigned("GET", f"/{bucket}/k", expires=expires)
    refused(raw.exchange("GET", url, {"host": raw.access.host}, b""), 400, "AuthorizationQueryParametersError")


def test_longest_presign_is_taken(raw, bucket):
    raw.send("PUT", f"/{bucket}/k", body=BODY)
    url = raw.presigned("GET", f"/{bucket}/k", expires=604_800)
    assert raw.exchange("GET", url, {"host": raw.access.host}, b"").body == BODY


def test_unsigned_amz_header_on_a_presigned_request(raw, bucket, absent):
    raw.send("PUT", f"/{bucket}/secret", body=BODY)
    host = raw.access.host
    for name, value in [
        ("x-amz-copy-source", f"/{bucket}/secret"),
        ("x-amz-meta-a", "1"),
        ("x-amz-acl", "public-read"),
        ("X-Amz-Storage-Class", "STANDARD"),
    ]:
        url = raw.presigned("PUT", f"/{bucket}/k")
        refused(raw.exchange("PUT", url, {"host": host, name: value}, b"x"), 403, "AccessDenied")
        absent()
    url = raw.presigned("PUT", f"/{bucket}/k", headers={"x-amz-meta-a": "1"})
    assert raw.exchange("PUT", url, {"host": host, "x-amz-meta-a": "1"}, b"x").status == 200


def test_presigned_for_another_method_or_key(raw, bucket, absent):
    host = {"host": raw.access.host}
    url = raw.presigned("GET", f"/{bucket}/k")
    refused(raw.exchange("PUT", url, host, BODY), 403, "SignatureDoesNotMatch")
    url = raw.presigned("PUT", f"/{bucket}/k").replace("/k?", "/l?")
    refused(raw.exchange("PUT", url, host, BODY), 403, "SignatureDoesNotMatch")
    absent("k")
    absent("l")


# --- checksums --------------------------------------------------------------------------------


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


WRONG = b"another body"


@pytest.mark.parametrize(
    "name, value, code",
    [
        ("content-md5", b64(hashlib.md5(WRONG).digest()), "BadDigest"),
        ("content-md5", "not base64", "InvalidDigest"),
        ("content-md5", b64(b"short"), "InvalidDigest"),
        ("x-amz-checksum-crc32", b64(zlib.crc32(WRONG).to_bytes(4, "big")), "BadDigest"),
        ("x-amz-checksum-crc32c", b64(b"\1\2\3\4"), "BadDigest"),
        ("x-amz-checksum-crc64nvme", b64(b"\1\2\3\4\5\6\7\10"), "BadDigest"),
        ("x-amz-checksum-sha1", b64(hashlib.sha1(WRONG).digest()), "BadDigest"),
        ("x-amz-checksum-sha256", b64(hashlib.sha256(WRONG).digest()), "BadDigest"),
        ("x-amz-checksum-sha256", "not base64", "InvalidRequest"),
        ("x-amz-checksum-crc32", b64(b"12345"), "InvalidRequest"),
    ],
)
@pytest.mark.parametrize("len_bytes", [1000, 300_000])
def test_wrong_checksum(raw, bucket, absent, name, value, code, len_bytes):
    answer = raw.send("PUT", f"/{bucket}/k", headers={name: value}, body=noise("c", len_bytes))
    refused(answer, 400, code)
    absent()


def test_wrong_checksum_keeps_the_older_version(raw, bucket):
    raw.send("PUT", f"/{bucket}/k", body=BODY)
    headers = {"content-md5": b64(hashlib.md5(WRONG).digest())}
    refused(raw.send("PUT", f"/{bucket}/k", headers=headers, body=b"new"), 400, "BadDigest")
    assert raw.send("GET", f"/{bucket}/k").body == BODY


def test_wrong_content_sha256(raw, bucket, absent):
    answer = raw.send("PUT", f"/{bucket}/k", body=BODY, payload_hash=hashlib.sha256(WRONG).hexdigest())
    refused(answer, 400, "XAmzContentSHA256Mismatch")
    absent()


def chunked(chunks, trailers=()) -> bytes:
    """An aws-chunked body without signatures."""
    lines = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    ends = [f"{name}:{value}\r\n".encode() for name, value in trailers]
    return b"".join([*lines, b"0\r\n", *ends, b"\r\n"])


def put_chunked(raw, path, encoded, decoded_len, trailer=None):
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(decoded_len)}
    if trailer:
        headers["x-amz-trailer"] = trailer
    return raw.send("PUT", path, headers=headers, body=encoded, payload_hash="STREAMING-UNSIGNED-PAYLOAD-TRAILER")


def test_trailer_checksums_are_verified_before_the_commit(raw, bucket, absent):
    crc = b64(zlib.crc32(BODY).to_bytes(4, "big"))
    wrong = b64(zlib.crc32(WRONG).to_bytes(4, "big"))
    body = chunked([BODY[:300], BODY[300:]], [("x-amz-checksum-crc32", wrong)])
    answer = put_chunked(raw, f"/{bucket}/k", body, len(BODY), "x-amz-checksum-crc32")
    refused(answer, 400, "BadDigest")
    absent()
    body = chunked([BODY[:300], BODY[300:]], [("x-amz-checksum-crc32", crc)])
    assert put_chunked(raw, f"/{bucket}/k", body, len(BODY), "x-amz-checksum-crc32").status == 200
    assert raw.send("GET", f"/{bucket}/k").body == BODY
    assert "aws-chunked" not in raw.send("GET", f"/{bucket}/k").headers.get("content-encoding", "")


@pytest.mark.parametrize(
    "encoded, decoded_len",
    [
        (chunked([BODY]), len(BODY) + 1),
        (chunked([BODY]), len(BODY) - 1),
        (chunked([BODY])[:-20], len(BODY)),
        (b"zzz\r\n" + BODY + b"\r\n0\r\n\r\n", len(BODY)),
        (b"ffffffffffffffffff\r\n" + BODY, len(BODY)),
        (b"3e8;" + b"a" * 100_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n", len(BODY)),
        (b"3e8\r\n" + BODY + b"XX0\r\n\r\n", len(BODY)),
        (b"", len(BODY)),
    ],
)
def test_mangled_chunks(raw, bucket, absent, encoded, decoded_len):
    answer = put_chunked(raw, f"/{bucket}/k", encoded, decoded_len)
    assert answer.status == 400 and answer.code, answer
    absent()


def test_wrong_chunk_signature(raw, bucket, absent):
    body = b"3e8;chunk-signature=" + b"0" * 64 + b"\r\n" + BODY + b"\r\n0;chunk-signature=" + b"0" * 64 + b"\r\n\r\n"
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(BODY))}
    answer = raw.send(
        "PUT", f"/{bucket}/k", headers=headers, body=body, payload_hash="STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    )
    refused(answer, 403, "SignatureDoesNotMatch")
    absent()


# --- lengths ----------------------------------------------------------------------------------


def raw_put(raw, path, content_length, body, more=None):
    """Sends a PUT whose length header and body need not agree, ends the sending side, and reads."""
    headers = {"host": raw.access.host, "content-length": str(content_length), **(more or {})}
    headers = raw.signed("PUT", path, (), headers, b"", payload_hash=UNSIGNED)
    head = f"PUT {quoted(path)} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    host, port = raw.access.host.split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        try:
            connection.sendall(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status
        except (OSError, http.client.HTTPException):
            # A connection that just ends is an answer too: nothing was promised.
            return None


@pytest.mark.parametrize("sent, promised", [(0, 1000), (500, 1000), (999, 1000), (6 << 20, (6 << 20) + 1)])
def test_truncated_body(raw, bucket, absent, sent, promised):
    status = raw_put(raw, f"/{bucket}/k", promised, noise("t", sent))
    assert status is None or status == 400
    absent()


def test_truncated_part(raw, s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    headers = {"host": raw.access.host, "content-length": "1000"}
    query = [("partNumber", "1"), ("uploadId", upload)]
    headers = raw.signed("PUT", f"/{bucket}/k", query, headers, b"", payload_hash=UNSIGNED)
    head = f"PUT /{bucket}/k?partNumber=1&uploadId={upload} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    host, port = raw.access.host.split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(head.encode() + b"x" * 999)
    assert "Parts" not in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)


def test_bytes_beyond_the_length_are_not_stored(raw, bucket):
    assert raw_put(raw, f"/{bucket}/k", 10, b"0123456789" + b"x" * 50) == 200
    assert raw.send("GET", f"/{bucket}/k").body == b"0123456789"


def test_object_larger_than_allowed(raw, bucket, absent):
    # 5 GiB + 1 in one PUT: refused at its head, before a byte of it is sent.
    headers = {"host": raw.access.host, "content-length": str((5 << 30) + 1), "expect": "100-continue"}
    headers = raw.signed("PUT", f"/{bucket}/k", (), headers, b"", payload_hash=UNSIGNED)
    refused(raw.exchange("PUT", f"/{bucket}/k", headers, b""), 400, "EntityTooLarge")
    absent()


@pytest.mark.parametrize("value", ["-1", "ten", "18446744073709551616", "10, 11"])
def test_mangled_content_length(raw, bucket, absent, value):
    status = raw_put(raw, f"/{bucket}/k", value, b"0123456789")
    assert status is None or 400 <= status < 500
    absent()


def test_very_long_head(raw, bucket):
    refusal = raw.exchange("GET", f"/{bucket}/k", {"host": raw.access.host, "x-amz-meta-a": "x" * 2_000_000}, b"")
    assert 400 <= refusal.status < 500


def test_too_much_user_metadata(raw, bucket, absent):
    answer = raw.send("PUT", f"/{bucket}/k", headers={"x-amz-meta-a": "x" * 3000}, body=BODY)
    refused(answer, 400, "MetadataTooLarge")
    absent()


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["k" * 1025, "ü" * 513, "a/" * 512 + "b"])
def test_key_of_1025_bytes(raw, bucket, key):
    assert len(key.encode()) in (1025, 1026)
    refused(raw.send("PUT", f"/{bucket}/{key}", body=BODY), 400, "KeyTooLongError")
    assert b"<Contents>" not in raw.send("GET", f"/{bucket}", query=[("list-type", "2")]).body


@pytest.mark.parametrize("key", ["k" * 1024, "ü" * 512, "a/" * 512, "..", "../x", ".", "a//b", "/", " ", "%00", "a\x7f", "?", "a&b=c;d#e"])
def test_strange_keys_are_kept_apart(raw, bucket, key):
    path = f"/{bucket}/{key}"
    answer = raw.send("PUT", path, body=key.encode())
    assert answer.status == 200, answer
    assert raw.send("GET", path).body == key.encode()


@pytest.mark.parametrize("target", ["/%ff%fe", "/%", "/%zz", "/a%2", "//", "/\x01"])
def test_keys_that_are_no_utf8_or_no_url(raw, bucket, target):
    headers = raw.signed("PUT", f"/{bucket}/k", (), {"host": raw.access.host}, BODY)
    host, port = raw.access.host.split(":")
    head = f"PUT /{bucket}{target} HTTP/1.1\r\ncontent-length: {len(BODY)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(head.encode("latin-1") + BODY)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert 400 <= response.status < 500


@pytest.mark.parametrize("name", ["A", "ab", "a" * 64, "-abc", "abc-", "a..b", "a_b", "192.168.1.1", "a b", "ü" * 4])
def test_bad_bucket_names(raw, name):
    refused(raw.send("PUT", f"/{name}"), 400, "InvalidBucketName")


def test_missing_bucket(raw, bucket):
    refused(raw.send("PUT", f"/{bucket}-not/k", body=BODY), 404, "NoSuchBucket")
    refused(raw.send("GET", f"/{bucket}-not/k"), 404, "NoSuchBucket")


# --- ranges -----------------------------------------------------------------------------------


def test_bad_ranges(raw, bucket):
    raw.send("PUT", f"/{bucket}/k", body=b"0123456789")
    raw.send("PUT", f"/{bucket}/empty", body=b"")
    for text in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999-"]:
        answer = raw.send("GET", f"/{bucket}/k", headers={"range": text})
        refused(answer, 416, "InvalidRange")
    refused(raw.send("GET", f"/{bucket}/empty", headers={"range": "bytes=0-"}), 416, "InvalidRange")
    # What is no range at all is ignored (RFC 9110, section 14.2).
    for text in ["bytes=5-2", "bytes=a-b", "bytes=", "lines=1-2", "bytes=-", "0-1"]:
        answer = raw.send("GET", f"/{bucket}/k", headers={"range": text})
        assert (answer.status, answer.body) == (200, b"0123456789"), (text, answer)


# --- documents --------------------------------------------------------------------------------


def delete_objects(raw, bucket, document: bytes):
    headers = {"content-md5": b64(hashlib.md5(document).digest())}
    return raw.send("POST", f"/{bucket}", query=[("delete", "")], headers=headers, body=document)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"not xml",
        b"<Delete>",
        b"<Delete></Delete>",
        b"<Other><Object><Key>k</Key></Object></Other>",
        b"<Delete><Object><Key>k</Key></Object></Delete><Delete/>",
        b"<a>" * 100_000,
        b"<Delete>" + b"<Object>" * 50_000 + b"</Object>" * 50_000 + b"</Delete>",
        b'<!DOCTYPE a [<!ENTITY b "k">]><Delete><Object><Key>&b;</Key></Object></Delete>',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><Delete><Object><Key>&b;</Key></Object></Delete>',
        b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>",
        b"<Delete a='" + b"x" * 500_000 + b"'><Object><Key>k</Key></Object></Delete>",
        b"\xff\xfe<Delete>",
    ],
    ids=lambda document: document[:24].decode("latin-1"),
)
def test_malformed_documents(raw, bucket, document):
    raw.send("PUT", f"/{bucket}/k", body=BODY)
    began = time.monotonic()
    answer = delete_objects(raw, bucket, document)
    assert time.monotonic() - began < 10, "no document makes work for more than a moment"
    refused(answer, 400, "MalformedXML")
    assert raw.send("GET", f"/{bucket}/k").body == BODY


def test_huge_document(raw, bucket):
    raw.send("PUT", f"/{bucket}/k", body=BODY)
    document = b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1_000_000 + b"</Delete>"
    try:
        answer = delete_objects(raw, bucket, document)
        assert answer.status == 400 and answer.code in ("MalformedXML", "EntityTooLarge", "MaxMessageLengthExceeded")
    except (ConnectionResetError, BrokenPipeError):
        # The server may close before it has read 29 MB of what it has already refused.
        pass
    assert raw.send("GET", f"/{bucket}/k").body == BODY


# --- multipart --------------------------------------------------------------------------------


@pytest.fixture
def upload(raw, s3, bucket):
    """An upload of three parts; calls with a list of (number, etag) try to complete it."""
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    etags = {}
    for number, len_bytes in [(1, 5 << 20), (2, 5 << 20), (3, 1000)]:
        answer = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number, Body=noise(f"part{number}", len_bytes)
        )
        etags[number] = answer["ETag"]

    def complete(parts):
        rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in parts)
        document = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
        return raw.send("POST", f"/{bucket}/k", query=[("uploadId", upload_id)], body=document)

    complete.id, complete.etags = upload_id, etags
    return complete


def test_parts_out_of_order(upload, absent):
    tags = upload.etags
    for numbers in [(2, 1, 3), (1, 3, 2), (1, 1, 2), (1, 2, 2, 3)]:
        refused(upload([(number, tags[number]) for number in numbers]), 400, "InvalidPartOrder")
        absent()
    assert upload([(1, tags[1]), (2, tags[2]), (3, tags[3])]).status == 200


def test_wrong_and_missing_parts(upload, absent):
    tags = upload.etags
    refused(upload([(1, tags[2])]), 400, "InvalidPart")
    refused(upload([(1, tags[1]), (4, tags[1])]), 400, "InvalidPart")
    refused(upload([]), 400, "MalformedXML")
    refused(upload([("one", tags[1])]), 400, "MalformedXML")
    absent()
    # A short part may only be the last one.
    refused(upload([(3, tags[3])] + [(4, tags[3])]), 400, "InvalidPart")
    assert upload([(2, tags[2]), (3, tags[3])]).status == 200


def test_short_part_in_the_middle(raw, s3, bucket, upload, absent):
    answer = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload.id, PartNumber=2, Body=b"short")
    refused(upload([(1, upload.etags[1]), (2, answer["ETag"]), (3, upload.etags[3])]), 400, "EntityTooSmall")
    absent()


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "99999999999999999999"])
def test_part_numbers_out_of_bounds(raw, bucket, upload, number):
    query = [("partNumber", number), ("uploadId", upload.id)]
    refused(raw.send("PUT", f"/{bucket}/k", query=query, body=BODY), 400, "InvalidArgument")


def test_unknown_upload(raw, bucket, upload):
    for name in ["no-such-upload", "../x", "0" * 5000]:
        query = [("partNumber", "1"), ("uploadId", name)]
        refused(raw.send("PUT", f"/{bucket}/k", query=query, body=BODY), 404, "NoSuchUpload")
        refused(raw.send("DELETE", f"/{bucket}/k", query=[("uploadId", name)]), 404, "NoSuchUpload")
    # An upload belongs to its key.
    query = [("partNumber", "1"), ("uploadId", upload.id)]
    refused(raw.send("PUT", f"/{bucket}/other", query=query, body=BODY), 404, "NoSuchUpload")


# --- the rest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["lifecycle", "website", "replication", "inventory", "analytics"])
def test_unknown_operations_answer_not_implemented(raw, bucket, query):
    refused(raw.send("PUT", f"/{bucket}", query=[(query, "")], body=b"<a/>"), 501, "NotImplemented")


@pytest.mark.parametrize(
    "name, value",
    [
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-server-side-encryption", "aws:kms"),
    ],
)
def test_guarantees_that_are_not_given_are_refused(raw, bucket, absent, name, value):
    answer = raw.send("PUT", f"/{bucket}/k", headers={name: value}, body=BODY)
    assert answer.status in (400, 501) and answer.code, answer
    absent()


@pytest.mark.parametrize("name, value", [("max-keys", "x"), ("max-keys", "-1"), ("continuation-token", "x"), ("encoding-type", "x")])
def test_bad_listing_arguments(raw, bucket, name, value):
    refused(raw.send("GET", f"/{bucket}", query=[("list-type", "2"), (name, value)]), 400, "InvalidArgument")


@pytest.mark.parametrize("text", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 5000, b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_ends_the_connection(raw, bucket, text):
    host, port = raw.access.host.split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
        assert answer == b"" or answer.split()[1][:1] == b"4"
    assert raw.send("PUT", f"/{bucket}/k", body=BODY).status == 200
