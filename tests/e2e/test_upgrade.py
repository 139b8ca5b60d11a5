"""A newer program serves a cluster of the level before, writes nothing that older ones would not know, and can
be taken back until `bixi cluster finalize`; from then on older ones are shut out.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

import harness
from harness import Cluster, target_dir, wait_for

CORPUS = pathlib.Path(__file__).parent.parent / "corpus"
sys.path.insert(0, str(CORPUS))

import make_store  # noqa: E402

# `make previous` builds it from the revision that is named there.
PREVIOUS = pathlib.Path(os.environ.get("BIXI_PREVIOUS_PROGRAM", target_dir() / "previous" / "bixi"))
ROLES = ["chunk-1", "meta-1", "meta-2", "meta-3", "chunk-2", "chunk-3", "chunk-4", "s3"]


def upgrade(server) -> tuple:
    tree = server.status()["upgrade"]
    return tree["level"], tree["known"]


def test_a_store_of_the_first_level_stays_so_until_it_is_finalized(tmp_path):
    subprocess.run(["tar", "-C", tmp_path, "-xzf", CORPUS / "v1.tar.gz"], check=True)
    server = make_store.server(tmp_path)
    server.start()
    try:
        level, known = upgrade(server)
        assert (level, known > level) == (1, True)
        for argv in (["cluster", "set-redundancy", "copies:2", "--yes"], ["bucket", "delete", "corpus", "--with-objects", "--yes"]):
            refused = server.command(*argv, text=True)
            assert refused.returncode == 4 and "finalize" in refused.stderr, (argv, refused)
        make_store.check(server.client())
        assert server.command("cluster", "finalize", "--dry-run").returncode == 8
        done = server.command("cluster", "finalize", text=True)
        assert done.returncode == 0, done
        assert upgrade(server) == (known, known)
        # The directories say so a moment later; then a level that nobody here knows is refused.
        wait_for("the identities have risen", lambda: all(identity(path)[32] == known for path in server.dirs))
        assert server.command("cluster", "set-redundancy", "copies:2", "--yes").returncode == 0
        make_store.check(server.client())
        assert server.stop() == 0
        server.start()
        make_store.check(server.client())
    finally:
        server.kill()


def identity(directory) -> bytes:
    return (directory / "identity").read_bytes()


class Load:
    def __init__(self, cluster):
        self.over, self.acked, self.errors = threading.Event(), {}, []
        self.client = cluster.client()
        self.thread = threading.Thread(target=self.put, daemon=True)
        self.thread.start()

    def put(self):
        number = 0
        while not self.over.is_set():
            key, body = f"load/{number}", os.urandom(1 + number % 7 * 50_000)
            try:
                self.client.put_object(Bucket="mixed", Key=key, Body=body)
                self.acked[key] = body
            except Exception as error:  # noqa: BLE001, whatever it is, it is told
                self.errors.append(f"{key}: {error}")
            number += 1
            time.sleep(0.01)

    def end(self):
        self.over.set()
        self.thread.join()
        assert self.errors == []


def check(cluster, acked):
    client = cluster.client()
    for key, body in acked.items():
        assert client.get_object(Bucket="mixed", Key=key)["Body"].read() == body, key


@pytest.mark.skipif(not PREVIOUS.exists(), reason="`make previous` builds the program of the landing before")
def test_two_versions_side_by_side_and_back(tmp_path, monkeypatch):
    newer = harness.program()
    monkeypatch.setattr(harness, "program", lambda name="bixi": str(PREVIOUS))
    cluster = Cluster(tmp_path / "mixed", meta=3, chunk=4, redundancy="ec:2+1").start()
    monkeypatch.undo()
    try:
        cluster.client().create_bucket(Bucket="mixed")
        load = Load(cluster)

        def run_by(name: str, binary):
            cluster.described(name)["argv"][0] = str(binary)
            cluster.kill(name)
            cluster.restart(name)
            before = len(load.acked)
            if name != "s3":
                wait_for("objects are stored", lambda: len(load.acked) > before + 10)

        for name in ROLES[:4]:
            run_by(name, newer)
        # Back, all of it, and then forward for good.
        for name in ROLES[:4]:
            run_by(name, PREVIOUS)
        for name in ROLES[:-1]:
            run_by(name, newer)
        load.end()
        check(cluster, load.acked)
        run_by("s3", newer)
        wait_for("the door is open", lambda: cluster.command("status").returncode == 0)
        before, known = upgrade(cluster)
        assert before < known
        done = cluster.command("cluster", "finalize")
        assert done.returncode == 0, done
        check(cluster, load.acked)
        wait_for("the directory says so", lambda: identity(cluster.data("chunk-2"))[32] == known)
        cluster.kill("chunk-2")
        spec = cluster.described("chunk-2")["argv"][1:]
        refused = subprocess.run([PREVIOUS, *spec], capture_output=True, text=True, timeout=60)
        assert refused.returncode != 0 and "version" in refused.stderr, refused
        cluster.restart("chunk-2")
        cluster.wait_whole()
        check(cluster, load.acked)
        print(json.dumps({"stored while versions changed": len(load.acked)}))
    finally:
        cluster.stop()
