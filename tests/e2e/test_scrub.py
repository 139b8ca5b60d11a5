"""Rot, and a disk that came back with old content: found without a reader, repaired without a
client's error, and `bixi fsck` says which it is."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import time

import pytest

from harness import Server, program

# About nine seconds for everything at rest.
SCRUB_DAYS = "0.0001"
# Several cycles, each on a machine that is busy with other things too.
REPAIRED_SECONDS_MAX = 120


pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path, extra=("--scrub-days", SCRUB_DAYS))
    server.start()
    yield server
    server.stop()


def bixi(server, *argv):
    environment = {
        **os.environ,
        "BIXI_ADMIN_ADDR": server.admin,
        "BIXI_CREDENTIALS": str(server.dirs[0] / "credentials"),
    }
    return subprocess.run([program(), *argv], env=environment, capture_output=True, timeout=60)


def fsck(server) -> tuple:
    """Whether all is sound, and the kinds of differences by disk."""
    done = bixi(server, "fsck", "--output", "json")
    report = json.loads(done.stdout)
    assert (done.returncode == 0) == report["sound"], done
    kinds = {disk["disk"]: [one["kind"] for one in disk["differences"]] for disk in report["disks"]}
    return report["sound"], kinds


def until_sound(server):
    deadline = time.monotonic() + REPAIRED_SECONDS_MAX
    while True:
        sound, kinds = fsck(server)
        if sound:
            return
        assert time.monotonic() < deadline, f"not repaired: {kinds}\n{server.log_tail()}"
        time.sleep(0.5)


def put(client, names, rng) -> dict:
    bodies = {name: rng.randbytes(rng.choice([20_000, 300_000, 3_000_000])) for name in names}
    for name, body in bodies.items():
        client.put_object(Bucket="rot", Key=name, Body=body)
    return {name: hashlib.sha256(body).digest() for name, body in bodies.items()}


def check(client, sums):
    for name, digest in sums.items():
        body = client.get_object(Bucket="rot", Key=name)["Body"].read()
        assert hashlib.sha256(body).digest() == digest, name


def flip(path: pathlib.Path, needle: bytes) -> None:
    """Flips a bit in the middle of the one place where `needle` lies in the file."""
    content = path.read_bytes()
    at = content.find(needle)
    assert at >= 0, "the bytes are not where they should be"
    with open(path, "r+b", buffering=0) as file:
        file.seek(at + len(needle) // 2)
        byte = file.read(1)
        file.seek(at + len(needle) // 2)
        file.write(bytes([byte[0] ^ 4]))
        os.fsync(file.fileno())


def test_rot_at_rest_is_found_and_repaired_on_every_disk_in_turn(server):
    client = server.client()
    client.create_bucket(Bucket="rot")
    marked = random.Random(1).randbytes(200_000)
    client.put_object(Bucket="rot", Key="marked", Body=marked)
    sums = put(client, [f"k{n}" for n in range(20)], random.Random(2))
    sums["marked"] = hashlib.sha256(marked).digest()
    # Each copy rots in its turn: without repair in between nothing would be left.
    for disk in range(3):
        before = server.metrics()["bixi_rot_found_total"]
        flip(server.dirs[disk] / "data", marked[50_000:60_000])
        deadline = time.monotonic() + REPAIRED_SECONDS_MAX
        while server.metrics()["bixi_rot_found_total"] == before or server.metrics()["bixi_shards_damaged"] > 0:
            assert time.monotonic() < deadline, f"rot on disk {disk} is not repaired\n{server.log_tail()}"
            time.sleep(0.2)
        until_sound(server)
    # From the disks, not from a cache.
    server.stop()
    server.start()
    check(server.client(), sums)


def test_a_disk_that_came_back_with_old_content_is_repaired(server, tmp_path):
    client = server.client()
    client.create_bucket(Bucket="rot")
    sums = put(client, [f"old{n}" for n in range(10)], random.Random(3))
    assert server.stop() == 0
    old = tmp_path / "old"
    old.mkdir()
    for name in ("data", "checkpoint"):
        shutil.copy(server.dirs[1] / name, old / name)
    server.start()
    client = server.client()
    sums |= put(client, [f"new{n}" for n in range(20)], random.Random(4))
    assert server.stop() == 0
    for name in ("data", "checkpoint"):
        shutil.copy(old / name, server.dirs[1] / name)
    server.start()
    client = server.client()
    check(client, sums)
    until_sound(server)
    # The repaired disk carries its part: another one may go.
    assert server.stop() == 0
    shutil.rmtree(server.dirs[2])
    server.start()
    check(server.client(), sums)
