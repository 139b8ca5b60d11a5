"""s3cmd does what its users do all day."""

import filecmp

import pytest
import requests


@pytest.fixture
def s3cmd(run, access, tmp_path):
    config = tmp_path / "s3cfg"
    config.write_text(
        "[default]\n"
        f"access_key = {access.access_key}\n"
        f"secret_key = {access.secret_key}\n"
        f"host_base = {access.host}\n"
        f"host_bucket = {access.host}\n"
        "use_https = False\n"
        "bucket_location = us-east-1\n"
        "signature_v2 = False\n"
        "max_retries = 1\n"
    )
    return lambda *argv, **more: run("s3cmd", "--config", config, "--no-progress", *argv, **more)


def test_put_get_list_copy_and_delete(s3cmd, bucket, make_file, tmp_path):
    path = make_file("small.bin", 100_000)
    s3cmd("put", path, f"s3://{bucket}/a/small ü.bin")
    s3cmd("get", f"s3://{bucket}/a/small ü.bin", tmp_path / "back")
    assert filecmp.cmp(path, tmp_path / "back", shallow=False)
    s3cmd("cp", f"s3://{bucket}/a/small ü.bin", f"s3://{bucket}/copy")
    lines = s3cmd("ls", "--recursive", f"s3://{bucket}").decode().splitlines()
    assert [line.split("s3://")[1] for line in lines] == [f"{bucket}/a/small ü.bin", f"{bucket}/copy"]
    assert "DIR" in s3cmd("ls", f"s3://{bucket}").decode()
    assert "100000" in s3cmd("info", f"s3://{bucket}/copy").decode()
    s3cmd("mv", f"s3://{bucket}/copy", f"s3://{bucket}/moved")
    s3cmd("del", f"s3://{bucket}/a/small ü.bin")
    lines = s3cmd("ls", "--recursive", f"s3://{bucket}").decode().splitlines()
    assert [line.split("s3://")[1] for line in lines] == [f"{bucket}/moved"]


def test_multipart(s3cmd, bucket, make_file, tmp_path):
    path = make_file("large.bin", 12 * 1024 * 1024 + 5)
    s3cmd("put", "--multipart-chunk-size-mb=5", path, f"s3://{bucket}/large")
    s3cmd("get", f"s3://{bucket}/large", tmp_path / "back")
    assert filecmp.cmp(path, tmp_path / "back", shallow=False)


def test_sync_and_delete_recursively(s3cmd, bucket, make_file, tmp_path):
    for number in range(12):
        make_file(f"tree/d{number % 3}/f{number}", number * 1000)
    s3cmd("sync", f"{tmp_path}/tree/", f"s3://{bucket}/tree/")
    (tmp_path / "back").mkdir()
    s3cmd("sync", f"s3://{bucket}/tree/", f"{tmp_path}/back/")
    for number in range(12):
        name = f"d{number % 3}/f{number}"
        assert filecmp.cmp(tmp_path / "tree" / name, tmp_path / "back" / name, shallow=False)
    s3cmd("del", "--recursive", "--force", f"s3://{bucket}/tree/")
    assert s3cmd("ls", "--recursive", f"s3://{bucket}") == b""


def test_buckets(s3cmd, bucket):
    name = f"{bucket[:50]}-x"
    s3cmd("mb", f"s3://{name}")
    assert name in s3cmd("ls").decode()
    s3cmd("rb", f"s3://{name}")
    assert name not in s3cmd("ls").decode()


def test_its_presigned_urls_are_of_signature_2_and_refused(s3cmd, bucket, make_file):
    # `s3cmd signurl` knows only SigV2, which rests on SHA-1 and is refused by design.
    path = make_file("p", 5000)
    s3cmd("put", path, f"s3://{bucket}/p")
    url = s3cmd("signurl", f"s3://{bucket}/p", "+60").decode().strip()
    answer = requests.get(url, proxies={"http": None})
    assert answer.status_code in (400, 403)
    assert path.read_bytes() not in answer.content
