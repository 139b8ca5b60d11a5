"""Encrypted volumes: no disk holds what was written to them, everything that volumes can do works, and without the
root key nothing is told, and nothing is lost.
"""

import itertools
import json
import mmap
import pathlib
import random
import re
import stat
import struct
import subprocess

import pytest

from harness import Cluster, Server, free_port, noise, program, wait_for
from nbd import EXTENDED, Nbd, NbdError
from test_nbd import Nbdserver
from test_nodes import Node, told

MIB = 1 << 20
SIZE = 32 * MIB


def files(folder: pathlib.Path) -> list:
    """Every file of a server or cluster: data, records, Raft logs, RocksDB, process logs."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def holders(folder: pathlib.Path, needle: bytes) -> list:
    """The files below `folder` that hold these bytes."""
    found = []
    for path in files(folder):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(needle) >= 0:
                found.append(path.relative_to(folder))
    return found


def records(folder: pathlib.Path, volume_size: int) -> dict:
    """What the journals on the raw disks hold, by volume: place in the volume -> stored bytes."""
    found = {}
    for path in files(folder):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(b"BXVJ")
            while at >= 0:
                _, kind, _, count, volume, _, _, _ = struct.unpack_from("<IBBHQQQI", content, at)
                data = at + 56 + 16 * count
                for number in range(count if kind == 1 else 0):
                    word, length, _ = struct.unpack_from("<QII", content, at + 56 + 16 * number)
                    start, is_write = word & (1 << 56) - 1, word >> 56 == 1
                    if is_write and start < volume_size:
                        found.setdefault(volume, {})[start] = content[data:data + length]
                        data += length
                at = content.find(b"BXVJ", at + 4)
    return found


def run(server, *words, code=0):
    done = server.command("volume", *map(str, words), text=True)
    assert done.returncode == code, (words, done)
    return done


def go(server, name) -> Nbd:
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    return client.go(name) or client


def one_line(done) -> str:
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done
    return lines[0]


class Written:
    """A volume beside a copy of what it must hold; little of what is written is aligned."""

    def __init__(self, server, name, seed=1, size=SIZE):
        self.server, self.name, self.random = server, name, random.Random(seed)
        self.copy = bytearray(size)

    def some(self, count=120, most=9_000):
        client = go(self.server, self.name)
        for _ in range(count):
            length = self.random.randrange(1, self.random.choice([20, 700, most]))
            # A narrow place, so that edges lie in blocks that others wrote.
            start = self.random.choice([0, 4 * MIB - 6_000, len(self.copy) - 60_000]) + self.random.randrange(50_000)
            what = self.random.random()
            if what < 0.3:
                (client.trim if what < 0.15 else client.zero)(start, length)
                self.copy[start:start + length] = bytes(length)
            else:
                data = self.random.randbytes(length)
                client.write(start, data)
                self.copy[start:start + length] = data
        client.disconnect()
        return bytes(self.copy)


def whole(server, name, size=SIZE) -> bytes:
    client = go(server, name)
    data = b"".join(client.read(at, min(8 * MIB, size - at)) for at in range(0, size, 8 * MIB))
    client.disconnect()
    return data


@pytest.mark.parametrize("policy", ["copies:3", "ec:2+1"])
def test_no_disk_holds_what_was_written(policy, tmp_path):
    server = Nbdserver(tmp_path)
    server.start()
    size = 96 * MIB
    volumes = {"open": (), "aes": ("--encrypt",), "sm4": ("--encrypt", "sm4-xts")}
    if policy == "ec:2+1":
        volumes.pop("sm4")
    canaries = {name: [f"CANARY of {name}, in plain words. ".encode() * 3, noise(name, 64)] for name in volumes}
    for name, more in volumes.items():
        server.make(name, size, "--redundancy", policy, *more)
        client = go(server, name)
        for at, canary in itertools.product((0, 4096 * 77, 12_345_678), canaries[name]):
            client.write(at + (0 if canary[:6] == b"CANARY" else 1000), canary)
        if policy == "ec:2+1":
            # A chunk that is full becomes stripes.
            for at in range(16, 90, 2):
                client.write(at * MIB, (canaries[name][0] * (2 * MIB // 90))[:2 * MIB - 7])
                client.write((at + 2) * MIB - 64, canaries[name][1])
        client.disconnect()
    if policy == "ec:2+1":
        def is_striped() -> bool:
            rows = [json.loads(run(server, "status", name, "--output", "json").stdout) for name in volumes]
            return all(row["stored"] < 2.7 * row["journal"] for row in rows)

        wait_for("full chunks are laid out anew", is_striped, pause=1)
    wait_for("given up", lambda: all(row["attached_by"] is None for row in server.volumes().values()))
    for name in volumes:
        assert whole(server, name, 4096)[:90] == canaries[name][0][:90]
    root = (server.dirs[0] / "root-key").read_text().strip()
    server.kill()
    for name in volumes:
        for canary in canaries[name]:
            found = holders(tmp_path, canary[:48])
            assert bool(found) == (name == "open"), (name, canary[:20], found)
    # The root key lies in its files and nowhere else.
    assert {path.name for path in holders(tmp_path, root.encode())} == {"root-key"}
    assert holders(tmp_path, bytes.fromhex(root)) == []
    for path in server.dirs:
        assert stat.S_IMODE((path / "root-key").stat().st_mode) == 0o600
    server.start()
    for name in volumes:
        client = go(server, name)
        for at, canary in itertools.product((0, 4096 * 77, 12_345_678), canaries[name]):
            offset = at + (0 if canary[:6] == b"CANARY" else 1000)
            assert client.read(offset, len(canary)) == canary, (name, at)
        if policy == "ec:2+1":
            for at in range(16, 90, 2):
                assert client.read((at + 2) * MIB - 64, 64) == canaries[name][1], (name, at)
        client.disconnect()
    assert server.stop() == 0


@pytest.mark.parametrize("cipher", ["aes-256-xts", "sm4-xts"])
def test_an_encrypted_volume_does_what_others_do(cipher, tmp_path):
    server = Nbdserver(tmp_path)
    server.start()
    server.make("v", SIZE, "--encrypt", cipher)
    assert server.volumes()["v"]["encryption"] == cipher
    assert re.search(rf"encryption +{cipher}", run(server, "status", "v").stdout)
    written = Written(server, "v")
    first = written.some()
    run(server, "snapshot", "v@one")
    second = written.some()
    server.kill()
    server.start()
    assert whole(server, "v") == second
    assert whole(server, "v@one") == first
    # A clone has the key of what it was made of, and goes its own way.
    run(server, "clone", "v@one", "c")
    assert server.volumes()["c"]["encryption"] == cipher
    clone = Written(server, "c", seed=2)
    clone.copy = bytearray(first)
    changed = clone.some()
    assert whole(server, "c") == changed and whole(server, "v") == second
    # Larger: what is behind the old end reads as zeroes.
    run(server, "resize", "c", "--size", SIZE + 4 * MIB)
    assert whole(server, "c", SIZE + 4 * MIB) == changed + bytes(4 * MIB)
    # Out as plain text, and back into one that is encrypted otherwise.
    out = tmp_path / "out.qcow2"
    run(server, "export", "v@one", "-o", out, "--format", "qcow2")
    other = "sm4-xts" if cipher == "aes-256-xts" else "aes-256-xts"
    run(server, "import", out, "back", "--encrypt", other)
    assert server.volumes()["back"]["encryption"] == other
    assert whole(server, "back") == first
    run(server, "import", out, "bare")
    assert server.volumes()["bare"]["encryption"] is None
    assert whole(server, "bare") == first
    run(server, "snapshot", "v@two")
    run(server, "export", "v@two", "-o", tmp_path / "diff.qcow2", "--format", "qcow2", "--since", "v@one")
    run(server, "import", tmp_path / "diff.qcow2", "back", "--onto")
    assert whole(server, "back") == second
    wait_for("v is free", lambda: server.command("volume", "rollback", "v@one", "--yes").returncode == 0, pause=0.3)
    assert whole(server, "v") == first
    # What is left of a volume that is deleted is of no use to its clone, which has the key itself.
    run(server, "snapshot", "c@last")
    wait_for("v is free", lambda: server.command("volume", "delete", "v", "--yes").returncode == 0, pause=0.3)
    server.kill()
    server.start()
    assert whole(server, "c@last", SIZE + 4 * MIB) == changed + bytes(4 * MIB)
    assert server.stop() == 0


def test_sizes_that_are_no_whole_blocks(tmp_path):
    server = Nbdserver(tmp_path, dirs=1)
    server.start()
    size = MIB + 13
    server.make("v", size, "--encrypt")
    client = go(server, "v")
    client.write(size - 20, b"x" * 20)
    client.write(size - 1, b"y")
    assert client.read(size - 20, 20) == b"x" * 19 + b"y"
    client.trim(size - 30, 30)
    assert client.read(size - 40, 40) == bytes(40)
    client.write(size - 5, b"abcde")
    client.disconnect()
    run(server, "resize", "v", "--size", 2 * MIB)
    assert whole(server, "v", 2 * MIB) == (bytes(size - 5) + b"abcde").ljust(2 * MIB, b"\0")
    assert server.stop() == 0


def test_the_same_bytes_are_stored_as_others_in_each_volume(tmp_path):
    server = Nbdserver(tmp_path, dirs=1)
    server.start()
    content = noise("twins", 64 << 10)
    for name, more in {"one": ["--encrypt"], "two": ["--encrypt"], "bare": []}.items():
        server.make(name, MIB, *more)
        client = go(server, name)
        client.write(0, content)
        client.write(128 << 10, content)
        client.disconnect()
    server.kill()
    stored = [places for places in records(server.dirs[0], MIB).values() if {0, 128 << 10} <= places.keys()]
    assert len(stored) == 3
    seen = {places[at] for places in stored for at in (0, 128 << 10)}
    # The bare one twice the same, the others four times something else.
    assert len(seen) == 5 and content in seen


def test_ciphers_that_are_none(tmp_path):
    server = Nbdserver(tmp_path, dirs=1)
    server.start()
    done = run(server, "create", "v", "--size", "1M", "--encrypt", "rot13", code=2)
    assert "there is no cipher \"rot13\"; there are aes-256-xts and sm4-xts" in one_line(done)
    assert server.volumes() == {}
    assert "encrypt" in run(server, "create", "v", "--from-snapshot", "a@b", "--encrypt", "sm4-xts", code=2).stderr
    assert server.stop() == 0


def test_without_its_root_key_a_volume_is_not_served_and_nothing_is_lost(tmp_path):
    server = Nbdserver(tmp_path)
    server.start()
    server.make("bare", MIB)
    server.make("shut", MIB, "--encrypt")
    for name in ("bare", "shut"):
        client = go(server, name)
        client.write(5, name.encode())
        client.disconnect()
    run(server, "snapshot", "shut@s")
    assert server.stop() == 0
    keys = [path / "root-key" for path in server.dirs]
    key = keys[0].read_text()
    assert {path.read_text() for path in keys} == {key}

    # One directory lost: the others have it.
    keys[0].unlink()
    server.start()
    assert whole(server, "shut", MIB)[5:9] == b"shut"
    assert server.stop() == 0
    assert keys[0].read_text() == key

    def is_refused(text: str):
        server.start()
        assert whole(server, "bare", MIB)[5:9] == b"bare"
        with pytest.raises(NbdError):
            go(server, "shut")
        with pytest.raises(NbdError):
            go(server, "shut@s")
        line = one_line(run(server, "export", "shut@s", "-o", tmp_path / "image", code=1))
        assert text in line and key[:16] not in line, line
        assert text in one_line(run(server, "create", "new", "--size", "1M", "--encrypt", code=1))
        run(server, "create", "plain", "--size", "1M")
        run(server, "delete", "plain", "--yes")
        assert server.stop() == 0
        assert key.strip() not in server.log.read_text()

    for path in keys:
        path.unlink()
    is_refused("root key")
    for path in keys:
        path.write_text("7" * 64 + "\n")
    is_refused("root key")
    keys[0].write_text(key)
    server.launch()
    assert server.process.wait(60) == 4
    assert "are different keys" in server.log_tail()
    keys[0].write_text("not a key\n")
    server.launch()
    assert server.process.wait(60) == 4
    assert "root-key: a root key is one line of 64 hex digits" in server.log_tail()
    for path in keys:
        path.write_text(key)
    server.start()
    assert whole(server, "shut", MIB)[5:9] == b"shut"
    assert whole(server, "shut@s", MIB)[5:9] == b"shut"
    assert server.stop() == 0


def test_the_root_key_lies_where_the_operator_wants_it(tmp_path):
    key = tmp_path / "elsewhere" / "key"
    key.parent.mkdir()
    server = Nbdserver(tmp_path / "server")
    server.extra += ["--root-key", str(key)]
    server.start()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    server.make("v", MIB, "--encrypt")
    client = go(server, "v")
    client.write(0, b"held elsewhere")
    client.disconnect()
    assert server.stop() == 0
    assert not list(server.folder.rglob("root-key")) and holders(server.folder, key.read_bytes().strip()) == []
    kept = key.read_bytes()
    key.unlink()
    server.launch()
    assert server.process.wait(60) == 4, "no other key is made for a cluster that has one"
    assert not key.exists()
    key.write_bytes(kept)
    server.start()
    assert whole(server, "v", MIB)[:14] == b"held elsewhere"
    assert server.stop() == 0


class VolumeNode(Node):
    def __init__(self, folder, name):
        super().__init__(folder, name)
        self.nbd = f"127.0.0.1:{free_port()}"
        self.extra += ["--nbd-addr", self.nbd]


def test_nodes_that_join_can_serve_it_and_so_can_a_host(tmp_path):
    one, two = VolumeNode(tmp_path, "a"), VolumeNode(tmp_path, "b")
    one.init()
    one.start()
    try:
        run(one, "create", "v", "--size", "8M", "--encrypt")
        client = go(one, "v")
        client.write(1_000_001, b"CANARY " * 100)
        client.disconnect()
        two.join(one)
        assert (two.dirs[0] / "root-key").read_text() == (one.dirs[0] / "root-key").read_text()
        two.start()
        two.credentials_path.write_text(one.credentials_path.read_text()) if not two.credentials_path.exists() else None
        wait_for("it is given up", lambda: json.loads(run(one, "list", "--output", "json").stdout)["volumes"][0]["attached_by"] is None)
        client = go(two, "v")
        assert client.read(1_000_001, 700) == b"CANARY " * 100
        client.write(3, b"from b")
        client.disconnect()
        socket = tmp_path / "v.sock"
        argv = [program(), "volume", "attach", "v", "--nbd-unix", str(socket)]
        environment = {**one.environment, "BIXI_ADMIN_ADDR": one.admin, "BIXI_CREDENTIALS": str(one.credentials_path)}
        wait_for("it is given up", lambda: json.loads(run(one, "list", "--output", "json").stdout)["volumes"][0]["attached_by"] is None)
        with open(tmp_path / "attach.log", "wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            wait_for("it is attached", lambda: "ready" in (tmp_path / "attach.log").read_text().splitlines())
            client = Nbd(f"unix:{socket}")
            client.upgrade(EXTENDED)
            client.go("v")
            assert client.read(0, 16) == bytes(3) + b"from b" + bytes(7)
            client.write(9, b" and a host")
            client.disconnect()
        finally:
            process.terminate()
            process.wait(60)
        assert whole(one, "v", 8 * MIB)[3:20] == b"from b and a host"
    finally:
        two.kill()
        one.kill()
    assert holders(tmp_path, b"CANARY CANARY") == []
    assert holders(tmp_path, b" and a host") == []


def test_a_cluster_of_processes_encrypts_in_the_door(tmp_path):
    cluster = Cluster(tmp_path / "cluster", chunk=3, redundancy="copies:3").start()
    try:
        done = cluster.command("volume", "create", "v", "--size", "64M", "--encrypt")
        assert done.returncode == 0, done
        client = Nbd(cluster.description["nbd"]).go("v")
        client.write(12_345, b"CANARY " * 1000)
        # One metaserver after the other can tell the key.
        leader = cluster.leader()
        cluster.kill(leader)
        cluster.kill("s3")
        cluster.restart("s3")
        client = wait_for("it is served again", lambda: reopened(cluster))
        assert client.read(12_345, 7000) == b"CANARY " * 1000
        cluster.restart(leader)
        roots = {path.parent.name for path in (tmp_path / "cluster").rglob("root-key")}
        assert roots == {"meta-1", "meta-2", "meta-3"}, "neither chunkservers nor doors have it"
    finally:
        cluster.stop()
    assert holders(tmp_path, b"CANARY CANARY") == []


def reopened(cluster):
    try:
        return Nbd(cluster.description["nbd"]).go("v")
    except (OSError, EOFError, NbdError, AssertionError):
        return None
