"""One machine becomes three, then four (or six), then one again, in place and under load: nothing acked is lost, no
client sees an error, and metadata moves along with the data.
"""

import json
import os
import pathlib
import random
import subprocess
import threading
import time

from harness import Server, command, free_port, program, wait_for

KIB = 1 << 10
# As many as there come to be; six takes twice as long.
NODES = int(os.environ.get("BIXI_TEST_NODES", "4"))


def body(key: str) -> bytes:
    rng = random.Random(key)
    size = rng.choice([0, 3_000, 40 * KIB, 300 * KIB, 2_000 * KIB])
    return rng.randbytes(size)


def run(*argv, **more) -> str:
    done = subprocess.run([program(), *argv], capture_output=True, text=True, timeout=120, **more)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


class Node(Server):
    """A `bixi server` that is a node: its internal address is in its directory."""

    def __init__(self, folder: pathlib.Path, name: str, dirs: int = 1):
        super().__init__(folder / name, dirs=dirs)
        self.name, self.internal = name, f"127.0.0.1:{free_port()}"

    def init(self):
        run("cluster", "init", *map(str, self.dirs), "--internal-addr", self.internal, "--name", self.name)

    def join(self, first: "Node"):
        token = told(first, "cluster", "token").strip()
        described = ["--internal-addr", self.internal, "--name", self.name]
        run("cluster", "join", "-", *map(str, self.dirs), *described, input=token)


def told(server, *argv) -> str:
    done = server.command(*argv, text=True)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


class Load:
    """Puts objects through one node for as long as it is told to, and remembers what was acked."""

    def __init__(self, server):
        self.server, self.acked, self.errors, self.over = server, [], [], threading.Event()
        self.thread = threading.Thread(target=self.put, daemon=True)
        self.thread.start()

    def put(self):
        client, number = self.server.client(), 0
        while not self.over.is_set():
            key = f"load/{number}"
            try:
                client.put_object(Bucket="bucket", Key=key, Body=body(key))
                self.acked.append(key)
            except Exception as error:  # noqa: BLE001, whatever it is, it is told
                self.errors.append(f"{key}: {error}")
            number += 1
            time.sleep(0.02)

    def end(self):
        self.over.set()
        self.thread.join()
        assert self.errors == []
        return self.acked


def check(server, keys):
    client = server.client()
    for key in keys:
        read = client.get_object(Bucket="bucket", Key=key)["Body"].read()
        assert read == body(key), f"{key} differs"


def voters(server) -> int:
    return server.status()["meta"]["voters"]


def whole(server) -> bool:
    """Nothing is to be repaired, moved or laid out anew."""
    plan = json.loads(told(server, "plan", "--output", "json"))
    chunks = server.status()["chunks"]
    return plan["moves_total"] == 0 and chunks["degraded"] == chunks["lost"] == chunks["crowded"] == 0


def test_one_machine_becomes_three_then_more_and_one_again(tmp_path):
    nodes = [Node(tmp_path, name) for name in "abcdef"[:NODES]]
    first = nodes[0]
    started = []
    try:
        # A server as anybody starts it, with data.
        first.start()
        started.append(first)
        client = first.client()
        client.create_bucket(Bucket="bucket")
        keys = [f"early/{number}" for number in range(30)]
        for key in keys:
            client.put_object(Bucket="bucket", Key=key, Body=body(key))
        assert first.stop() == 0
        first.init()
        first.start()
        check(first, keys)
        assert first.status()["redundancy"] == "copies:1"
        refused = first.command("cluster", "set-redundancy", "copies:3", text=True)
        assert refused.returncode == 4 and "too few" in refused.stderr, refused

        load = Load(first)
        for node in nodes[1:3]:
            node.join(first)
            node.start()
            started.append(node)
        # A name is given out once.
        twin = Node(tmp_path / "twin", "b")
        token = told(first, "cluster", "token").strip()
        where = ["--internal-addr", twin.internal, "--name", "b"]
        done = subprocess.run([program(), "cluster", "join", token, str(twin.dirs[0]), *where], capture_output=True, text=True)
        assert done.returncode == 4 and "already" in done.stderr, done

        told(first, "cluster", "set-redundancy", "copies:3")
        wait_for("metadata is on three nodes", lambda: voters(first) == 3)
        wait_for("new data has three copies", lambda: first.status()["redundancy"] == "copies:3")
        keys += load.end()
        wait_for("all data has three copies", lambda: whole(first) and first.status()["chunks"]["survives_losses"] == 2)

        # Any of them can go without a word.
        first.kill()
        check(nodes[1], keys)
        more = [f"without/{number}" for number in range(10)]
        for key in more:
            nodes[1].client(attempts=8).put_object(Bucket="bucket", Key=key, Body=body(key))
        keys += more
        first.start()
        check(first, keys)

        load = Load(first)
        for node in nodes[3:]:
            node.join(first)
            node.start()
            started.append(node)
        told(first, "cluster", "set-redundancy", "ec:4+2")
        wait_for("new data has stripes", lambda: first.status()["redundancy"] == "ec:4+2")
        time.sleep(2)
        keys += load.end()
        check(nodes[-1], keys)

        # And back. Three nodes go, with what they hold.
        for node in nodes[:2:-1]:
            told(first, "node", "drain", node.name, "--wait")
            answer = told(first, "cluster", "remove", node.name)
            assert f"removed node {node.name}" in answer
            assert node.stop() == 0
        wait_for("metadata is on three nodes", lambda: voters(first) == 3)
        check(first, keys)
        careless = first.command("cluster", "set-redundancy", "copies:1", text=True)
        assert careless.returncode == 2 and "--yes" in careless.stderr, careless
        assert first.command("cluster", "set-redundancy", "copies:1", "--dry-run").returncode == 8
        told(first, "cluster", "set-redundancy", "copies:1", "--yes")
        wait_for("new data has one copy", lambda: first.status()["redundancy"] == "copies:1")
        for node in (nodes[2], nodes[1]):
            told(first, "node", "drain", node.name, "--wait")
            told(first, "cluster", "remove", node.name)
            assert node.stop() == 0
        # What status says may be a second old.
        wait_for("metadata is on one node", lambda: voters(first) == 1)
        last = first.command("cluster", "remove", "a", "--lost", "--yes", text=True)
        assert last.returncode == 4 and "only node" in last.stderr, last
        check(first, keys)
        assert first.stop() == 0
        first.start()
        check(first, keys)
        assert told(first, "fsck")
    finally:
        for node in started:
            node.kill()


def test_what_is_no_token_or_of_another_cluster_is_refused(tmp_path):
    where = ["--internal-addr", "127.0.0.1:9", "--name", "x"]
    for token in ("rubbish", "bixi-join-1.AAAA", ""):
        done = subprocess.run([program(), "cluster", "join", token, str(tmp_path / "d"), *where], capture_output=True, text=True)
        assert done.returncode == 2 and "token" in done.stderr, done
    one, other = Node(tmp_path, "one"), Node(tmp_path, "other")
    one.init()
    other.init()
    one.start()
    try:
        token = told(one, "cluster", "token").strip()
        done = subprocess.run([program(), "cluster", "join", token, str(other.dirs[0]), *where], capture_output=True, text=True)
        assert done.returncode == 4 and "another cluster" in done.stderr, done
        alone = Server(tmp_path / "alone", dirs=1)
        alone.start()
        try:
            done = command(["cluster", "token"], alone.admin, alone.dirs[0] / "credentials", text=True)
            assert done.returncode == 4 and "cluster init" in done.stderr, done
        finally:
            alone.kill()
    finally:
        one.kill()
