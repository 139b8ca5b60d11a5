"""Snapshots, clones, rollback, export and import of volumes: what is read, what it costs, what comes back.

`BIXI_TEST_LONG=1` takes a thousand snapshots of one volume; a hundred and fifty are the smoke.
"""

import json
import random
import subprocess
import time

import pytest

from harness import LONG, noise, wait_for
from nbd import EXTENDED, READ, STATUS, WRITE, Nbd, NbdError
from test_nbd import MIB, Nbdserver, tool

SIZE = 64 * MIB
SNAPSHOTS = 1000 if LONG else 150


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Nbdserver(tmp_path_factory.mktemp("snapshots"))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def name(server, request):
    name = request.node.name.replace("[", "-").replace("]", "")[-60:].strip("-_")
    server.make(name, SIZE)
    return name


def volume(server, *words, code=0):
    done = server.command("volume", *map(str, words), text=True)
    assert done.returncode == code, (words, done)
    return done


def status(server, name) -> dict:
    return json.loads(volume(server, "status", name, "--output", "json").stdout)


def snapshot(server, name, code=0):
    return volume(server, "snapshot", name, code=code)


def whole(server, name, size=SIZE) -> bytes:
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    client.go(name)
    data = b"".join(client.read(at, 8 * MIB) for at in range(0, size, 8 * MIB))
    client.disconnect()
    return data


class Written:
    """A volume beside a copy of what it must hold."""

    def __init__(self, server, name, seed=1):
        self.random, self.copy = random.Random(seed), bytearray(SIZE)
        self.client = Nbd(server.nbd)
        self.client.upgrade(EXTENDED)
        self.client.go(name)

    def some(self, count=200, most=40_000):
        for _ in range(count):
            start = self.random.randrange(SIZE - most)
            length = self.random.randrange(1, most)
            if self.random.random() < 0.2:
                self.client.trim(start, length)
                self.copy[start:start + length] = bytes(length)
            else:
                data = self.random.randbytes(length)
                self.client.write(start, data)
                self.copy[start:start + length] = data
        return bytes(self.copy)


def test_snapshots_hold_what_was_there_through_a_kill(tmp_path):
    server = Nbdserver(tmp_path)
    server.start()
    server.make("v", SIZE)
    written, held = Written(server, "v"), {}
    for number in range(12):
        held[f"s{number}"] = written.some(60)
        snapshot(server, f"v@s{number}")
        if number == 5:
            # Indexes of the last ones are not kept yet: who comes next makes them from the journal.
            server.kill()
            server.start()
            written.client = Nbd(server.nbd)
            written.client.upgrade(EXTENDED)
            written.client.go("v")
    server.kill()
    server.start()
    for name, was in held.items():
        assert whole(server, f"v@{name}") == was, name
    assert whole(server, "v") == bytes(written.copy)
    assert [one["name"] for one in status(server, "v")["snapshots"]] == list(held)
    assert server.stop() == 0


def test_snapshots_are_read_only_and_named_well(server, name):
    written = Written(server, name)
    written.some(20)
    snapshot(server, f"{name}@one")
    assert "there is a snapshot" in snapshot(server, f"{name}@one", code=4).stderr
    assert snapshot(server, f"{name}@a b", code=1).stderr
    assert snapshot(server, "nothing@one", code=3).stderr
    assert volume(server, "snapshot", name, code=2).stderr
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    client.go(f"{name}@one")
    with pytest.raises(NbdError) as refused:
        client.write(0, b"x")
    assert refused.value.number == 1
    with pytest.raises(NbdError):
        Nbd(server.nbd).go(f"{name}@two")
    info = json.loads(tool("nbdinfo", "--json", server.uri(f"{name}@one")))["exports"][0]
    assert info["is_read_only"] and info["can_multi_conn"] and info["export-size"] == SIZE


def test_clones_are_volumes_of_their_own_and_outlive_what_they_were_made_of(server, name):
    written = Written(server, name)
    was = written.some()
    snapshot(server, f"{name}@s")
    volume(server, "clone", f"{name}@s", f"{name}-c")
    volume(server, "create", f"{name}-d", "--from-snapshot", f"{name}@s", "--size", SIZE * 2)
    assert whole(server, f"{name}-c") == was
    now = written.some()
    copy = Written(server, f"{name}-c", seed=7)
    copy.copy = bytearray(was)
    copy.some()
    written.client.disconnect()
    assert (whole(server, f"{name}-c"), whole(server, name)) == (bytes(copy.copy), now)
    assert "attached" in volume(server, "delete", f"{name}-c", "--yes", code=4).stderr
    volume(server, "delete", f"{name}@s", "--yes")
    wait_for("the volume is given up", lambda: not status(server, name)["attached_by"])
    volume(server, "delete", name, "--yes")
    time.sleep(3)
    assert whole(server, f"{name}-c") == bytes(copy.copy)
    assert whole(server, f"{name}-d", SIZE * 2) == was + bytes(SIZE)
    # A clone of a clone, after all it was made of is gone.
    snapshot(server, f"{name}-d@t")
    volume(server, "clone", f"{name}-d@t", f"{name}-e")
    wait_for("given up", lambda: not status(server, f"{name}-d")["attached_by"])
    volume(server, "delete", f"{name}-d", "--yes")
    assert whole(server, f"{name}-e", SIZE * 2) == was + bytes(SIZE)


def test_rollback(server, name):
    written = Written(server, name)
    was = written.some()
    snapshot(server, f"{name}@good")
    written.some()
    snapshot(server, f"{name}@bad")
    bad = written.some()
    assert "attached" in volume(server, "rollback", f"{name}@good", "--yes", code=4).stderr
    assert volume(server, "rollback", f"{name}@good", code=2).stderr, "not without --yes"
    written.client.disconnect()
    wait_for("given up", lambda: not status(server, name)["attached_by"])
    volume(server, "rollback", f"{name}@none", "--yes", code=3)
    snapshot(server, f"{name}@late")
    volume(server, "rollback", f"{name}@good", "--yes")
    assert whole(server, name) == was
    assert whole(server, f"{name}@late") == bad
    volume(server, "delete", f"{name}@good", "--yes")
    again = Written(server, name, seed=9)
    again.copy = bytearray(was)
    now = again.some()
    assert whole(server, name) == now


def test_snapshot_takes_no_longer_for_more_data_and_a_thousand_cost_reads_nothing(server, name):
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    client.go(name)
    block = noise("block", 4096)
    for at in range(0, SIZE, 16384):
        client.write(at, block)

    def reads() -> float:
        began = time.monotonic()
        for at in range(0, SIZE, 65536):
            client.read(at, 4096)
        return time.monotonic() - began

    before, took = min(reads() for _ in range(3)), []
    began = time.monotonic()
    status(server, name)
    command = time.monotonic() - began
    for number in range(SNAPSHOTS):
        client.write(number * 4096, block)
        began = time.monotonic()
        snapshot(server, f"{name}@s{number}")
        took.append(time.monotonic() - began)
    after = min(reads() for _ in range(3))
    took.sort()
    print(f"{SNAPSHOTS} snapshots by the command line ({command * 1000:.1f} ms for a question): median {took[SNAPSHOTS // 2] * 1000:.1f} ms, "
          f"99 % {took[SNAPSHOTS * 99 // 100] * 1000:.1f} ms, slowest {took[-1] * 1000:.1f} ms; "
          f"1024 reads {before * 1000:.0f} ms before, {after * 1000:.0f} ms after")
    assert len(status(server, name)["snapshots"]) == SNAPSHOTS
    assert whole(server, f"{name}@s0")[:4096] == block


SPACE = 384 * MIB


def test_space_comes_back(tmp_path):
    server = Nbdserver(tmp_path, dirs=1)
    server.start()
    server.make("v", SPACE)
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    client.go("v")

    def taken() -> int:
        return int(tool("du", "-sm", "--exclude=meta", server.folder).split()[0])

    def fill():
        for at in range(0, SPACE, 4 * MIB):
            client.write(at, random.randbytes(4 * MIB))

    empty = taken()
    fill()
    full = taken()
    assert full - empty > 350
    snapshot(server, "v@s")
    fill()
    assert taken() - full > 250, "the snapshot keeps its own"
    volume(server, "delete", "v@s", "--yes")
    wait_for("what the snapshot held comes back", lambda: taken() < full + 200)
    client.trim(0, SPACE)
    wait_for("what was trimmed comes back", lambda: taken() < empty + 200)
    fill()
    client.disconnect()
    wait_for("given up", lambda: not status(server, "v")["attached_by"])
    volume(server, "delete", "v", "--yes")
    wait_for("what was deleted comes back", lambda: taken() < empty + 150)
    assert server.stop() == 0


def test_export_and_import(server, name, tmp_path):
    written = Written(server, name)
    first = written.some()
    snapshot(server, f"{name}@a")
    second = written.some(50, most=4096)
    written.client.trim(8 * MIB, MIB)
    second = bytearray(second)
    second[8 * MIB:9 * MIB] = bytes(MIB)
    snapshot(server, f"{name}@b")
    written.some()

    raw, qcow = tmp_path / "a.raw", tmp_path / "a.qcow2"
    volume(server, "export", f"{name}@a", "-o", raw)
    assert raw.read_bytes() == first
    volume(server, "export", f"{name}@a", "-o", qcow, "--format", "qcow2")
    tool("qemu-img", "check", qcow)
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow)

    change = tmp_path / "b.qcow2"
    volume(server, "export", f"{name}@b", "-o", change, "--since", f"{name}@a", "--format", "qcow2")
    tool("qemu-img", "check", change)
    assert "backing" not in tool("qemu-img", "info", change)
    tool("qemu-img", "rebase", "-u", "-b", qcow, "-F", "qcow2", change)
    (tmp_path / "b.raw").write_bytes(second)
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "b.raw", change)
    assert volume(server, "export", f"{name}@b", "-o", raw, "--since", f"{name}@a", code=2).stderr
    assert volume(server, "export", f"{name}@a", "-o", change, "--since", f"{name}@b", "--format", "qcow2", code=1).stderr
    assert volume(server, "export", f"{name}@zzz", "-o", tmp_path / "no", code=3).stderr
    assert not (tmp_path / "no").exists()

    for number, image in enumerate([raw, qcow]):
        copy = f"{name[:40]}-{number}"
        volume(server, "import", image, copy)
        assert whole(server, copy) == first
        if number == 0:
            assert "--onto" in volume(server, "import", change, copy + "-x", code=2).stderr
        wait_for("given up", lambda: not status(server, copy)["attached_by"])
        volume(server, "export", f"{name}@b", "-o", change, "--since", f"{name}@a", "--format", "qcow2")
        volume(server, "import", change, copy, "--onto")
        assert whole(server, copy) == bytes(second)
    volume(server, "import", raw, f"{name[:40]}-1", code=4)
    (tmp_path / "bad").write_bytes(b"QFI\xfb" + bytes(200))
    assert volume(server, "import", tmp_path / "bad", "bad", code=1).stderr
    volume(server, "status", "bad", code=3)


def test_export_of_scattered_changes_moves_little_more_than_they_are(server, name, tmp_path):
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    client.go(name)
    for at in range(0, SIZE, MIB):
        client.write(at, noise(str(at), MIB))
    snapshot(server, f"{name}@a")
    places = random.Random(3).sample(range(SIZE // 4096), 2000)
    for place in places:
        client.write(place * 4096, noise(str(place), 4096))
    snapshot(server, f"{name}@b")
    file = tmp_path / "change.qcow2"
    done = volume(server, "export", f"{name}@b", "-o", file, "--since", "a", "--format", "qcow2", "--output", "json")
    moved = json.loads(done.stdout)["data"]
    print(f"{len(places) * 4096} bytes changed, {moved} moved, file of {file.stat().st_size}")
    assert moved <= 1.1 * len(places) * 4096 and file.stat().st_size <= 1.2 * len(places) * 4096
    # NBD clients can ask the same.
    told = subprocess.run(["nbdinfo", f"--map=bixi:changed-since/a", "--json", server.uri(f"{name}@b")], capture_output=True, text=True)
    assert told.returncode == 0, told
    changed = sum(one["length"] for one in json.loads(told.stdout) if one["type"] & 1)
    assert changed == len(places) * 4096


@pytest.mark.alone
def test_limits_hold_at_once(server, name):
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    client.go(name)

    def rate(seconds=2.0) -> float:
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            client.write(count % 1000 * 4096, bytes(4096))
            count += 1
        return count / seconds

    free = rate()
    volume(server, "qos", name, "--iops", 100)
    rate(1.5)
    held = rate()
    volume(server, "qos", name)
    after = rate()
    print(f"{free:.0f} writes/s, held to {held:.0f}, then {after:.0f}")
    assert held <= 130 and after > 2 * held
    assert status(server, name)["qos"]["iops"] == 0
