"""rclone does what its users do all day."""

import filecmp
import json

import pytest
import requests


@pytest.fixture
def rclone(run, access, tmp_path):
    remote = {
        "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
        "RCLONE_CONFIG_BIXI_TYPE": "s3",
        "RCLONE_CONFIG_BIXI_PROVIDER": "Other",
        "RCLONE_CONFIG_BIXI_ACCESS_KEY_ID": access.access_key,
        "RCLONE_CONFIG_BIXI_SECRET_ACCESS_KEY": access.secret_key,
        "RCLONE_CONFIG_BIXI_ENDPOINT": access.endpoint,
        "RCLONE_CONFIG_BIXI_REGION": "us-east-1",
        "RCLONE_LOW_LEVEL_RETRIES": "1",
        "RCLONE_RETRIES": "1",
    }
    (tmp_path / "rclone.conf").write_text("")
    return lambda *argv, **more: run("rclone", *argv, **{**remote, **more})


def test_put_get_list_copy_and_delete(rclone, bucket, make_file, tmp_path):
    path = make_file("small.bin", 100_000)
    rclone("copyto", path, f"bixi:{bucket}/a/small ü.bin")
    rclone("copyto", f"bixi:{bucket}/a/small ü.bin", tmp_path / "back")
    assert filecmp.cmp(path, tmp_path / "back", shallow=False)
    rclone("copyto", f"bixi:{bucket}/a/small ü.bin", f"bixi:{bucket}/copy")
    listing = json.loads(rclone("lsjson", "--recursive", "--files-only", f"bixi:{bucket}"))
    assert [(entry["Path"], entry["Size"]) for entry in listing] == [("a/small ü.bin", 100_000), ("copy", 100_000)]
    assert rclone("lsf", "--dirs-only", f"bixi:{bucket}").decode() == "a/\n"
    assert rclone("cat", "--offset", "10", "--count", "5", f"bixi:{bucket}/copy") == path.read_bytes()[10:15]
    rclone("moveto", f"bixi:{bucket}/copy", f"bixi:{bucket}/moved")
    rclone("deletefile", f"bixi:{bucket}/a/small ü.bin")
    assert rclone("lsf", "--recursive", f"bixi:{bucket}").decode() == "moved\n"


def test_modification_time_is_kept(rclone, bucket, make_file):
    path = make_file("t", 10)
    rclone("copyto", path, f"bixi:{bucket}/t")
    rclone("touch", "--timestamp", "2020-02-02T02:02:02", f"bixi:{bucket}/t")
    assert "2020-02-02 02:02:02" in rclone("lsl", f"bixi:{bucket}").decode()


def test_multipart(rclone, bucket, make_file, tmp_path):
    path = make_file("large.bin", 16 * 1024 * 1024 + 5)
    small_parts = {"RCLONE_S3_UPLOAD_CUTOFF": "5Mi", "RCLONE_S3_CHUNK_SIZE": "5Mi", "RCLONE_S3_COPY_CUTOFF": "6Mi"}
    rclone("copyto", path, f"bixi:{bucket}/large", **small_parts)
    # Above the copy cut-off: by UploadPartCopy.
    rclone("copyto", f"bixi:{bucket}/large", f"bixi:{bucket}/copy", **small_parts)
    for key in ("large", "copy"):
        rclone("copyto", f"bixi:{bucket}/{key}", tmp_path / f"back {key}")
        assert filecmp.cmp(path, tmp_path / f"back {key}", shallow=False)


def test_a_stream_of_unknown_length(rclone, bucket):
    body = bytes(range(256)) * 30_000
    rclone("rcat", f"bixi:{bucket}/stream", stdin=body)
    assert rclone("cat", f"bixi:{bucket}/stream") == body


def test_presign(rclone, bucket, make_file):
    path = make_file("p", 5000)
    rclone("copyto", path, f"bixi:{bucket}/p")
    url = rclone("link", "--expire", "1m", f"bixi:{bucket}/p").decode().strip()
    assert requests.get(url, proxies={"http": None}).content == path.read_bytes()


def test_sync_check_and_purge(rclone, bucket, make_file, tmp_path):
    for number in range(60):
        make_file(f"tree/d{number % 5}/f{number}", number * 700)
    rclone("sync", tmp_path / "tree", f"bixi:{bucket}/tree")
    rclone("check", "--download", tmp_path / "tree", f"bixi:{bucket}/tree")
    (tmp_path / "tree/d0/f0").unlink()
    make_file("tree/d1/new", 9)
    rclone("sync", tmp_path / "tree", f"bixi:{bucket}/tree")
    rclone("check", tmp_path / "tree", f"bixi:{bucket}/tree")
    rclone("delete", f"bixi:{bucket}/tree")
    assert rclone("lsf", "--recursive", "--files-only", f"bixi:{bucket}") == b""


def test_buckets(rclone, bucket):
    name = f"{bucket[:50]}-x"
    rclone("mkdir", f"bixi:{name}")
    assert f"{name}/" in rclone("lsf", "bixi:").decode().splitlines()
    rclone("rmdir", f"bixi:{name}")
    assert f"{name}/" not in rclone("lsf", "bixi:").decode().splitlines()
