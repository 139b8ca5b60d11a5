"""boto3 does what its users do all day."""

import datetime
import io

import boto3.s3.transfer
import botocore.exceptions
import pytest
import requests

from harness import noise


def test_put_get_head_and_delete(s3, bucket):
    body = noise("body", 100_000)
    put = s3.put_object(
        Bucket=bucket,
        Key="a/b c+ü.txt",
        Body=body,
        ContentType="text/plain",
        CacheControl="max-age=1",
        ContentDisposition="inline",
        ContentLanguage="en",
        Metadata={"colour": "blue", "Note": "two  words"},
    )
    got = s3.get_object(Bucket=bucket, Key="a/b c+ü.txt")
    assert got["Body"].read() == body
    head = s3.head_object(Bucket=bucket, Key="a/b c+ü.txt")
    for answer in (got, head):
        assert answer["ETag"] == put["ETag"]
        assert answer["ContentLength"] == len(body)
        assert answer["ContentType"] == "text/plain"
        assert answer["CacheControl"] == "max-age=1"
        assert answer["ContentDisposition"] == "inline"
        assert answer["ContentLanguage"] == "en"
        assert answer["Metadata"] == {"colour": "blue", "note": "two  words"} or answer["Metadata"] == {
            "colour": "blue",
            "note": "two words",
        }
        assert abs(datetime.datetime.now(datetime.timezone.utc) - answer["LastModified"]) < datetime.timedelta(minutes=1)
    s3.delete_object(Bucket=bucket, Key="a/b c+ü.txt")
    s3.delete_object(Bucket=bucket, Key="a/b c+ü.txt")
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="a/b c+ü.txt")
    with pytest.raises(botocore.exceptions.ClientError, match="404"):
        s3.head_object(Bucket=bucket, Key="a/b c+ü.txt")


@pytest.mark.parametrize("len_bytes", [0, 1, 4095, 4096, 4097, 65_536, 1_048_577, 5_000_000])
def test_every_size_reads_back(s3, bucket, len_bytes):
    body = noise("size", len_bytes)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body


def test_overwrite_replaces(s3, bucket):
    for version in range(5):
        s3.put_object(Bucket=bucket, Key="k", Body=noise(f"v{version}", 10_000 * version))
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == noise(f"v{version}", 10_000 * version)


@pytest.mark.parametrize("kind", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_come_back(s3, bucket, kind):
    body = noise(kind, 50_000)
    try:
        put = s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm=kind)
    except botocore.exceptions.MissingDependencyException:
        # CRC32C and CRC64NVME need a package of their own; the checksum is then given by hand.
        pytest.skip(f"boto3 cannot compute {kind} without awscrt")
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == body
    assert got[f"Checksum{kind}"] == put[f"Checksum{kind}"]


def test_ranges(s3, bucket):
    body = noise("range", 300_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    for text, expected in [
        ("bytes=0-0", body[:1]),
        ("bytes=4095-4096", body[4095:4097]),
        ("bytes=100000-", body[100_000:]),
        ("bytes=-7", body[-7:]),
        ("bytes=-999999", body),
        ("bytes=299999-999999", body[-1:]),
    ]:
        got = s3.get_object(Bucket=bucket, Key="k", Range=text)
        assert got["Body"].read() == expected, text
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"].endswith("/300000")


def test_conditional_reads_and_writes(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    assert s3.get_object(Bucket=bucket, Key="k", IfMatch=etag)["Body"].read() == b"1"
    refusals = [
        ("304", lambda: s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=etag)),
        ("PreconditionFailed", lambda: s3.get_object(Bucket=bucket, Key="k", IfMatch='"0"')),
        ("PreconditionFailed", lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")),
        ("PreconditionFailed", lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch='"0"')),
    ]
    for code, call in refusals:
        with pytest.raises(botocore.exceptions.ClientError, match=code):
            call()
    s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"3"


def test_listings(s3, bucket):
    keys = sorted([f"dir{a}/file{b:02}" for a in range(3) for b in range(20)] + ["top", "dir0", "dir0/", "ü/ü"])
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    expected = sorted(keys, key=lambda key: key.encode())
    for operation in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(operation).paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
        assert [entry["Key"] for page in pages for entry in page.get("Contents", [])] == expected
        pages = list(s3.get_paginator(operation).paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2}))
        assert [entry["Key"] for page in pages for entry in page.get("Contents", [])] == ["dir0", "top"]
        prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        assert prefixes == ["dir0/", "dir1/", "dir2/", "ü/"]
    listing = s3.list_objects_v2(Bucket=bucket, Prefix="dir1/", StartAfter="dir1/file17")
    assert [entry["Key"] for entry in listing["Contents"]] == ["dir1/file18", "dir1/file19"]
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["KeyCount"] == 0


def test_buckets(s3, bucket):
    assert bucket in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    s3.head_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with pytest.raises(botocore.exceptions.ClientError, match="BucketNotEmpty"):
        s3.delete_bucket(Bucket=bucket)
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.list_objects_v2(Bucket=bucket + "-not")


def test_copy(s3, bucket):
    body = noise("copy", 3_000_000)
    s3.put_object(Bucket=bucket, Key="from/ü +&", Body=body, ContentType="image/png", Metadata={"a": "1"})
    s3.copy_object(Bucket=bucket, Key="kept", CopySource={"Bucket": bucket, "Key": "from/ü +&"})
    kept = s3.get_object(Bucket=bucket, Key="kept")
    assert (kept["Body"].read(), kept["ContentType"], kept["Metadata"]) == (body, "image/png", {"a": "1"})
    s3.copy_object(
        Bucket=bucket,
        Key="replaced",
        CopySource={"Bucket": bucket, "Key": "from/ü +&"},
        MetadataDirective="REPLACE",
        Metadata={"b": "2"},
    )
    s3.delete_object(Bucket=bucket, Key="from/ü +&")
    replaced = s3.get_object(Bucket=bucket, Key="replaced")
    assert (replaced["Body"].read(), replaced["Metadata"]) == (body, {"b": "2"})


def test_delete_objects(s3, bucket):
    keys = [f"k{number}" for number in range(50)] + ["not there", "<&>ü"]
    for key in keys:
        if key != "not there":
            s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert sorted(entry["Key"] for entry in answer["Deleted"]) == sorted(keys)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_multipart_by_the_transfer_manager(s3, bucket):
    body = noise("multipart", 20 * 1024 * 1024 + 17)
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    s3.upload_fileobj(io.BytesIO(body), bucket, "big", Config=config, ExtraArgs={"Metadata": {"a": "1"}})
    head = s3.head_object(Bucket=bucket, Key="big")
    assert head["ETag"].endswith('-5"')
    assert head["Metadata"] == {"a": "1"}
    target = io.BytesIO()
    s3.download_fileobj(bucket, "big", target, Config=config)
    assert target.getvalue() == body
    s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy of big", Config=config)
    assert s3.get_object(Bucket=bucket, Key="copy of big")["Body"].read() == body


def test_multipart_by_hand(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    assert [entry["UploadId"] for entry in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    bodies = {1: noise("p1", 5 << 20), 3: noise("p3", 6 << 20), 9: noise("p9", 10)}
    s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=3, Body=b"overwritten below")
    for number, body in sorted(bodies.items(), reverse=True):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=number, Body=body)
    parts = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in parts] == [(n, len(b)) for n, b in sorted(bodies.items())]
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="k")
    chosen = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": chosen})
    whole = b"".join(body for _, body in sorted(bodies.items()))
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == whole
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_aborted_multipart_leaves_nothing(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=noise("p", 100_000))
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    with pytest.raises(botocore.exceptions.ClientError, match="NoSuchUpload"):
        s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_upload_part_copy(s3, bucket):
    body = noise("source", 12 << 20)
    s3.put_object(Bucket=bucket, Key="source", Body=body)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    parts = []
    for number, (first, last) in enumerate([(0, (6 << 20) - 1), (6 << 20, len(body) - 1)], start=1):
        answer = s3.upload_part_copy(
            Bucket=bucket,
            Key="k",
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": bucket, "Key": "source"},
            CopySourceRange=f"bytes={first}-{last}",
        )
        parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body


def test_presigned_get_and_put(s3, bucket):
    body = noise("presign", 70_000)
    put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k ü"}, ExpiresIn=60)
    with requests.Session() as session:
        session.trust_env = False
        assert session.put(put, data=body).status_code == 200
        get = s3.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": "k ü", "ResponseContentType": "text/x-mine"}, ExpiresIn=60
        )
        answer = session.get(get)
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == "text/x-mine"
        assert session.get(get.split("?")[0]).status_code == 403
