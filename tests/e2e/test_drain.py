"""Disks come and go under load: drained, removed, added, replaced, asked about before.

Every object that was acked reads back identical, no client sees an error, and what
`bixi safe-to-remove` says is what happens.
"""

import json
import random
import shutil
import threading
import time

import pytest

from harness import Cluster, Server, wait_for

KIB = 1 << 10


def body(key: str) -> bytes:
    rng = random.Random(key)
    size = rng.choice([0, 3_000, 40 * KIB, 300 * KIB, 2_000 * KIB])
    return rng.randbytes(size)


def told(done) -> dict:
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def disks(server) -> dict:
    """Rows of `bixi disk list` by number."""
    rows = told(server.command("disk", "list", "--output", "json"))["disks"]
    return {row["disk"]: row for row in rows}


def disk_in(server, directory) -> int:
    """The number of the disk in a directory."""
    return next(number for number, row in disks(server).items() if row["path"] == str(directory))


class Load:
    """Puts objects for as long as it is told to, and remembers what was acked."""

    def __init__(self, server):
        self.acked, self.errors, self.over = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.put, args=(server, worker)) for worker in range(3)]
        for thread in self.threads:
            thread.start()

    def put(self, server, worker):
        client, number = server.client(), 0
        while not self.over.is_set():
            key = f"load/{worker}/{number}"
            try:
                client.put_object(Bucket="bucket", Key=key, Body=body(key))
                self.acked.append(key)
            except Exception as error:  # noqa: BLE001, whatever it is, it is told
                self.errors.append(f"{key}: {error}")
            number += 1

    def more(self, count: int):
        """Waits until that many more objects are stored."""
        upto = len(self.acked) + count
        wait_for("more objects are stored", lambda: self.errors or len(self.acked) >= upto)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        assert self.errors == []


def check(server, keys):
    client = server.client()
    for key in keys:
        read = client.get_object(Bucket="bucket", Key=key)["Body"].read()
        assert read == body(key), f"{key} differs"


def wait_state(server, disk: int, state: str):
    wait_for(f"disk {disk} is {state}", lambda: disks(server)[disk]["state"] == state, pause=0.5)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path, dirs=7, extra=("--redundancy", "ec:4+2"))
    server.start()
    server.client().create_bucket(Bucket="bucket")
    yield server
    server.stop()


def test_a_directory_is_drained_and_removed_under_load(server):
    # Not one of the first three: those hold the metadata's replicas.
    gone = server.dirs[4]
    disk = disk_in(server, gone)
    load = Load(server)
    try:
        load.more(60)
        refused = server.command("disk", "remove", disk)
        assert refused.returncode == 4 and b"drain it first" in refused.stderr, refused.stderr
        assert server.command("disk", "drain", disk, "--dry-run").returncode == 8
        assert server.command("disk", "drain", disk).returncode == 0
        waited = server.command("disk", "drain", disk, "--wait")
        assert waited.returncode == 0, waited.stderr
        load.more(20)
        row = disks(server)[disk]
        assert row["state"] == "drained" and row["shards"] == 0
        safe = server.command("safe-to-remove", "disk", disk)
        assert safe.returncode == 0 and safe.stdout.startswith(b"yes"), (safe.stdout, safe.stderr)
        assert server.command("disk", "remove", disk).returncode == 0
        assert disk not in disks(server)
        # Its process gives it up, and then its directory is nobody's.
        wait_for("the directory is given up", lambda: "its directory is given up" in server.log.read_text())
        shutil.rmtree(gone)
        load.more(30)
    finally:
        load.end()
    check(server, load.acked)
    assert server.status()["chunks"]["lost"] == 0
    assert server.stop() == 0
    server.dirs.remove(gone)
    server.start()
    check(server, load.acked)
    assert len(disks(server)) == 6
    fsck = server.command("fsck")
    assert fsck.returncode == 0, fsck.stdout


def test_a_drain_is_taken_back(server):
    load = Load(server)
    try:
        load.more(30)
        disk = disk_in(server, server.dirs[5])
        assert server.command("disk", "drain", disk).returncode == 0
        assert disks(server)[disk]["state"] in ("draining", "drained")
        assert server.command("disk", "undrain", disk).returncode == 0
        wait_state(server, disk, "in")
        assert server.command("disk", "drain", 99).returncode == 3
        # Too few would be left to write on.
        several = [disk_in(server, path) for path in server.dirs[1:]]
        refused = server.command("disk", "drain", *several)
        assert refused.returncode == 4 and b"too few" in refused.stderr, refused.stderr
    finally:
        load.end()
    check(server, load.acked)


def test_safe_to_remove_says_what_would_happen(server):
    load = Load(server)
    load.more(60)
    load.end()
    number = {path: disk_in(server, path) for path in server.dirs}

    def ask(*paths):
        words = [word for path in paths for word in ("disk", number[path])]
        answer = json.loads(server.command("safe-to-remove", *words, "--output", "json").stdout)
        done = server.command("safe-to-remove", *words)
        assert (done.returncode == 0) == answer["safe"] == done.stdout.startswith(b"yes"), (done.stdout, answer)
        return answer

    two = ask(server.dirs[4], server.dirs[5])
    assert two["safe"] and two["chunks_degraded"] > 0, two
    # Six of seven hold a chunk, so three of its shards lie on these four.
    four = ask(*server.dirs[3:7])
    assert not four["safe"] and four["chunks_lost"] > 0 and "could not be read" in four["reason"], four
    one_replica = ask(server.dirs[0])
    assert one_replica["safe"] and one_replica["meta"]["left"] == 2, one_replica
    majority = ask(server.dirs[0], server.dirs[1])
    assert not majority["safe"] and "majority" in majority["reason"], majority
    assert server.command("safe-to-remove", "node", "server").returncode == 1
    assert server.command("safe-to-remove", "disk", 99).returncode == 3
    assert server.command("safe-to-remove", "node", "nobody").returncode == 3
    # It was right: without those two everything is there.
    assert server.stop() == 0
    for path in server.dirs[4:6]:
        shutil.rmtree(path)
    rest = [path for path in server.dirs if path not in server.dirs[4:6]]
    server.dirs[:] = rest
    server.start()
    check(server, load.acked)
    # They are silent and still known: removed as lost, they are forgotten, and repaired elsewhere.
    for path in set(number) - set(rest):
        assert server.command("disk", "remove", number[path], "--lost").returncode == 2
        assert server.command("disk", "remove", number[path], "--lost", "--yes").returncode == 0

    def is_whole():
        chunks = server.status()["chunks"]
        return chunks["degraded"] == 0 and chunks["lost"] == 0

    wait_for("redundancy is whole again", is_whole, 300, pause=0.5)
    check(server, load.acked)


def test_directories_are_added_and_replaced_without_a_restart(server):
    load = Load(server)
    new, newer = server.folder / "new", server.folder / "newer"
    try:
        load.more(30)
        added = told(server.command("disk", "add", new, "--output", "json"))["disk"]
        assert server.command("disk", "add", new).returncode == 4
        assert disks(server)[added]["path"] == str(new)
        old = server.dirs[6]
        replaced = told(server.command("disk", "replace", disk_in(server, old), newer, "--output", "json"))
        wait_state(server, replaced["replaces"], "drained")
        assert server.command("disk", "remove", replaced["replaces"]).returncode == 0
        load.more(20)
    finally:
        load.end()
    wait_for("the directory is given up", lambda: "its directory is given up" in server.log.read_text())
    assert server.stop() == 0
    shutil.rmtree(old)
    server.dirs.remove(old)
    server.start()
    # With two others drained six are left, so every chunk needs both.
    others = [disk_in(server, directory) for directory in server.dirs[4:6]]
    assert server.command("disk", "drain", *others, "--wait").returncode == 0
    paths = {row["path"]: row for row in disks(server).values()}
    for path in (new, newer):
        assert paths[str(path)]["state"] == "in" and paths[str(path)]["shards"] > 0, paths
    assert server.command("disk", "undrain", *others).returncode == 0
    check(server, load.acked)
    # An added one that is removed leaves the list.
    number = disk_in(server, new)
    assert server.command("disk", "drain", number, "--wait").returncode == 0
    assert server.command("disk", "remove", number).returncode == 0
    wait_for("it leaves the list", lambda: str(new) not in json.loads((server.dirs[0] / "directories").read_text())["added"])
    shutil.rmtree(new)
    assert server.stop() == 0
    server.start()
    assert not new.exists()
    check(server, load.acked)


def test_kills_while_a_directory_is_added_leave_it_in_the_pool_or_out_of_it(server):
    keys = [f"kept/{number}" for number in range(10)]
    for key in keys:
        server.client().put_object(Bucket="bucket", Key=key, Body=body(key))
    moments = random.Random(20261121)
    for number in range(6):
        new = server.folder / f"new{number}"
        adding = threading.Thread(target=server.command, args=("disk", "add", new))
        adding.start()
        time.sleep(moments.uniform(0.0, 0.25))
        server.kill()
        adding.join()
        server.start()
        # In already, or asked again it goes in; never half.
        assert server.command("disk", "add", new).returncode in (0, 4)

        def states(path=str(new)):
            return [row["state"] for row in disks(server).values() if row["path"] == path]

        # Silent until its first heartbeat has been heard.
        wait_for("it is heard", lambda: states() == ["in"])
        assert str(new) in json.loads((server.dirs[0] / "directories").read_text())["added"]
    server.kill()
    server.start()
    wait_for("all are served", lambda: all(row["state"] == "in" for row in disks(server).values()))
    assert len(disks(server)) == 13
    # They do take part: what must leave the old ones goes there.
    old = [disk_in(server, directory) for directory in server.dirs[3:]]
    assert server.command("disk", "drain", *old, "--wait").returncode == 0
    check(server, keys)


def test_a_metadata_replica_goes_elsewhere_when_its_directory_is_removed(server):
    load = Load(server)
    try:
        load.more(20)
        gone = server.dirs[1]
        disk = disk_in(server, gone)
        first = disk_in(server, server.dirs[0])
        assert server.command("disk", "drain", disk, "--wait").returncode == 0
        assert server.command("disk", "remove", disk).returncode == 0

        def is_replaced():
            answer = json.loads(server.command("safe-to-remove", "disk", first, "--output", "json").stdout)
            return answer["meta"] == {"replicas": 3, "left": 2, "majority": 2}

        wait_for("a replica begins", lambda: "a metaserver replica begins here" in server.log.read_text())
        wait_for("another replica votes", is_replaced, pause=0.5)
        shutil.rmtree(gone)
        load.more(20)
    finally:
        load.end()
    check(server, load.acked)
    assert server.stop() == 0
    # Of the first three one is left: without the new one there would be no majority.
    server.dirs.remove(gone)
    shutil.rmtree(server.dirs[1])
    server.start()
    check(server, load.acked)
    wait_for("another replica votes", is_replaced, pause=0.5)


def test_the_plan_is_what_is_done(server):
    load = Load(server)
    load.more(60)
    load.end()
    # Not every disk has something that would be moved.
    disk = max(server.status()["disks"], key=lambda row: row["shards"])["disk"]
    assert server.command("disk", "drain", disk).returncode == 0
    seen, moves = {}, None
    deadline = time.monotonic() + 120
    while disks(server)[disk]["state"] != "drained":
        assert time.monotonic() < deadline, server.log_tail()
        plan = told(server.command("plan", "--output", "json"))
        assert plan["moves_total"] == sum(total["moves"] for total in plan["totals"])
        moves = [move for move in plan["moves"] if move["why"] == "drain"]
        for move in moves:
            assert move["from"] == [disk] and disk not in move["to"], move
            homes = seen.setdefault(move["chunk"], move["to"])
            assert move["to"] == homes, f"{move} was planned to {homes}"
    assert seen, "nothing was planned"
    plan = told(server.command("plan", "--output", "json"))
    assert [move for move in plan["moves"] if move["why"] == "drain"] == []
    check(server, load.acked)


def test_a_node_of_a_cluster_is_drained_and_can_go(tmp_path):
    cluster = Cluster(tmp_path / "cluster", chunk=7)
    try:
        cluster.start()
        cluster.client().create_bucket(Bucket="bucket")
        load = Load(cluster)
        try:
            load.more(40)
            extra = told(cluster.command("disk", "add", tmp_path / "extra", "--node", "chunk-2", "--output", "json"))
            assert cluster.command("disk", "add", tmp_path / "more").returncode == 1, "which node?"
            assert cluster.command("node", "drain", "nobody").returncode == 3
            drained = cluster.command("node", "drain", "chunk-6", "--wait")
            assert drained.returncode == 0, drained.stderr
        finally:
            load.end()
        nodes = {row["node"]: row for row in told(cluster.command("node", "list", "--output", "json"))["nodes"]}
        assert nodes["chunk-6"]["state"] == "drained" and len(nodes["chunk-2"]["disks"]) == 2
        assert cluster.command("safe-to-remove", "node", "chunk-6").returncode == 0
        assert cluster.command("safe-to-remove", "node", "meta-1").returncode == 0
        assert cluster.command("safe-to-remove", "node", "meta-1", "node", "meta-2").returncode == 1
        cluster.kill("chunk-6")
        check(cluster, load.acked)
        cluster.kill("chunk-2")
        cluster.restart("chunk-2")
        wait_for("the added disk is back", lambda: disks(cluster)[extra["disk"]]["state"] == "in")
        check(cluster, load.acked)
    finally:
        cluster.stop()


def test_durability_goes_by_the_map_as_it_is(server):
    def nines(*words) -> dict:
        return json.loads(server.command("durability", *words, "--output", "json").stdout)

    assert nines()["nines"] is None, "nothing is stored"
    load = Load(server)
    load.more(60)
    load.end()
    # Chunks are counted twice a second.
    wait_for("the chunks are counted", lambda: nines()["chunks"] > 0)
    usual, worse = nines(), nines("--disk-failures-percent", "20")
    assert usual["disks"]["count"] == len(server.dirs)
    assert usual["nines"] > worse["nines"] > 0, (usual, worse)
    # One node holds it all.
    assert usual["nodes"]["survives"] == 0
    told = server.command("durability").stdout.decode()
    assert f"{usual['nines']:.1f} nines" in told, told
    assert server.command("durability", "--disk-failures-percent", "many").returncode == 2
