"""A file system runs full under the one-process server: a clear error, nothing acked lost, reads and
deletes go on, and space comes back without a restart. Needs root (loop device)."""

import os
import random
import subprocess

import botocore.exceptions
import pytest

from harness import Server, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a loop device")


@pytest.fixture
def small_disk(tmp_path):
    image, mount = tmp_path / "disk.img", tmp_path / "mnt"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)


def body(number: int) -> bytes:
    return random.Random(number).randbytes(1 << 20 if number % 3 else 4000)


# What is kept of the acked objects: the last third, so that whole chunks die, or every tenth, so that
# no chunk does and only compaction can give space back, on a disk that has none left.
@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(lambda place, count: place >= count * 2 // 3, id="last third"),
        pytest.param(lambda place, count: place % 10 == 0, id="every tenth"),
    ],
)
def test_reads_and_deletes_go_on_when_the_disk_is_full(small_disk, tmp_path, kept):
    server = Server(tmp_path / "server", [small_disk / "data"])
    server.start()
    try:
        client = server.client()
        client.create_bucket(Bucket="full")
        acked, refused = [], None
        for number in range(1000):
            try:
                client.put_object(Bucket="full", Key=str(number), Body=body(number))
                acked.append(number)
            except botocore.exceptions.ClientError as error:
                refused = error
                break
        assert refused is not None, "1000 MiB fitted into 400"
        status = refused.response["ResponseMetadata"]["HTTPStatusCode"]
        assert status in (503, 507), refused
        for number in acked:
            assert client.get_object(Bucket="full", Key=str(number))["Body"].read() == body(number)
        left = [number for place, number in enumerate(acked) if kept(place, len(acked))]
        for number in sorted(set(acked) - set(left)):
            client.delete_object(Bucket="full", Key=str(number))

        def takes_writes():
            try:
                return client.put_object(Bucket="full", Key="again", Body=b"x" * (1 << 20))
            except botocore.exceptions.ClientError:
                return None

        wait_for("space comes back", takes_writes, pause=1)
        for number in left:
            assert client.get_object(Bucket="full", Key=str(number))["Body"].read() == body(number)
    finally:
        server.stop()
