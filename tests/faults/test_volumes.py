"""Volumes when processes and machines fail: an owner is paused and another takes over, a node dies, the metaservers'
leader dies, all metaservers are gone for a while, the power goes. Rows 2, 13, 17 and 18 of the promises.

BIXI_TEST_TAKE_OVERS, BIXI_TEST_KILLS, BIXI_TEST_CUTS: how often (default 1, 1 and 4); BIXI_TEST_OUTAGE: seconds
without metaservers (default 12), BIXI_TEST_PACE: MiB/s of writes meanwhile (default 30, at most 100);
BIXI_TEST_SEED, BIXI_TEST_FS as in test_power_cut.py.
"""

import json
import os
import random
import signal
import subprocess
import time

import pytest

import devices
import power_cut
from harness import Cluster, Server, free_port, program, variants, wait_for
from nbd import EXTENDED, Nbd, NbdError
from volumes import BLOCK, MIB, Attached, DevDoor, Load, Nodes, Notes, content, whole

TAKE_OVERS = int(os.environ.get("BIXI_TEST_TAKE_OVERS", "1"))
KILLS = int(os.environ.get("BIXI_TEST_KILLS", "1"))
CUTS = int(os.environ.get("BIXI_TEST_CUTS", "4"))
OUTAGE = float(os.environ.get("BIXI_TEST_OUTAGE", "12"))
PACE = float(os.environ.get("BIXI_TEST_PACE", "30"))
SEED = int(os.environ.get("BIXI_TEST_SEED", "1"))
KIND = os.environ.get("BIXI_TEST_FS", "ext4")
SIZE = 32 * MIB
# Blocks beyond those of the load: written by hand.
BY_HAND = SIZE // BLOCK

pytestmark = pytest.mark.timeout(300 + 60 * (TAKE_OVERS + KILLS + CUTS) + OUTAGE)


class Doors(Server):
    """A server that also gives passes to hosts that attach volumes themselves."""

    def __init__(self, folder, dirs=3, more: tuple = ()):
        self.nbd = f"127.0.0.1:{free_port()}"
        inside = ("--internal-addr", f"127.0.0.1:{free_port()}")
        super().__init__(folder, dirs=dirs, extra=("--nbd-addr", self.nbd, *inside, *more))

    def connect(self, name: str) -> Nbd:
        return Nbd(self.nbd).go(name)

    def volume(self, *words, code: int = 0) -> subprocess.CompletedProcess:
        done = self.command("volume", *map(str, words), text=True)
        assert done.returncode == code, (words, done)
        return done


def extended(connection: Nbd, name: str) -> Nbd:
    """A client that is told of holes."""
    connection.upgrade(EXTENDED)
    return connection.go(name)


def refused(request, *arguments) -> str:
    """Fails if the request is acknowledged."""
    try:
        request(*arguments)
    except (NbdError, EOFError, OSError) as error:
        return repr(error)
    raise AssertionError(f"{request.__name__} was acknowledged")


class Zombie:
    """Clients of an owner that is paused: what they ask when it goes on must not count, nor be answered as of old."""

    def __init__(self, owner: Attached):
        self.owner = owner
        self.plain, self.told = owner.connect(), extended(Nbd(f"unix:{owner.socket}"), owner.name)
        self.writer, self.clearer, self.zeroer = owner.connect(), owner.connect(), owner.connect()
        self.plain.write(BY_HAND * BLOCK, content(BY_HAND, 1))
        # The second block has never been written.
        assert self.told.read((BY_HAND + 1) * BLOCK, BLOCK) == bytes(BLOCK)

    def write_elsewhere(self, disk: Nbd) -> None:
        """What the new owner's clients write."""
        disk.write(BY_HAND * BLOCK, content(BY_HAND, 2) + content(BY_HAND + 1, 2))

    def goes_on(self) -> None:
        """All at once, at the moment in which the owner goes on: who was asked by others is ahead of what tells it."""
        asked = [(self.plain, BY_HAND), (self.told, BY_HAND + 1)]
        for client, block in asked:
            client.cookies = [client.send(0, block * BLOCK, BLOCK) for _ in range(20)]
        self.owner.signal(signal.SIGCONT)
        for client, block in asked:
            for _ in client.cookies:
                try:
                    chunks = list(client.chunks(0 if client.structured else BLOCK))
                except NbdError:
                    continue
                found = bytearray(BLOCK)
                for _, kind, data in chunks:
                    if kind in (0, 1):
                        data = data if kind == 0 else data[8:]
                        found[: len(data)] = data
                assert found == content(block, 2), f"block {block} was read as it had been before the other owner wrote it"

    def changes(self) -> list:
        """Every change is refused, by connections from before and by new ones."""
        wrong = content(BY_HAND, 99)
        told = [refused(self.writer.write, 0, wrong), refused(self.clearer.trim, 0, SIZE), refused(self.zeroer.zero, 0, SIZE)]
        told.append(refused(lambda: self.owner.connect().write(0, wrong)))
        return told


@pytest.mark.alone
@pytest.mark.parametrize("under", ["load", "reads"])
def test_take_over_from_an_owner_that_is_paused(tmp_path, under):
    """`reads`: the old owner writes nothing, so what it knew last is all that it knows."""
    server = Doors(tmp_path / "server")
    server.start()
    holders = []
    try:
        for round in range(TAKE_OVERS):
            name = f"{under}{round}"
            server.volume("create", name, "--size", SIZE + 2 * BLOCK)
            old = Attached(server, name, tmp_path / f"old-{name}.socket").wait()
            holders.append(old)
            notes = Notes(SIZE)
            load = Load(old.connect, notes, clears=0.2)
            zombie = Zombie(old)
            with load:
                load.run(3 if under == "load" else 1)
                if under == "reads":
                    load.end()
                old.signal(signal.SIGSTOP)
                stopped = time.monotonic()
                new = Attached(server, name, tmp_path / f"new-{name}.socket")
                holders.append(new)
                disk = new.wait().connect()
                zombie.write_elsewhere(disk)
                took = time.monotonic() - stopped
                before = whole(disk, SIZE + 2 * BLOCK)
                at_pause = Notes(SIZE)
                at_pause.acked, at_pause.tried = list(notes.acked), {block: set(some) for block, some in notes.tried.items()}
                at_pause.check_bytes(before)
                zombie.goes_on()
                told = zombie.changes()
                load.over.set()
            # Acknowledged late: begun before the pause, and there when the other took over.
            for block, version in enumerate(notes.acked):
                here = before[block * BLOCK : (block + 1) * BLOCK]
                assert version == at_pause.acked[block] or here == content(block, version), f"block {block} was acked in vain"
            print(f"{name}: first write {took:.2f} s after the pause; then {sorted(set(told))}")
            # What the old one does by itself comes within seconds: index, compaction.
            ours = Notes(SIZE)
            ours.settle(at_pause.check_bytes(before))
            # Nothing that the old one ever wrote.
            ours.versions = 10 * notes.versions + 1000
            with Load(new.connect, ours) as again:
                again.run(3)
            assert disk.read(BY_HAND * BLOCK, 2 * BLOCK) == content(BY_HAND, 2) + content(BY_HAND + 1, 2)
            ours.check(disk)
            assert new.stop() == 0, new.text()
            third = Attached(server, name, tmp_path / f"third-{name}.socket").wait()
            holders.append(third)
            ours.check(third.connect())
            assert took < 6.0, f"the first write of the new owner came after {took:.2f} s"
            assert third.stop() == 0
            old.kill()
        assert server.command("fsck", text=True).returncode == 0
    finally:
        for holder in holders:
            holder.kill()
        server.kill()


@pytest.mark.alone
@pytest.mark.parametrize("count", [3, 4])
def test_a_node_dies_and_no_client_sees_it(tmp_path, count):
    """Data and one of three metaservers are there; the leader is another one."""
    with Nodes(tmp_path, count) as nodes:
        owner = nodes.all[0]
        owner.told("volume", "create", "disk", "--size", str(SIZE))
        notes = Notes(SIZE)
        with Load(lambda: owner.connect("disk"), notes) as load:
            for kill in range(KILLS):
                load.run(2)
                leader = nodes.leader(owner)
                victim = next(node for node in nodes.all[1:] if node is not leader)
                died = time.monotonic()
                victim.kill()
                load.run(4)
                print(f"{count} nodes, {victim.name} died: {load.figures(died)}")
                assert load.longest[0] < 2.0 and load.stall(died) < 2.0
                victim.start()
                wait_for("all has its copies", lambda: owner.status()["chunks"]["degraded"] == 0, pause=0.5)
        assert load.errors == []
        notes.check(owner.connect("disk"))
        wait_for("given up", lambda: not json.loads(owner.told("volume", "status", "disk", "--output", "json"))["attached_by"])
        notes.check(nodes.all[-1].connect("disk"))


class Dev:
    """A `bixi dev` cluster with a volume that is attached."""

    def __init__(self, folder, size: int = SIZE):
        self.folder, self.size = folder, size
        self.cluster = Cluster(folder / "cluster", chunk=4, redundancy="copies:3")

    def __enter__(self) -> "Dev":
        self.cluster.start()
        try:
            done = self.cluster.command("volume", "create", "disk", "--size", str(self.size))
            assert done.returncode == 0, done
            self.door = DevDoor(self.cluster).__enter__()
            self.attached = Attached(self.door, "disk", self.folder / "disk.socket").wait()
        except BaseException:
            self.cluster.stop()
            raise
        return self

    def __exit__(self, *_):
        for name in ("meta-1", "meta-2", "meta-3"):
            try:
                self.cluster.signal(name, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.attached.kill()
        self.door.__exit__()
        self.cluster.stop()

    def check_again(self, notes: Notes) -> None:
        """Here, and after it was given up and attached again."""
        notes.check(self.attached.connect())
        assert self.attached.stop() == 0
        self.attached = Attached(self.door, "disk", self.folder / "again.socket").wait()
        notes.check(self.attached.connect())


@pytest.mark.alone
@pytest.mark.parametrize("how", ["dies", "is paused"])
def test_the_leader_goes_and_nothing_stalls(tmp_path, how):
    with Dev(tmp_path) as dev:
        notes = Notes(SIZE)
        with Load(dev.attached.connect, notes) as load:
            for _ in range(KILLS):
                load.run(2)
                leader = dev.cluster.leader()
                gone = time.monotonic()
                if how == "dies":
                    dev.cluster.kill(leader)
                else:
                    dev.cluster.signal(leader, signal.SIGSTOP)
                load.run(5)
                print(f"{leader} {how}: {load.figures(gone)}")
                assert load.longest[0] < 1.0 and load.stall(gone) < 1.0
                if how == "dies":
                    dev.cluster.restart(leader)
                else:
                    dev.cluster.signal(leader, signal.SIGCONT)
                load.run(1)
        assert load.errors == []
        dev.check_again(notes)


@pytest.mark.alone
@pytest.mark.parametrize("how", variants(["are paused"], ["die"]))
def test_all_metaservers_are_gone_and_nothing_stalls(tmp_path, how):
    metas = ("meta-1", "meta-2", "meta-3")
    size = 256 * MIB
    with Dev(tmp_path, size) as dev:
        notes = Notes(size)
        with Load(dev.attached.connect, notes, most=64, pace=PACE) as load:
            load.run(5)
            gone = time.monotonic()
            for name in metas:
                dev.cluster.signal(name, signal.SIGSTOP if how == "are paused" else signal.SIGKILL)
            load.run(OUTAGE)
            print(f"without metaservers: {load.figures(gone)}")
            assert load.longest[0] < 1.0 and load.stall(gone) < 1.0
            for name in metas:
                if how == "are paused":
                    dev.cluster.signal(name, signal.SIGCONT)
                else:
                    dev.cluster.restart(name)
            load.run(6)
            print(f"afterwards: {load.figures(gone)}")
            assert load.longest[0] < 1.0
        assert load.errors == []
        dev.check_again(notes)


WHY_NOT = devices.lacking()


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "never")
@pytest.mark.parametrize("redundancy", ["copies:3"])
def test_a_power_cut_at_any_moment_loses_nothing_acked(tmp_path, redundancy):
    rng = random.Random(f"{SEED} {redundancy}")
    size, mib = 8 * MIB, 768
    more = ("--redundancy", redundancy)
    with devices.Devices(tmp_path, 3, mib, KIND) as disks:
        server = Doors(tmp_path / "server", [mount / "data" for mount in disks.mounts], more)
        try:
            server.start()
            server.volume("create", "disk", "--size", size)
            marks = devices.Marks(disks)
            notes = Notes(size, marks.set)
            for kill in (True, False):
                with Load(lambda: server.connect("disk"), notes, depth=8, most=8) as load:
                    load.run(2.5)
                    if kill:
                        # Take-over writes too.
                        load.over.set()
                        server.kill()
                if kill:
                    server.start()
            marks.close()
        finally:
            server.kill()
        disks.command("record off")
    stream = power_cut.Stream(disks.stream)
    first = next(at for at, record in enumerate(stream.records) if record[0] == b"m")
    replay = power_cut.Replay(stream, tmp_path / "replay", 3, mib << 20)
    for number, moment in enumerate(stream.moments(first, CUTS, rng)):
        replay.forward_to(moment)
        what = f"record {moment} of {len(stream.records)}, {replay.unflushed()} unflushed"
        images = replay.images(rng)
        check_cut(tmp_path / f"cut{number}", images, replay.marks, size, more, what)
    replay.close()
    disks.stream.unlink()
    print(f"{redundancy}: {CUTS} cuts of {len(stream.records)} records, {notes.versions} changes")


def check_cut(folder, images, marks, size: int, more: tuple, what: str) -> None:
    notes = Notes(size)
    for mark in marks:
        notes.follow(mark)
    mounts = [devices.Mounted(image, folder / f"mount{disk}") for disk, image in enumerate(images)]
    with mounts[0] as one, mounts[1] as two, mounts[2] as three:
        server = Doors(folder / "server", [mount / "data" for mount in (one, two, three)], more)
        try:
            server.start()
            found = notes.check(server.connect("disk"))
            # It is a volume like any other: it is written, and read by the next owner.
            notes.settle(found)
            with Load(lambda: server.connect("disk"), notes, depth=4) as load:
                load.run(0.3)
            server.kill()
            server.start()
            notes.check(server.connect("disk"))
            assert server.status()["chunks"]["lost"] == 0
        except BaseException as error:
            raise AssertionError(f"after a cut at {what}: {error}\n{server.log_tail()}") from error
        finally:
            server.kill()


def test_what_cannot_be_is_refused_with_the_reason(tmp_path):
    server = Doors(tmp_path / "server")
    server.start()
    held = None
    try:
        for name in ("disk", "other"):
            server.volume("create", name, "--size", SIZE)
        held = Attached(server, "disk", tmp_path / "held.socket").wait()
        mine = held.connect()
        mine.write(0, content(0, 1))

        def attach(name: str, socket: str) -> subprocess.CompletedProcess:
            environment = {**os.environ, "BIXI_ADMIN_ADDR": server.admin, "BIXI_CREDENTIALS": str(server.credentials_path)}
            argv = [program(), "volume", "attach", name, "--nbd-unix", str(tmp_path / socket)]
            return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)

        # A second owner, from another host, from the server's own door, at the same socket.
        second = attach("disk", "second.socket")
        assert second.returncode == 4 and "attached by" in second.stderr and "held.socket" in second.stderr, second
        same = attach("other", "held.socket")
        assert same.returncode != 0 and "held.socket" in same.stderr, same
        with pytest.raises(NbdError, match="attached by"):
            server.connect("disk")
        none = attach("nothing", "none.socket")
        assert none.returncode != 0 and "there is no volume nothing" in none.stderr, none

        assert "attached by" in server.volume("delete", "disk", "--yes", code=4).stderr
        assert "attached by" in server.volume("rename", "disk", "else", code=4).stderr
        assert "there is a volume disk" in server.volume("create", "disk", "--size", SIZE, code=4).stderr
        # Larger at once for who connects anew; smaller not at all.
        server.volume("resize", "disk", "--size", 2 * SIZE)
        wait_for("the owner sees the new size", lambda: held.connect().size == 2 * SIZE)
        assert "shrink" in server.volume("resize", "disk", "--size", SIZE, code=4).stderr
        last = held.connect()
        last.write(2 * SIZE - BLOCK, content(7, 7))
        # One that was connected before lives on.
        assert mine.read(0, BLOCK) == content(0, 1)

        server.volume("snapshot", "disk@one")
        assert "attached by" in server.volume("rollback", "disk@one", "--yes", code=4).stderr
        assert "no snapshot" in server.volume("delete", "disk@two", "--yes", code=3).stderr
        assert held.stop() == 0
        refused(mine.write, 0, content(0, 2))
        server.volume("delete", "disk@one", "--yes")
        server.volume("delete", "disk", "--yes")
        for words in (["snapshot", "disk@two"], ["resize", "disk", "--size", 4 * SIZE], ["delete", "disk", "--yes"], ["status", "disk"]):
            assert "there is no volume disk" in server.volume(*words, code=3).stderr
        assert attach("disk", "gone.socket").returncode != 0
        with pytest.raises(NbdError):
            server.connect("disk")
        # The name is free, and holds nothing of old.
        server.volume("create", "disk", "--size", SIZE)
        assert server.connect("disk").read(0, BLOCK) == bytes(BLOCK)
    finally:
        if held:
            held.kill()
        server.kill()
