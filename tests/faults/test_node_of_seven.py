"""A node of seven dies (ec:4+2): under load no client sees an error and the foreground goes on; idle, its
data is rebuilt as fast as the disk allows. It prints figures beside the disk's own limit; what it asserts is
that nothing fails and all is whole again. `BIXI_TEST_NODE_MIB` says how much is stored (a smoke by default).
"""

import json
import os
import subprocess
import threading
import time

import pytest

from harness import Cluster, noise, program

MIB = 1 << 20
STORED = int(os.environ.get("BIXI_TEST_NODE_MIB", "160"))
IS_LONG = STORED >= 1000
SECONDS = 20 if IS_LONG else 5
SIZE = MIB

pytestmark = pytest.mark.alone


class Load:
    """Workers that put and get 1 MiB objects; how much each second saw, and how long each step took."""

    def __init__(self, cluster, workers=4):
        self.over, self.errors, self.steps = threading.Event(), [], []
        self.body = noise("body", SIZE)
        clients = [cluster.client() for _ in range(workers)]
        self.threads = [
            threading.Thread(target=self.work, args=(client, number), daemon=True)
            for number, client in enumerate(clients)
        ]
        for thread in self.threads:
            thread.start()

    def work(self, client, worker):
        number = 0
        while not self.over.is_set():
            key, began = f"load/{worker}/{number % 50}", time.monotonic()
            try:
                if number % 3:
                    client.get_object(Bucket="seven", Key=f"data/{(number * 7 + worker) % STORED}")["Body"].read()
                else:
                    client.put_object(Bucket="seven", Key=key, Body=self.body)
                self.steps.append((began, time.monotonic()))
            except Exception as error:  # noqa: BLE001, whatever it is, it is told
                self.errors.append(f"{key}: {error}")
            number += 1

    def rate(self, begin: float, end: float) -> float:
        """MiB a second of what ended in between."""
        return sum(SIZE for _, ended in self.steps if begin <= ended < end) / (end - begin) / MIB

    def stall(self, begin: float, end: float) -> float:
        """The longest time in which no step ended."""
        ends = sorted([begin, *(ended for _, ended in self.steps if begin <= ended < end), end])
        return max(later - earlier for earlier, later in zip(ends, ends[1:]))

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        return self


def limit(directory) -> float:
    """What the disk writes at best, MiB/s: 1 MiB blocks, eight at a time."""
    done = subprocess.run([program(), "bench", "disk", str(directory), "-o", "json"], capture_output=True, timeout=300)
    figures = json.loads(done.stdout)["figures"]
    return next(figure["mib_per_sec"] for figure in figures if figure["name"].startswith("1M write"))


def disks_of(cluster, node: str) -> list:
    return [row for row in cluster.status()["disks"] if row["node"] == node]


def lose(cluster, node: str) -> int:
    """Declares the disks of a dead node lost; answers the bytes that lay there."""
    rows = disks_of(cluster, node)
    for row in rows:
        done = cluster.command("disk", "remove", row["disk"], "--lost", "--yes")
        assert done.returncode == 0, done
    return sum(row["shard_bytes"] for row in rows)


def rebuilt(cluster, node: str) -> tuple:
    """Declares the disks of a dead node lost and waits until all is whole: bytes, and seconds it took."""
    held, began = lose(cluster, node), time.monotonic()
    # Little is rebuilt before anybody has counted.
    while time.monotonic() - began < 2 and not cluster.status()["chunks"]["degraded"]:
        time.sleep(0.05)
    cluster.wait_whole()
    return held, time.monotonic() - began


def test_a_node_of_seven_dies(tmp_path):
    cluster = Cluster(tmp_path / "seven", meta=3, chunk=7, redundancy="ec:4+2").start()
    try:
        client = cluster.client()
        client.create_bucket(Bucket="seven")
        for number in range(STORED):
            client.put_object(Bucket="seven", Key=f"data/{number}", Body=noise(f"data/{number}", SIZE))

        load = Load(cluster)
        time.sleep(SECONDS)
        died = time.monotonic()
        cluster.kill("chunk-3")
        time.sleep(1)
        held, took = rebuilt(cluster, "chunk-3")
        time.sleep(max(0.0, SECONDS - took))
        now = time.monotonic()
        load.end()
        before, after = load.rate(died - SECONDS, died), load.rate(died, now)
        print(
            f"under load: {before:.0f} MiB/s before, {after:.0f} after ({after / before:.0%}), longest pause "
            f"{load.stall(died, now) * 1000:.0f} ms, {len(load.errors)} errors of {len(load.steps)}; beside it "
            f"{held / MIB:.0f} MiB rebuilt in {took:.1f} s, {held / MIB / took:.0f} MiB/s"
        )
        assert load.errors == []

        cluster.kill("chunk-5")
        held, took = rebuilt(cluster, "chunk-5")
        best = f"; the disk writes {limit(tmp_path):.0f} MiB/s at best" if IS_LONG else ""
        print(
            f"idle: {held / MIB:.0f} MiB rebuilt in {took:.1f} s, {held / MIB / took:.0f} MiB/s (read {4 * held / MIB / took:.0f}, "
            f"read back {held / MIB / took:.0f}){best}"
        )
        for number in range(0, STORED, 7):
            read = client.get_object(Bucket="seven", Key=f"data/{number}")["Body"].read()
            assert read == noise(f"data/{number}", SIZE), f"data/{number} differs"
    finally:
        cluster.stop()
