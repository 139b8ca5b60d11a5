"""An operator deletes a bucket with all it holds, and takes it back, or gives it up for good."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest

from harness import Server, wait_for

MIB = 1 << 20
SIZES = [0, 1, 700, 8 << 10, 100_000, 300_000, 3 * MIB, 20 * MIB]


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path, dirs=1, environment={"BIXI_LOG": "warn,bixi=info"})
    server.start()
    yield server
    server.stop()


def body(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def trash(server) -> list:
    done = server.command("bucket", "trash", "--output", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["buckets"]


def refusal(call, **arguments) -> str:
    """The code with which a call is refused."""
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        call(**arguments)
    error = refused.value.response["Error"]
    # A HEAD is answered without a document.
    return {"404": "NoSuchBucket"}.get(error["Code"], error["Code"])


def names(client) -> list:
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def test_a_bucket_that_was_deleted_with_its_objects_comes_back_as_it_was(server):
    client = server.client()
    client.create_bucket(Bucket="photos")
    for size in SIZES:
        client.put_object(Bucket="photos", Key=f"of/{size}", Body=body("photos", size), Metadata={"size": str(size)})
    upload = client.create_multipart_upload(Bucket="photos", Key="film")["UploadId"]
    ask = {"Bucket": "photos", "Key": "film", "UploadId": upload}
    first = client.upload_part(**ask, PartNumber=1, Body=body("first", 6 * MIB))["ETag"]
    live = server.status()

    # S3's own meaning stays: only if it is empty. And nothing without a yes.
    assert server.command("bucket", "delete", "photos").returncode == 4
    assert refusal(client.delete_bucket, Bucket="photos") == "BucketNotEmpty"
    asked = server.command("bucket", "delete", "photos", "--with-objects")
    assert asked.returncode == 2 and b"--yes" in asked.stderr, asked.stderr
    dry = server.command("bucket", "delete", "photos", "--with-objects", "--dry-run")
    assert dry.returncode == 8 and b"7.0 days" in dry.stdout, (dry.stdout, dry.stderr)
    assert trash(server) == []
    assert server.command("bucket", "delete", "none-such", "--with-objects", "--yes").returncode == 3
    before = time.time()
    done = server.command("bucket", "delete", "s3://photos", "--with-objects", "--yes", "--output", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["name"] == "photos" and told["state"] == "kept"
    assert abs(told["kept_until_ms"] / 1000 - before - 7 * 86_400) < 300
    (entry,) = trash(server)
    assert entry["id"] == told["id"] and entry["objects"] == len(SIZES) and entry["bytes"] == sum(SIZES)
    assert b"photos" in server.command("bucket", "trash", "list").stdout

    # Nobody reaches it, whatever they knew of it.
    assert "photos" not in names(client)
    for call, more in [
        (client.head_bucket, {}),
        (client.list_objects_v2, {}),
        (client.list_multipart_uploads, {}),
        (client.get_object, {"Key": "of/700"}),
        (client.put_object, {"Key": "of/700", "Body": b"late"}),
        (client.delete_object, {"Key": "of/700"}),
        (client.upload_part, {"Key": "film", "UploadId": upload, "PartNumber": 2, "Body": b"late"}),
        (client.list_parts, {"Key": "film", "UploadId": upload}),
        (client.abort_multipart_upload, {"Key": "film", "UploadId": upload}),
    ]:
        assert refusal(call, Bucket="photos", **more) == "NoSuchBucket", call

    # Its name is free, and somebody takes it.
    client.create_bucket(Bucket="photos")
    client.put_object(Bucket="photos", Key="of/700", Body=b"another")
    assert [row["Key"] for row in client.list_objects_v2(Bucket="photos")["Contents"]] == ["of/700"]
    taken = server.command("bucket", "restore", "photos")
    assert taken.returncode == 4 and b"--as" in taken.stderr, taken.stderr
    assert server.command("bucket", "restore", "photos", "--as", "No_Name").returncode == 1
    assert server.command("bucket", "restore", "none-such").returncode == 3
    dry = server.command("bucket", "restore", "photos", "--as", "pictures", "--dry-run")
    assert dry.returncode == 8 and b"pictures" in dry.stdout, (dry.stdout, dry.stderr)
    server.kill()
    server.start()
    client = server.client()
    restored = server.command("bucket", "restore", "photos", "--as", "pictures")
    assert restored.returncode == 0, restored.stderr
    assert trash(server) == [] and {"photos", "pictures"} <= set(names(client))
    for size in SIZES:
        got = client.get_object(Bucket="pictures", Key=f"of/{size}")
        assert got["Metadata"] == {"size": str(size)} and got["Body"].read() == body("photos", size), size
    ask["Bucket"] = "pictures"
    second = client.upload_part(**ask, PartNumber=2, Body=body("second", MIB))["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]}
    client.complete_multipart_upload(**ask, MultipartUpload=parts)
    film = client.get_object(Bucket="pictures", Key="film")["Body"].read()
    assert film == body("first", 6 * MIB) + body("second", MIB)
    assert client.get_object(Bucket="photos", Key="of/700")["Body"].read() == b"another"
    assert live["chunks"]["lost"] == server.status()["chunks"]["lost"] == 0
    assert server.command("fsck").returncode == 0
    log = server.log.read_text()
    assert "went to the trash" in log and "was restored from the trash" in log and "root" in log


def test_two_of_one_name_are_told_apart_by_id_and_only_root_does_it(server, tmp_path):
    client = server.client()
    for number in range(2):
        client.create_bucket(Bucket="twin")
        client.put_object(Bucket="twin", Key="which", Body=str(number).encode())
        assert server.command("bucket", "delete", "twin", "--with-objects", "--yes").returncode == 0
    ids = [row["id"] for row in sorted(trash(server), key=lambda row: row["deleted_ms"])]
    assert len(set(ids)) == 2
    for what in (["restore", "twin"], ["purge", "twin", "--yes"]):
        unclear = server.command("bucket", *what)
        assert unclear.returncode == 4 and all(one.encode() in unclear.stderr for one in ids), unclear.stderr
    assert server.command("bucket", "restore", ids[1], "--as", "younger").returncode == 0
    assert server.command("bucket", "restore", "twin").returncode == 0
    for bucket, which in [("younger", b"1"), ("twin", b"0")]:
        assert client.get_object(Bucket=bucket, Key="which")["Body"].read() == which

    made = json.loads(server.command("key", "create", "--user", "anna", "--output", "json").stdout)
    other = tmp_path / "credentials"
    other.write_text(f"access_key={made['access_key']}\nsecret_key={made['secret_key']}\n")
    assert server.command("bucket", "create", "annas", "--credentials", other).returncode == 0
    for what in (["delete", "annas", "--with-objects", "--yes"], ["trash"], ["restore", "twin"], ["purge", "twin", "--yes"]):
        assert server.command("bucket", *what, "--credentials", other).returncode == 5, what
    # Root deletes it and restores it: it is still hers.
    assert server.command("bucket", "delete", "annas", "--with-objects", "--yes").returncode == 0
    assert server.command("bucket", "restore", "annas").returncode == 0
    assert b"annas" in server.command("bucket", "list", "--credentials", other).stdout


def fill(server, bucket: str):
    """More than the 128 MiB of a chunk, so that the first is full and sealed."""
    client = server.client()
    client.create_bucket(Bucket=bucket)
    for number in range(40):
        client.put_object(Bucket=bucket, Key=str(number), Body=body(f"{bucket}/{number}", 4 * MIB))
    upload = client.create_multipart_upload(Bucket=bucket, Key="open")["UploadId"]
    ask = {"Bucket": bucket, "Key": "open", "UploadId": upload}
    for number in range(1, 4):
        client.upload_part(**ask, PartNumber=number, Body=body(f"part {number}", 5 * MIB))


def free(server) -> float:
    return server.metrics()["bixi_slots_free_bytes"]


def is_empty(server) -> bool:
    return trash(server) == []


def test_the_space_comes_back_when_it_is_purged_or_its_time_is_over(server):
    client = server.client()
    client.create_bucket(Bucket="other")
    client.put_object(Bucket="other", Key="stays", Body=body("stays", 5 * MIB))
    fill(server, "big")
    before = free(server)
    assert server.command("bucket", "delete", "big", "--with-objects", "--yes").returncode == 0
    time.sleep(2)
    assert free(server) < before + 50 * MIB, "it is kept"
    dry = server.command("bucket", "purge", "big", "--dry-run")
    assert dry.returncode == 8 and b"40 objects" in dry.stdout, (dry.stdout, dry.stderr)
    assert server.command("bucket", "purge", "big").returncode == 2
    assert server.command("bucket", "purge", "big", "--yes").returncode == 0
    wait_for("the bucket is gone", lambda: is_empty(server))
    wait_for("its space is free", lambda: free(server) >= before + 100 * MIB)
    assert server.command("bucket", "purge", "big", "--yes").returncode == 3
    # Another one is not given up: its time is over.
    fill(server, "big")
    before = free(server)
    brief = server.command("bucket", "delete", "big", "--with-objects", "--yes", "--keep-days", "0.0001")
    assert brief.returncode == 0, brief.stderr
    wait_for("the bucket is gone", lambda: is_empty(server))
    wait_for("its space is free", lambda: free(server) >= before + 100 * MIB)
    assert server.status()["chunks"]["lost"] == 0
    assert client.get_object(Bucket="other", Key="stays")["Body"].read() == body("stays", 5 * MIB)
    assert server.command("fsck").returncode == 0


def test_a_purge_goes_on_after_kill_9_in_the_middle(tmp_path):
    server = Server(tmp_path, dirs=3)
    server.start()
    client = server.client()
    client.create_bucket(Bucket="many")
    client.create_bucket(Bucket="other")
    client.put_object(Bucket="other", Key="stays", Body=b"stays")
    count = 4000

    def put(number: int):
        client.put_object(Bucket="many", Key=f"{number:04}", Body=body(str(number), 500))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(count)))
    try:
        assert server.command("bucket", "delete", "many", "--with-objects", "--yes").returncode == 0
        assert server.command("bucket", "purge", "many", "--yes").returncode == 0

        def left() -> int:
            rows = trash(server)
            assert all(row["state"] == "purging" for row in rows), rows
            return rows[0]["objects"] if rows else 0

        seen = count
        for turn in range(3):
            # At once, before anybody could be too late; then whenever more of it is gone.
            if turn > 0:
                wait_for("some more of it is gone", lambda upto=seen: left() < upto, pause=0)
                seen = left()
            if seen == 0:
                break
            print(f"killed with {seen} of {count} objects left")
            server.kill()
            server.start()
            # It was given up: a part of it may be gone.
            refused = server.command("bucket", "restore", "many")
            assert refused.returncode in (3, 4), refused.stderr
        wait_for("the purge ends", lambda: is_empty(server))
        client = server.client()
        assert names(client) == ["other"]
        assert client.get_object(Bucket="other", Key="stays")["Body"].read() == b"stays"
        client.create_bucket(Bucket="many")
        assert "Contents" not in client.list_objects_v2(Bucket="many")
        assert server.command("fsck").returncode == 0
    finally:
        server.stop()
