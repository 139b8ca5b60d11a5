"""One of three metaserver replicas comes back damaged: the others fill it anew, and after that it
counts again, so that losing another one loses nothing."""

import hashlib
import shutil

import pytest

from harness import Server, wait_for


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path, environment={"BIXI_LOG": "warn,bixi=info,metaserver=info"})
    server.start()
    yield server
    server.stop()


def noise(seed, len_bytes):
    return hashlib.shake_256(seed.encode()).digest(len_bytes)


def logs(directory):
    """Segments that hold something, oldest first."""
    segments = sorted(path for path in directory.iterdir() if path.name.startswith("log-"))
    return [path for path in segments if path.read_bytes()[:4] == b"BXL1"]


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 8]))


def remove(directory, prefixes):
    for path in directory.iterdir():
        if path.name.startswith(prefixes):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGES = {
    "rot in the log": lambda directory: flip(logs(directory)[0], 2 * 4096 + 20),
    "log gone": lambda directory: remove(directory, ("log-",)),
    "rotten ballot": lambda directory: flip(directory / "ballot", 9),
    "everything but the identity gone": lambda directory: remove(directory, ("log-", "ballot", "state-", "ahead")),
    "state that cannot be opened": lambda directory: (
        directory / (directory / "state-current").read_text() / "CURRENT"
    ).write_text("MANIFEST-none\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_replica_is_filled_by_the_others_and_counts_again(server, damage):
    bodies = {f"key{n}": noise(f"{damage}{n}", 3000 * (n + 1)) for n in range(12)}
    client = server.client()
    client.create_bucket(Bucket="bucket")
    for key, body in bodies.items():
        client.put_object(Bucket="bucket", Key=key, Body=body)
    server.kill()
    DAMAGES[damage](server.dirs[1])
    server.start()
    wait_for("the replica that was filled votes", lambda: "joined replica votes" in server.log.read_text(), pause=0.2)
    client = server.client()
    client.put_object(Bucket="bucket", Key="later", Body=b"later")
    bodies["later"] = b"later"
    server.kill()
    # Only if the replica that was damaged counts again is there still a majority.
    shutil.rmtree(server.dirs[2])
    server.start()
    client = server.client()
    for key, body in bodies.items():
        assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == body
