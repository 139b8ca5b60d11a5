"""Volumes over NBD: the tools of others, requests by hand, what a server that was killed has kept.

`qemu-nbd` on a raw file is the yardstick: the same operations give the same flags and the same map.

`BIXI_TEST_LONG=1` runs all steps of `bixi bench volume`; two are the smoke.
"""

import json
import random
import shutil
import subprocess
import threading
import time

import pytest

from harness import LONG, Cluster, Server, free_port, noise, wait_for
from nbd import (
    ABORT, CACHE, DF, EINVAL, ENOSPC, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, EXPORT_NAME, EXTENDED, FAST_ZERO,
    FLUSH, FUA, GO, INFO, LIST, LIST_CONTEXT, NO_HOLE, READ, REQ_ONE, SET_CONTEXT, STATUS, STRUCTURED, TRIM, WRITE,
    ZEROES, Nbd, NbdError,
)

MIB = 1 << 20
SIZE = 64 * MIB


def tool(*argv, **more) -> str:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


class Nbdserver(Server):
    def __init__(self, folder, dirs=3):
        self.nbd = f"127.0.0.1:{free_port()}"
        super().__init__(folder, dirs=dirs, extra=("--nbd-addr", self.nbd))

    def make(self, name: str, size=SIZE, *more):
        done = self.command("volume", "create", name, "--size", str(size), *more, text=True)
        assert done.returncode == 0, done

    def uri(self, name: str) -> str:
        return f"nbd://{self.nbd}/{name}"

    def volumes(self) -> dict:
        done = self.command("volume", "list", "--output", "json")
        assert done.returncode == 0, done
        return {row["name"]: row for row in json.loads(done.stdout)["volumes"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Nbdserver(tmp_path_factory.mktemp("nbd"))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def name(server, request):
    name = request.node.name.replace("[", "-").replace("]", "")[-60:].strip("-_")
    server.make(name)
    return name


@pytest.fixture
def raw(tmp_path):
    """The same as a raw file behind qemu-nbd."""
    image, port = tmp_path / "raw", free_port()
    with open(image, "wb") as file:
        file.truncate(SIZE)
    argv = ["qemu-nbd", "-f", "raw", "-e", "8", "-t", "--discard=unmap", "-b", "127.0.0.1", "-p", str(port), "-x", "raw"]
    process = subprocess.Popen([*argv, str(image)])
    uri = f"nbd://127.0.0.1:{port}/raw"
    wait_for("qemu-nbd listens", lambda: subprocess.run(["nbdinfo", "--size", uri], capture_output=True).returncode == 0)
    yield uri
    process.kill()
    process.wait()


def test_volumes_are_made_listed_made_larger_and_deleted(server):
    server.make("first", "1G")
    again = server.command("volume", "create", "first", "--size", "2G", text=True)
    assert again.returncode == 4 and "there is a volume first" in again.stderr, again
    for bad in (["a/b", "--size", "1G"], ["ok", "--size", "0"], ["ok", "--size", "65T"], ["ok", "--size", "x"]):
        assert server.command("volume", "create", *bad).returncode in (1, 2), bad
    assert server.volumes()["first"]["size"] == 1 << 30
    assert server.command("volume", "resize", "first", "--size", "2G").returncode == 0
    assert server.volumes()["first"]["size"] == 2 << 30
    assert Nbd(server.nbd).go("first").size == 2 << 30
    assert server.command("volume", "delete", "first").returncode == 2, "not without --yes"
    assert server.command("volume", "delete", "first", "--dry-run").returncode == 8

    def deleted():
        # It is given up a moment after its last client has gone.
        return server.command("volume", "delete", "first", "--yes").returncode == 0

    wait_for("it can be deleted", deleted, pause=0.3)
    assert "first" not in server.volumes()
    assert server.command("volume", "delete", "first", "--yes").returncode == 3


def test_flags_are_those_of_qemu_nbd(server, name, raw):
    def told(uri):
        export = json.loads(tool("nbdinfo", "--json", uri))["exports"][0]
        return {key: value for key, value in export.items() if key.startswith(("can_", "is_", "block_size", "export-size", "contexts"))}

    ours, theirs = told(server.uri(name)), told(raw)
    assert ours == theirs
    assert name in tool("qemu-nbd", "--list", "-b", "127.0.0.1", "-p", server.nbd.split(":")[1])


OPERATIONS = [
    "write -P 1 0 64k", "write -P 2 100k 4k", "write -P 3 1m 1m", "write -P 4 8191 3", "discard 1100k 256k",
    "write -z 4m 64k", "write -z -u 1536k 64k", "write -P 5 63m 1m", "write -P 6 30m 3m", "discard 31m 1m", "write -P 7 31500k 8k",
    "write -f -P 8 5m 12345", "discard 0 4k", "write -P 9 2m 4097",
]


def test_map_and_bytes_are_those_of_a_raw_file(server, name, raw):
    for uri in (server.uri(name), raw):
        commands = [word for operation in OPERATIONS for word in ("-c", operation)]
        tool("qemu-io", "-f", "raw", "-d", "unmap", *commands, "-c", "flush", uri)

    def merged(uri):
        runs = []
        for run in json.loads(tool("nbdinfo", "--map", "--json", uri)):
            if runs and runs[-1][1] == run["type"]:
                runs[-1][0] += run["length"]
            else:
                runs.append([run["length"], run["type"]])
        return runs

    assert merged(server.uri(name)) == merged(raw)
    assert tool("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri(name), raw).startswith("Images are identical")
    ours = json.loads(tool("qemu-img", "map", "--output", "json", "-f", "raw", server.uri(name)))
    theirs = json.loads(tool("qemu-img", "map", "--output", "json", "-f", "raw", raw))
    strip = lambda runs: [(run["start"], run["length"], run["data"], run["zero"]) for run in runs]  # noqa: E731
    assert strip(ours) == strip(theirs)


def test_copies_there_and_back_over_several_connections(server, name, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    with open(source, "wb") as file:
        for number in range(0, 64, 3):
            file.seek(number * MIB)
            file.write(noise(f"copy/{number}", MIB - 777 * (number % 2)))
        file.truncate(SIZE)
    tool("nbdcopy", "--connections=4", "--requests=16", source, server.uri(name))
    tool("nbdcopy", "--connections=4", "--requests=16", server.uri(name), back)
    tool("cmp", source, back)


@pytest.mark.skipif(not shutil.which("fio"), reason="fio is not installed")
def test_fio_verifies_mixed_sizes_and_trims(server, name, tmp_path):
    common = ["--ioengine=nbd", f"--uri={server.uri(name)}", "--verify=crc32c", "--verify_fatal=1", "--group_reporting"]
    mixed = ["--name=mixed", "--size=48M", "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=0", "--iodepth=16"]
    tool("fio", *mixed, *common, cwd=tmp_path)
    # One after the other: each waits for the disk.
    tool("fio", "--name=trims", "--size=8M", "--rw=randtrimwrite", "--bs=4k", "--iodepth=1", *common, cwd=tmp_path)


@pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
def test_requests_by_hand(server, name, mode):
    client = Nbd(server.nbd)
    if mode != "simple":
        client.upgrade(STRUCTURED if mode == "structured" else EXTENDED)
        assert client.contexts(name, "base:allocation", "other:thing") == [(1, "base:allocation")]
    client.go(name)
    assert client.size == SIZE
    model = bytearray(SIZE)
    rng = random.Random(mode)
    for step in range(300):
        offset = rng.choice([rng.randrange(2 * MIB), 4 * MIB - rng.randrange(9000), SIZE - 20000])
        length = min(rng.choice([1, 511, 512, 4096, 4097, 70000]), SIZE - offset)
        kind = rng.randrange(8)
        if kind < 4:
            data = rng.randbytes(length)
            client.write(offset, data, flags=rng.choice([0, FUA]))
            model[offset : offset + length] = data
        elif kind < 6:
            if kind == 4:
                client.trim(offset, length)
            else:
                client.zero(offset, length, flags=rng.choice([0, NO_HOLE, FAST_ZERO]))
            model[offset : offset + length] = bytes(length)
        else:
            flags = DF if client.structured and rng.random() < 0.5 else 0
            assert client.read(offset, length, flags) == model[offset : offset + length], step
    client.flush()
    client.ask(CACHE, 0, MIB)
    assert client.read(0, 8 * MIB) == model[: 8 * MIB]
    assert client.read(SIZE - 1, 1) == model[-1:]
    if mode != "simple":
        runs = client.status(0, SIZE)
        assert sum(run[0] for run in runs) == SIZE
        at = 0
        for length, flags in runs:
            assert flags in (0, 3)
            assert flags == 0 or not any(model[at : at + length]), f"a hole at {at} holds bytes"
            at += length
        assert len(client.status(0, SIZE, REQ_ONE)) == 1
    client.disconnect()


def test_wrong_requests_get_their_error_and_the_session_lives_on(server, name):
    client = Nbd(server.nbd)
    assert client.option(77)[-1][0] == ERR_UNSUP
    assert client.option(LIST, b"x")[-1][0] == ERR_INVALID
    assert client.option(GO, b"\xff\xff\xff\xff")[-1][0] == ERR_INVALID
    assert client.option(INFO, b"\0\0\0\x01xx")[-1][0] == ERR_INVALID
    assert client.option(SET_CONTEXT, b"")[-1][0] == ERR_INVALID, "structured replies come first"
    assert client.option(STRUCTURED, b"x")[-1][0] == ERR_INVALID
    assert client.option(99, bytes(100_000))[-1][0] in (ERR_UNSUP, ERR_TOO_BIG)
    for option in (GO, INFO):
        with pytest.raises(NbdError) as refused:
            client.go("there-is-none", option=option)
        assert refused.value.number == ERR_UNKNOWN
    client.upgrade(STRUCTURED)
    assert client.option(STRUCTURED)[-1][0] == ERR_INVALID
    assert client.contexts(name, option=LIST_CONTEXT) == [(0, "base:allocation")]
    assert client.contexts(name, "base:", option=LIST_CONTEXT) == [(0, "base:allocation")]
    assert client.contexts(name, "qemu:dirty-bitmap:x") == []
    client.go(name, 1, 3)

    def refused(number, *request, **more):
        with pytest.raises(NbdError) as error:
            client.ask(*request, **more)
        assert error.value.number == number, request

    refused(EINVAL, STATUS, 0, 4096)
    refused(EINVAL, 55, 0, 0)
    refused(EINVAL, READ, SIZE, 1)
    refused(EINVAL, READ, SIZE - 1, 2)
    refused(EINVAL, READ, (1 << 64) - 1, 2)
    refused(EINVAL, READ, 0, 33 * MIB)
    refused(EINVAL, READ, 0, 1, flags=1 << 12)
    refused(EINVAL, READ, 0, 1, flags=REQ_ONE)
    refused(ENOSPC, WRITE, SIZE - 1, 2, b"xx")
    refused(ENOSPC, WRITE, (1 << 64) - 2, 4, b"xxxx")
    refused(ENOSPC, ZEROES, SIZE, 4096)
    refused(EINVAL, TRIM, SIZE - 1, 4096)
    refused(EINVAL, FLUSH, 4096, 4096)
    refused(EINVAL, WRITE, 0, 1, b"x", flags=DF)
    client.write(5, b"alive")
    assert client.read(5, 5) == b"alive"
    # A header that is none: it hangs up, and serves others.
    client.socket.sendall(bytes(28))
    with pytest.raises((EOFError, ConnectionError)):
        client.take(1)
    other = Nbd(server.nbd).go(name)
    assert other.read(5, 5) == b"alive"
    assert Nbd(server.nbd).option(ABORT)[-1][0] == 1
    with pytest.raises((EOFError, ConnectionError)):
        Nbd(server.nbd, flags=0xFF).take(1)


def test_oldest_way_in(server, name):
    client = Nbd(server.nbd, flags=1)
    client.socket.sendall(b"IHAVEOPT" + EXPORT_NAME.to_bytes(4, "big") + len(name).to_bytes(4, "big") + name.encode())
    told = client.take(8 + 2 + 124)
    assert int.from_bytes(told[:8], "big") == SIZE
    client.write(0, b"old")
    assert client.read(0, 3) == b"old"
    client.disconnect()


def test_what_is_rubbish_harms_nobody(server, name):
    rng = random.Random(4)
    for _ in range(60):
        client = Nbd(server.nbd)
        client.socket.sendall(rng.choice([b"", b"IHAVEOPT"]) + rng.randbytes(rng.randrange(1, 300)))
        client.close()
    client = Nbd(server.nbd).go(name)
    for _ in range(20):
        broken = Nbd(server.nbd).go(name)
        broken.socket.sendall(rng.randbytes(rng.randrange(1, 200)))
        broken.close()
    client.write(0, b"fine")
    assert client.read(0, 4) == b"fine"


def test_replies_come_out_of_order_and_each_once(server, name):
    client = Nbd(server.nbd).go(name)
    sent = {}
    for number in range(200):
        sent[client.send(WRITE, number * 4096, 4096, bytes([number % 251]) * 4096)] = number
    got = [next(iter(client.chunks()))[0] for _ in range(200)]
    assert sorted(got) == sorted(sent)
    for number in range(200):
        assert client.read(number * 4096, 4096) == bytes([number % 251]) * 4096


def test_all_clients_see_what_one_was_answered(server, name):
    one, other = Nbd(server.nbd).go(name), Nbd(server.nbd).go(name)
    for number in range(50):
        writer, reader = (one, other) if number % 2 else (other, one)
        writer.write(number * 1000, noise(f"{number}", 3000))
        assert reader.read(number * 1000, 3000) == noise(f"{number}", 3000)


class Writers:
    """Clients that each write a block of their own over and over; what was acknowledged, and what was under way."""

    BLOCK = 8192

    def __init__(self, address, name, clients=4, blocks=64):
        self.over, self.acked, self.begun = threading.Event(), {}, {}
        arguments = [(address, name, range(number, blocks, clients)) for number in range(clients)]
        self.threads = [threading.Thread(target=self.work, args=one, daemon=True) for one in arguments]
        for thread in self.threads:
            thread.start()

    def work(self, address, name, blocks):
        rng, version = random.Random(blocks.start), 0
        try:
            client = Nbd(address).go(name)
            while not self.over.is_set():
                version += 1
                block = rng.choice(blocks)
                self.begun[block] = version
                client.write(block * self.BLOCK, noise(f"{block}/{version}", self.BLOCK))
                self.acked[block] = version
        except (EOFError, OSError, NbdError):
            return

    def check(self, client) -> int:
        for block, version in self.acked.items():
            read = client.read(block * self.BLOCK, self.BLOCK)
            may = {noise(f"{block}/{one}", self.BLOCK) for one in (version, self.begun[block])}
            assert read in may, f"block {block} is not at version {version} or {self.begun[block]}"
        return len(self.acked)


def test_what_was_acknowledged_outlives_the_server(tmp_path):
    server = Nbdserver(tmp_path / "killed")
    server.start()
    try:
        server.make("disk")
        for round in range(4):
            writers = Writers(server.nbd, "disk")
            time.sleep(1.0)
            server.kill()
            for thread in writers.threads:
                thread.join()
            server.start()
            began = time.monotonic()
            client = Nbd(server.nbd).go("disk")
            print(f"round {round}: attached after {time.monotonic() - began:.2f} s")
            assert writers.check(client) > 0
            client.close()
        assert server.stop() == 0
        server.start()
        assert writers.check(Nbd(server.nbd).go("disk")) > 0
        fsck = server.command("fsck", text=True)
        assert fsck.returncode == 0, fsck
    finally:
        server.kill()


def test_space_comes_back(tmp_path):
    server = Nbdserver(tmp_path / "space", dirs=1)
    server.start()
    try:
        server.make("disk", "1G")
        client = Nbd(server.nbd).go("disk")

        def stored() -> int:
            return sum(row["shard_bytes"] for row in server.status()["disks"])

        for at in range(0, 512, 8):
            client.write(at * MIB, noise(f"{at}", 8 * MIB))
        assert stored() >= 448 * MIB
        client.trim(0, 448 * MIB)
        wait_for("trimmed bytes are given back", lambda: stored() < 200 * MIB, pause=1)
        for at in range(448, 512, 8):
            assert client.read(at * MIB, 8 * MIB) == noise(f"{at}", 8 * MIB)
        # Written over and over: what was there before goes.
        for turn in range(6):
            for at in range(448, 512, 8):
                client.write(at * MIB, noise(f"{turn}/{at}", 8 * MIB))
        wait_for("overwritten bytes are given back", lambda: stored() < 400 * MIB, pause=1)
        client.disconnect()
        wait_for("deleted", lambda: server.command("volume", "delete", "disk", "--yes").returncode == 0, pause=0.3)
        wait_for("nothing is left", lambda: stored() == 0, pause=1)
    finally:
        server.kill()


def test_full_chunks_become_stripes_and_read_the_same(tmp_path):
    server = Nbdserver(tmp_path / "stripes")
    server.start()
    try:
        server.make("disk", "256M", "--redundancy", "ec:2+1")
        client = Nbd(server.nbd).go("disk")
        for at in range(0, 200, 8):
            client.write(at * MIB + 5, noise(f"{at}", 8 * MIB))

        def stored() -> int:
            return sum(row["shard_bytes"] for row in server.status()["disks"])

        # Two copies of what is still open, one and a half of the rest.
        wait_for("full chunks are laid out anew", lambda: stored() < 200 * MIB * 1.75, pause=1)

        def check(client):
            for at in range(0, 200, 8):
                assert client.read(at * MIB + 5, 8 * MIB - 5) == noise(f"{at}", 8 * MIB)[: 8 * MIB - 5], at

        check(client)
        server.kill()
        server.start()
        check(Nbd(server.nbd).go("disk"))
    finally:
        server.kill()


def test_a_cluster_of_processes_exports_volumes(tmp_path):
    cluster = Cluster(tmp_path / "cluster", chunk=3, redundancy="copies:3").start()
    try:
        assert cluster.command("volume", "create", "disk", "--size", "64M").returncode == 0
        client = Nbd(cluster.description["nbd"]).go("disk")
        content = noise("dev", MIB)
        client.write(12345, content)
        assert Nbd(cluster.description["nbd"]).go("disk").read(12345, MIB) == content
    finally:
        cluster.stop()


def test_bench_measures_and_leaves_nothing(server):
    before = server.volumes()
    argv = ["bench", "volume", "--nbd", server.nbd, "--volume-size", "32M", "--secs", "1", "--output", "json"]
    every = {"seq write", "seq read", "write", "read", "zipf write"}
    steps = []
    for more in [[]] if LONG else [["--op", "zipf"], ["--op", "read"]]:
        done = server.command(*argv, *more)
        assert done.returncode == 0, done
        steps += json.loads(done.stdout)["steps"]
    assert {step["op"] for step in steps} == (every if LONG else {"zipf write", "read"})
    for step in steps:
        assert step["requests"] > 0 and step["p50_us"] <= step["p99_us"] and step["limit"], step
    written = [step["journal"]["write_amplification"] for step in steps if "write" in step["op"]]
    assert all(amplification >= 1 for amplification in written), written
    assert server.volumes() == before
    done = server.command(*argv, "--overwrite", "nothing", "--op", "read")
    assert done.returncode == 1 and b"no volume nothing" in done.stderr, done
