"""A chunk with one live object gives its space back, and who reads that object goes on reading."""

import hashlib
import random

import pytest

from harness import Server, wait_for

MIB = 1 << 20


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path, dirs=1)
    server.start()
    yield server
    server.stop()


def body(number: int) -> bytes:
    return random.Random(number).randbytes(16 * MIB if number == 0 else 4 * MIB)


def test_a_chunk_with_one_live_object_gives_its_space_back(server):
    client = server.client()
    client.create_bucket(Bucket="bucket")
    # More than the 128 MiB of a chunk, so that the first is full and sealed.
    for number in range(40):
        client.put_object(Bucket="bucket", Key=str(number), Body=body(number))
    slow = client.get_object(Bucket="bucket", Key="0")["Body"]
    digest = hashlib.sha256(slow.read(64 << 10))
    before = server.metrics()["bixi_slots_free_bytes"]
    for number in range(1, 30):
        client.delete_object(Bucket="bucket", Key=str(number))
    wait_for("space comes back", lambda: server.metrics()["bixi_slots_free_bytes"] >= before + 80 * MIB, pause=0.2)
    # The chunk this read began in is gone.
    while piece := slow.read(256 << 10):
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(body(0)).digest()
    for number in [0, *range(30, 40)]:
        assert client.get_object(Bucket="bucket", Key=str(number))["Body"].read() == body(number)
    assert server.stop() == 0
    server.start()
    client = server.client()
    for number in [0, *range(30, 40)]:
        assert client.get_object(Bucket="bucket", Key=str(number))["Body"].read() == body(number)
