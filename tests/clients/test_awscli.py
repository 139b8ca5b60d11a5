"""awscli does what its users do all day."""

import filecmp
import json

import pytest
import requests


@pytest.fixture
def aws(run, access):
    return lambda *argv, **more: run("aws", "--endpoint-url", access.endpoint, *argv, **more)


def test_put_get_list_copy_and_delete(aws, bucket, make_file, tmp_path):
    path = make_file("small.bin", 100_000)
    aws("s3", "cp", path, f"s3://{bucket}/a/small.bin", "--no-progress")
    aws("s3", "cp", f"s3://{bucket}/a/small.bin", tmp_path / "back", "--no-progress")
    assert filecmp.cmp(path, tmp_path / "back", shallow=False)
    aws("s3", "cp", f"s3://{bucket}/a/small.bin", f"s3://{bucket}/b/copy.bin")
    listing = aws("s3", "ls", "--recursive", f"s3://{bucket}").decode()
    assert [line.split()[2:] for line in listing.splitlines()] == [["100000", "a/small.bin"], ["100000", "b/copy.bin"]]
    assert "PRE a/" in aws("s3", "ls", f"s3://{bucket}/").decode()
    aws("s3", "rm", f"s3://{bucket}/a/small.bin")
    aws("s3", "mv", f"s3://{bucket}/b/copy.bin", f"s3://{bucket}/moved")
    keys = json.loads(aws("s3api", "list-objects-v2", "--bucket", bucket, "--output", "json"))["Contents"]
    assert [entry["Key"] for entry in keys] == ["moved"]


def test_multipart(aws, bucket, make_file, tmp_path):
    # Above its threshold of 8 MiB.
    path = make_file("large.bin", 21 * 1024 * 1024 + 5)
    aws("s3", "cp", path, f"s3://{bucket}/large", "--no-progress")
    head = json.loads(aws("s3api", "head-object", "--bucket", bucket, "--key", "large"))
    assert head["ETag"].endswith('-3"')
    aws("s3", "cp", f"s3://{bucket}/large", f"s3://{bucket}/copy of large")
    for key in ("large", "copy of large"):
        aws("s3", "cp", f"s3://{bucket}/{key}", tmp_path / "back", "--no-progress")
        assert filecmp.cmp(path, tmp_path / "back", shallow=False)


def test_standard_input_and_output(aws, bucket):
    aws("s3", "cp", "-", f"s3://{bucket}/piped", stdin=b"from a pipe")
    assert aws("s3", "cp", f"s3://{bucket}/piped", "-") == b"from a pipe"


def test_presign(aws, run, bucket, make_file):
    # For an endpoint that is not AWS's it would fall back to SigV2.
    run("aws", "configure", "set", "default.s3.signature_version", "s3v4")
    path = make_file("p", 5000)
    aws("s3", "cp", path, f"s3://{bucket}/p", "--no-progress")
    url = aws("s3", "presign", f"s3://{bucket}/p", "--expires-in", "60").decode().strip()
    assert requests.get(url, proxies={"http": None}).content == path.read_bytes()


def test_sync_there_and_back(aws, bucket, make_file, tmp_path):
    for number in range(40):
        make_file(f"tree/d{number % 4}/f{number}", number * 1000)
    aws("s3", "sync", tmp_path / "tree", f"s3://{bucket}/tree", "--no-progress")
    assert aws("s3", "sync", tmp_path / "tree", f"s3://{bucket}/tree", "--no-progress") == b""
    aws("s3", "sync", f"s3://{bucket}/tree", tmp_path / "back", "--no-progress")
    for number in range(40):
        name = f"d{number % 4}/f{number}"
        assert filecmp.cmp(tmp_path / "tree" / name, tmp_path / "back" / name, shallow=False)
    aws("s3", "rm", "--recursive", f"s3://{bucket}/tree")
    remaining = aws("s3api", "list-objects-v2", "--bucket", bucket, "--query", "Contents", "--output", "text")
    assert remaining.split() == [b"None"]


def test_buckets(aws, bucket):
    name = f"{bucket[:50]}-x"
    aws("s3", "mb", f"s3://{name}")
    assert name in aws("s3", "ls").decode()
    aws("s3", "rb", f"s3://{name}")
    assert name not in aws("s3", "ls").decode()
