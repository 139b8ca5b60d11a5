"""Uploads by a browser's form: boto3's presigned posts, sent by urllib3's multipart encoder."""

import base64
import datetime
import hashlib
import hmac
import json
import xml.etree.ElementTree

import pytest
import urllib3

HTTP = urllib3.PoolManager()


def post(url: str, fields: dict, body: bytes, filename: str = "name.bin"):
    form = list(fields.items()) + [("file", (filename, body, "text/html"))]
    return HTTP.request("POST", url, fields=form, redirect=False, retries=False)


def code(answer) -> str:
    return xml.etree.ElementTree.fromstring(answer.data).findtext("Code")


def presigned(s3, bucket, key, fields=None, conditions=None, seconds=600):
    return s3.generate_presigned_post(bucket, key, Fields=fields, Conditions=conditions, ExpiresIn=seconds)


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, 100_000, 6 << 20])
def test_a_form_stores_what_a_put_would(s3, bucket, size):
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    fields = {"Content-Type": "text/x-test", "x-amz-meta-colour": "blue", "Cache-Control": "max-age=5"}
    conditions = [{"Content-Type": "text/x-test"}, {"x-amz-meta-colour": "blue"}, ["starts-with", "$Cache-Control", ""]]
    ask = presigned(s3, bucket, "up/${filename}", fields, conditions)
    answer = post(ask["url"], ask["fields"], body, "dir/a b.bin")
    assert answer.status == 204, answer.data
    etag = hashlib.md5(body).hexdigest()
    assert answer.headers["etag"] == f'"{etag}"'
    stored = s3.get_object(Bucket=bucket, Key="up/a b.bin")
    assert stored["Body"].read() == body
    assert stored["ContentType"] == "text/x-test"
    assert stored["CacheControl"] == "max-age=5"
    assert stored["Metadata"] == {"colour": "blue"}


def test_answers_by_status_and_redirect(s3, bucket):
    for status in ("200", "201", "204", "999"):
        extra = {"success_action_status": status}
        ask = presigned(s3, bucket, "k", extra, [extra])
        answer = post(ask["url"], ask["fields"], b"x")
        assert answer.status == (int(status) if status != "999" else 204)
        if status == "201":
            tree = xml.etree.ElementTree.fromstring(answer.data)
            assert (tree.tag, tree.findtext("Bucket"), tree.findtext("Key")) == ("PostResponse", bucket, "k")
            assert tree.findtext("ETag") == f'"{hashlib.md5(b"x").hexdigest()}"'
    extra = {"success_action_redirect": "http://localhost/done?a=b"}
    ask = presigned(s3, bucket, "k/é", extra, [extra])
    answer = post(ask["url"], ask["fields"], b"x")
    assert answer.status == 303
    etag = hashlib.md5(b"x").hexdigest()
    assert answer.headers["location"] == f"http://localhost/done?a=b&bucket={bucket}&key=k%2F%C3%A9&etag=%22{etag}%22"


def test_length_range(s3, bucket):
    ask = presigned(s3, bucket, "k", conditions=[["content-length-range", 5, 10]])
    for size, status, name in ((4, 400, "EntityTooSmall"), (11, 400, "EntityTooLarge"), (2 << 20, 400, "EntityTooLarge")):
        answer = post(ask["url"], ask["fields"], b"x" * size)
        assert (answer.status, code(answer)) == (status, name)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert post(ask["url"], ask["fields"], b"x" * 10).status == 204


def test_what_the_policy_does_not_let_in(s3, bucket):
    ask = presigned(s3, bucket, "user/${filename}", {"acl": "private"}, [{"acl": "private"}])
    fields = ask["fields"]
    for change in (
        {"key": "elsewhere/x"},
        {"x-amz-meta-more": "1"},
        {"acl": "bucket-owner-full-control"},
        {"success_action_redirect": "http://evil.example/"},
    ):
        answer = post(ask["url"], {**fields, **change}, b"x")
        assert (answer.status, code(answer)) == (403, "AccessDenied"), change
    assert post(ask["url"], {**fields, "x-ignore-me": "1"}, b"x").status == 204
    expired = presigned(s3, bucket, "k", seconds=-10)
    answer = post(expired["url"], expired["fields"], b"x")
    assert (answer.status, code(answer)) == (403, "AccessDenied")
    assert "expired" in answer.data.decode()


def test_forged_forms(s3, bucket, access):
    ask = presigned(s3, bucket, "k")
    fields = ask["fields"]

    def without(name):
        return {known: value for known, value in fields.items() if known.lower() != name}

    wrong = fields["x-amz-signature"][::-1]
    answer = post(ask["url"], {**fields, "x-amz-signature": wrong}, b"x")
    assert (answer.status, code(answer)) == (403, "SignatureDoesNotMatch")
    other_policy = base64.b64encode(json.dumps({"expiration": "2100-01-01T00:00:00Z", "conditions": []}).encode())
    answer = post(ask["url"], {**fields, "policy": other_policy.decode()}, b"x")
    assert (answer.status, code(answer)) == (403, "SignatureDoesNotMatch")
    answer = post(ask["url"], without("policy"), b"x")
    assert (answer.status, code(answer)) == (403, "AccessDenied")
    answer = post(ask["url"], {"key": "k"}, b"x")
    assert (answer.status, code(answer)) == (403, "AccessDenied")
    for name in ("x-amz-signature", "x-amz-credential", "x-amz-date", "x-amz-algorithm", "key"):
        answer = post(ask["url"], without(name), b"x")
        assert (answer.status, code(answer)) == (400, "InvalidArgument"), name
    stranger = {**fields, "x-amz-credential": "NOBODY" + fields["x-amz-credential"][fields["x-amz-credential"].index("/"):]}
    answer = post(ask["url"], stranger, b"x")
    assert (answer.status, code(answer)) == (403, "InvalidAccessKeyId")
    # Signed for another bucket.
    other = presigned(s3, "another-bucket", "k")
    answer = post(ask["url"], other["fields"], b"x")
    assert (answer.status, code(answer)) == (403, "AccessDenied")
    answer = post(other["url"], other["fields"], b"x")
    assert (answer.status, code(answer)) == (404, "NoSuchBucket")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def sign(access, policy: dict) -> dict:
    """The fields of a form with any policy, signed rightly."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day = now.strftime("%Y%m%d")
    fields = {
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{access.access_key}/{day}/us-east-1/s3/aws4_request",
        "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
    }
    text = base64.b64encode(json.dumps(policy).encode())
    key = ("AWS4" + access.secret_key).encode()
    for part in (day, "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    fields["policy"] = text.decode()
    fields["x-amz-signature"] = hmac.new(key, text, hashlib.sha256).hexdigest()
    return fields


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"expiration": "2100-01-01T00:00:00Z"},
        {"conditions": []},
        {"EXPIRATION": "2100-01-01T00:00:00Z", "conditions": []},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [{}]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["content-length-range", 0]]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["content-length-range", -1, 0]]},
        {"expiration": "some day", "conditions": []},
    ],
)
def test_malformed_policies(bucket, access, policy):
    answer = post(f"{access.endpoint}/{bucket}", {"key": "k", **sign(access, policy)}, b"x")
    assert (answer.status, code(answer)) == (400, "InvalidPolicyDocument"), answer.data


def test_malformed_forms(s3, bucket, access):
    url = f"{access.endpoint}/{bucket}"
    kind = {"content-type": "multipart/form-data; boundary=B"}
    head = b'--B\r\nContent-Disposition: form-data; name="key"\r\n\r\nk\r\n'
    for body, name in (
        (b"", "InvalidArgument"),
        (b"--B--\r\n", "InvalidArgument"),
        (head + b"--B--\r\n", "InvalidArgument"),
        (b"--B\r\nno head at all\r\n\r\nx\r\n--B--\r\n", "MalformedPOSTRequest"),
        (b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 200_000, "MaxPostPreDataLengthExceeded"),
    ):
        answer = HTTP.request("POST", url, body=body, headers=kind, retries=False)
        assert (answer.status, code(answer)) == (400, name), body[:60]
    # A file whose end never comes is not stored.
    ask = presigned(s3, bucket, "k")
    form, content_type = urllib3.encode_multipart_formdata([*ask["fields"].items(), ("file", ("n", b"x" * 100_000))])
    answer = HTTP.request("POST", url, body=form[:-30], headers={"content-type": content_type}, retries=False)
    assert (answer.status, code(answer)) == (400, "MalformedPOSTRequest")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    # What is no form is a request without a signature.
    answer = HTTP.request("POST", url, body=b"x", headers={"content-type": "text/plain"}, retries=False)
    assert (answer.status, code(answer)) == (403, "AccessDenied")


def test_checksums_of_a_form(s3, bucket):
    body = b"checked"
    right = base64.b64encode(hashlib.sha256(body).digest()).decode()
    fields = {"x-amz-checksum-sha256": right}
    ask = presigned(s3, bucket, "k", fields, [["starts-with", "$x-amz-checksum-sha256", ""]])
    assert post(ask["url"], ask["fields"], body).status == 204
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"] == right
    answer = post(ask["url"], ask["fields"], b"changed")
    assert (answer.status, code(answer)) == (400, "BadDigest")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body

