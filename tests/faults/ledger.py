"""A load whose every step is noted, and what must therefore be true of a server at any moment.

    note = ledger.Ledger()
    load = ledger.Load(client, note, writers=8)
    with load: ...                                things happen
    note.promises().check(other_client)           everything acked is there, byte for byte

Each key belongs to one writer, which puts, overwrites and deletes it, one step after the other.
While a step is under way either state is right: the one before it, or the one after.
"""

import concurrent.futures
import hashlib
import json
import threading
import time

import botocore.exceptions

from harness import noise

BUCKET = "load"
# Inline, packed, whole records, parts of stripes, several appends.
SIZES = [100, 5_000, 40_000, 300_000, 1_700_000]
ABSENT = -1


def body(key: str, version: int) -> bytes:
    return noise(f"{key} {version}", SIZES[int(hashlib.sha256(f"{key} {version}".encode()).hexdigest(), 16) % len(SIZES)])


class Promises:
    """For each key: the version that was acked last, and the one that may have come since."""

    def __init__(self):
        self.acked = {}
        self.tried = {}

    def note(self, line: str) -> None:
        """A line of a ledger: `["try" | "ack", key, version]`."""
        step, key, version = json.loads(line)
        if step == "try":
            self.tried[key] = version
        else:
            self.acked[key] = version
            if self.tried.get(key) == version:
                del self.tried[key]

    def allowed(self, key: str) -> set:
        allowed = {self.acked.get(key, ABSENT)}
        if key in self.tried:
            allowed.add(self.tried[key])
        return allowed

    def check(self, client, threads: int = 8, only_ours: bool = False) -> int:
        """Fails if a key is not as it must be; returns how many acked objects were read. `only_ours`:
        others write into the bucket too."""

        def read(key):
            allowed = self.allowed(key)
            try:
                found = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            except client.exceptions.NoSuchKey:
                assert ABSENT in allowed, f"{key} was acked as version {allowed} and is gone"
                return 0
            right = [version for version in allowed if version != ABSENT and found == body(key, version)]
            assert right, f"{key}: {len(found)} bytes that are none of the versions {sorted(allowed)}"
            return 1

        keys = sorted(self.acked.keys() | self.tried.keys())
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            there = sum(pool.map(read, keys))
        listed = set()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            listed.update(entry["Key"] for entry in page.get("Contents", []))
        for key in keys:
            if ABSENT not in self.allowed(key):
                assert key in listed, f"{key} is lacking in the listing"
        assert only_ours or listed <= set(keys), f"nobody wrote {sorted(listed - set(keys))[:5]}"
        return there


class Ledger:
    """The lines, in order; `also` is told each of them too (a mark in a stream, say)."""

    def __init__(self, also=None):
        self.lines = []
        self.lock = threading.Lock()
        self.also = also

    def add(self, step: str, key: str, version: int) -> None:
        line = json.dumps([step, key, version])
        with self.lock:
            self.lines.append(line)
            if self.also:
                self.also(line)

    def promises(self) -> Promises:
        promises = Promises()
        with self.lock:
            for line in self.lines:
                promises.note(line)
        return promises


class Load:
    """Writers at work between `__enter__` and `__exit__`; `errors` are answers that were no success."""

    def __init__(self, client, ledger: Ledger, writers: int = 6, name: str = "w", readers: int = 0):
        self.client, self.ledger = client, ledger
        self.over = threading.Event()
        self.errors, self.slowest, self.steps, self.reads = [], 0.0, 0, 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.write, args=(f"{name}{number}",)) for number in range(writers)]
        self.threads += [threading.Thread(target=self.read, args=(f"{name}{number}",)) for number in range(readers)]
        self.failure = None

    def __enter__(self) -> "Load":
        try:
            self.client.create_bucket(Bucket=BUCKET)
        except self.client.exceptions.BucketAlreadyOwnedByYou:
            pass
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.failure:
            raise self.failure

    def run_until(self, is_enough, patience: float = 120.0) -> None:
        """Lets it run until `is_enough(self)`."""
        deadline = time.monotonic() + patience
        while not is_enough(self):
            assert self.failure is None, self.failure
            assert time.monotonic() < deadline, f"{self.steps} steps and {self.errors[:3]} after {patience:.0f} s"
            time.sleep(0.02)

    def run_for_steps(self, count: int, patience: float = 120.0) -> None:
        """Lets it run for so many more steps."""
        wanted = self.steps + count
        self.run_until(lambda load: load.steps >= wanted, patience)

    def write(self, name: str) -> None:
        number = 0
        while not self.over.is_set():
            key, version = f"{name}/{number}", 1
            number += 1
            if not self.step(key, version):
                continue
            # Some are overwritten, some of those deleted.
            if number % 3 == 0 and self.step(key, 2) and number % 2 == 0:
                self.step(key, ABSENT)

    def step(self, key: str, version: int) -> bool:
        self.ledger.add("try", key, version)
        began = time.monotonic()
        try:
            if version == ABSENT:
                self.client.delete_object(Bucket=BUCKET, Key=key)
            else:
                self.client.put_object(Bucket=BUCKET, Key=key, Body=body(key, version))
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            with self.lock:
                self.errors.append(f"{key}: {error}")
            time.sleep(0.01)
            return False
        self.ledger.add("ack", key, version)
        with self.lock:
            self.steps += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
        return True

    def read(self, name: str) -> None:
        """Reads back, again and again, what is done with: every answer must be right."""
        try:
            while not self.over.is_set():
                promises = self.ledger.promises()
                done = [key for key in promises.acked if key.startswith(f"{name}/") and key not in promises.tried]
                for key in done[:-1][-20:]:
                    version = promises.acked[key]
                    if version == ABSENT or self.over.is_set():
                        continue
                    found = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                    newer = [f for f in self.ledger.promises().allowed(key) if f != ABSENT]
                    assert any(found == body(key, v) for v in {version, *newer}), f"{key} read wrong"
                    with self.lock:
                        self.reads += 1
                time.sleep(0.01)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            with self.lock:
                self.errors.append(f"reading as {name}: {error}")
        except AssertionError as failure:
            self.failure = failure
