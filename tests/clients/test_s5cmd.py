"""s5cmd does what its users do all day."""

import filecmp

import pytest
import requests


@pytest.fixture
def s5cmd(run, access):
    return lambda *argv, **more: run("s5cmd", "--endpoint-url", access.endpoint, "--retry-count", "0", *argv, **more)


def test_put_get_list_copy_and_delete(s5cmd, bucket, make_file, tmp_path):
    path = make_file("small.bin", 100_000)
    s5cmd("cp", path, f"s3://{bucket}/a/small ü.bin")
    s5cmd("cp", f"s3://{bucket}/a/small ü.bin", tmp_path / "back")
    assert filecmp.cmp(path, tmp_path / "back", shallow=False)
    s5cmd("cp", f"s3://{bucket}/a/small ü.bin", f"s3://{bucket}/copy")
    lines = s5cmd("ls", f"s3://{bucket}/*").decode().splitlines()
    assert [line.split(None, 3)[2:] for line in lines] == [["100000", "a/small ü.bin"], ["100000", "copy"]]
    assert "DIR" in s5cmd("ls", f"s3://{bucket}/").decode()
    assert s5cmd("cat", f"s3://{bucket}/copy") == path.read_bytes()
    s5cmd("mv", f"s3://{bucket}/copy", f"s3://{bucket}/moved")
    s5cmd("rm", f"s3://{bucket}/a/small ü.bin")
    lines = s5cmd("ls", f"s3://{bucket}/*").decode().splitlines()
    assert [line.split()[-1] for line in lines] == ["moved"]


def test_multipart(s5cmd, bucket, make_file, tmp_path):
    path = make_file("large.bin", 16 * 1024 * 1024 + 5)
    s5cmd("cp", "--part-size", "5", "--concurrency", "3", path, f"s3://{bucket}/large")
    s5cmd("cp", "--part-size", "5", "--concurrency", "3", f"s3://{bucket}/large", tmp_path / "back")
    assert filecmp.cmp(path, tmp_path / "back", shallow=False)


def test_pipe(s5cmd, bucket):
    s5cmd("pipe", f"s3://{bucket}/piped", stdin=b"from a pipe" * 1000)
    assert s5cmd("cat", f"s3://{bucket}/piped") == b"from a pipe" * 1000


def test_presign(s5cmd, bucket, make_file):
    path = make_file("p", 5000)
    s5cmd("cp", path, f"s3://{bucket}/p")
    url = s5cmd("presign", "--expire", "1m", f"s3://{bucket}/p").decode().strip()
    assert requests.get(url, proxies={"http": None}).content == path.read_bytes()


def test_many_at_once(s5cmd, bucket, make_file, tmp_path):
    for number in range(100):
        make_file(f"tree/d{number % 5}/f{number}", 1 + number * 500)
    s5cmd("--numworkers", "32", "cp", f"{tmp_path}/tree/", f"s3://{bucket}/tree/")
    s5cmd("--numworkers", "32", "cp", f"s3://{bucket}/tree/*", f"{tmp_path}/back/")
    for number in range(100):
        name = f"d{number % 5}/f{number}"
        assert filecmp.cmp(tmp_path / "tree" / name, tmp_path / "back" / name, shallow=False)
    # One DeleteObjects for all.
    s5cmd("rm", f"s3://{bucket}/tree/*")
    s5cmd("ls", f"s3://{bucket}/*", good=False)


def test_buckets(s5cmd, bucket):
    name = f"{bucket[:50]}-x"
    s5cmd("mb", f"s3://{name}")
    assert name in s5cmd("ls").decode()
    s5cmd("rb", f"s3://{name}")
    assert name not in s5cmd("ls").decode()
