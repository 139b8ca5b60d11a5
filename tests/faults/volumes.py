"""Volumes under load: what each block may hold, who writes to it, and nodes and processes that serve it.

    notes = Notes(SIZE)
    with Load(lambda: Nbd(address).go("disk"), notes) as load: ...      things happen
    notes.check(Nbd(other).go("disk"))       every block holds what it may, byte for byte

Each block belongs to one writer, which writes or clears it over and over, one step after the other. While a
step is under way, and after one that failed, a block of it is as before or as that step makes it.
"""

import http.server
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import threading
import time

from harness import Cluster, Server, free_port, program, wait_for
from nbd import Nbd

MIB = 1 << 20
BLOCK = 4096
# What `read` and `check` ask for at once.
SPAN = 4 * MIB
ZEROES = bytes(BLOCK)


def content(block: int, version: int) -> bytes:
    """What a block holds; version 0 is nothing."""
    return struct.pack("<QQ", block + 1, version) * (BLOCK // 16) if version else ZEROES


class Notes:
    """For each block: the version that was acked last, and those that may have come since."""

    def __init__(self, size: int, also=None):
        """`also` is told each step too (a mark in a stream, say)."""
        self.count, self.also = size // BLOCK, also
        self.acked, self.tried = [0] * self.count, {}
        self.versions = 0
        self.lock = threading.Lock()

    def version(self) -> int:
        """A version that no block had yet."""
        with self.lock:
            self.versions += 1
            return self.versions

    def begin(self, first: int, count: int, version: int) -> None:
        with self.lock:
            for block in range(first, first + count):
                self.tried.setdefault(block, set()).add(version)
            self.tell("try", first, count, version)

    def done(self, first: int, count: int, version: int) -> None:
        with self.lock:
            for block in range(first, first + count):
                self.acked[block] = version
                self.tried.pop(block, None)
            self.tell("ack", first, count, version)

    def tell(self, *step) -> None:
        if self.also:
            self.also(json.dumps(step))

    def follow(self, line: str) -> None:
        """A step of other notes."""
        step, first, count, version = json.loads(line)
        (self.begin if step == "try" else self.done)(first, count, version)

    def allowed(self, block: int) -> set:
        return {self.acked[block], *self.tried.get(block, ())}

    def check(self, disk) -> list:
        """Fails if a block is not as it may be; answers the versions that are there. Hangs up."""
        try:
            return self.check_bytes(whole(disk, self.count * BLOCK))
        finally:
            disk.close()

    def check_bytes(self, data: bytes) -> list:
        view, found = memoryview(data), []
        for block in range(self.count):
            here = view[block * BLOCK : (block + 1) * BLOCK]
            right = [version for version in self.allowed(block) if here == content(block, version)]
            if not right:
                owner, version = struct.unpack("<QQ", here[:16])
                what = f"version {version} of block {owner - 1}" if owner else "zeroes, or some"
                raise AssertionError(f"block {block} may be {sorted(self.allowed(block))} and holds {what}")
            found.append(right[0])
        return found

    def settle(self, versions: list) -> None:
        """From now on the blocks are what they were seen to be."""
        self.acked, self.tried = list(versions), {}


def whole(disk, size: int) -> bytes:
    return b"".join(disk.read(at, min(SPAN, size - at)) for at in range(0, size, SPAN))


class Load:
    """Writers that also read back what they wrote. `connect` makes a connection for each; `errors` are answers
    that were no success; `pace`: MiB a second of all together."""

    def __init__(self, connect, notes: Notes, depth: int = 16, most: int = 16, pace: float = 0.0, clears: float = 0.1):
        self.connect, self.notes, self.most, self.pace, self.clears = connect, notes, most, pace, clears
        self.over, self.lock = threading.Event(), threading.Lock()
        self.errors, self.ends, self.longest, self.bytes = [], [], (0.0, 0.0), 0
        share = notes.count // depth
        arguments = [(number, range(number * share, (number + 1) * share)) for number in range(depth)]
        self.depth = depth
        self.threads = [threading.Thread(target=self.work, args=one, daemon=True) for one in arguments]

    def __enter__(self) -> "Load":
        self.disks = [self.connect() for _ in self.threads]
        self.began = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self, patience: float = 60.0) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(patience)
            assert not thread.is_alive(), f"a step was not answered within {patience:.0f} s"
        for disk in self.disks:
            disk.close()

    def work(self, number: int, blocks: range) -> None:
        rng, disk, mine = random.Random(number), self.disks[number], 0
        try:
            while not self.over.is_set():
                count = rng.randint(1, self.most)
                first = rng.randrange(blocks.start, blocks.stop - count)
                began = time.monotonic()
                if rng.random() < 0.25:
                    self.read(disk, first, count)
                else:
                    self.change(disk, first, count, 0 if rng.random() < self.clears else self.notes.version())
                self.ended(began, count * BLOCK)
                mine += count * BLOCK
                if self.pace:
                    due = self.began + mine / MIB / (self.pace / self.depth)
                    time.sleep(max(0.0, due - time.monotonic()))
        except Exception as error:  # noqa: BLE001, whatever it is, it is told
            if not self.over.is_set() or isinstance(error, AssertionError):
                self.errors.append((time.monotonic(), f"{number}: {error!r}"))

    def change(self, disk, first: int, count: int, version: int) -> None:
        self.notes.begin(first, count, version)
        if version:
            disk.write(first * BLOCK, b"".join(content(block, version) for block in range(first, first + count)))
        else:
            disk.trim(first * BLOCK, count * BLOCK)
        self.notes.done(first, count, version)

    def read(self, disk, first: int, count: int) -> None:
        found = disk.read(first * BLOCK, count * BLOCK)
        for block in range(first, first + count):
            here, allowed = found[:BLOCK], self.notes.allowed(block)
            found = found[BLOCK:]
            assert any(here == content(block, one) for one in allowed), f"block {block} was read and is none of {allowed}"

    def ended(self, began: float, count: int) -> None:
        now = time.monotonic()
        with self.lock:
            self.ends.append(now)
            self.bytes += count
            self.longest = max(self.longest, (now - began, began))

    def run(self, seconds: float) -> None:
        """Lets it run, and fails at the first error."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.errors == [], self.errors[:3]
            time.sleep(0.02)

    def stall(self, begin: float) -> float:
        """The longest time since then in which nothing was answered."""
        with self.lock:
            ends = [begin, *(at for at in self.ends if at >= begin)]
        return max((later - earlier for earlier, later in zip(ends, ends[1:])), default=0.0)

    def figures(self, since: float) -> str:
        seconds = self.ends[-1] - self.began
        return (
            f"{len(self.ends)} steps, {self.bytes / MIB / seconds:.0f} MiB/s, longest step {self.longest[0] * 1000:.0f} ms "
            f"({self.longest[1] - since:+.1f} s), longest time without an answer {self.stall(since) * 1000:.0f} ms"
        )


class Attached:
    """A `bixi volume attach` process that serves a volume by NBD on a socket. `door`: a server, or a `DevDoor`."""

    def __init__(self, door, name: str, socket: pathlib.Path):
        self.socket, self.log, self.name = socket, socket.with_suffix(".log"), name
        environment = {**os.environ, "BIXI_ADMIN_ADDR": door.admin, "BIXI_CREDENTIALS": str(door.credentials_path)}
        self.began = time.monotonic()
        with open(self.log, "wb") as out:
            argv = [program(), "volume", "attach", name, "--nbd-unix", str(socket)]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> "Attached":
        """Until it serves."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"attaching ended with {self.process.returncode}: {self.text()}"
            return "ready" in self.text().splitlines()

        try:
            wait_for(f"{self.name} is served at {self.socket}", is_ready, pause=0.01)
        except BaseException:
            self.kill()
            raise
        return self

    def connect(self) -> Nbd:
        return Nbd(f"unix:{self.socket}").go(self.name)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> int:
        """Gives the volume up and ends."""
        self.signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Node(Server):
    """A `bixi server` that is a node of a cluster and serves volumes."""

    def __init__(self, folder: pathlib.Path, name: str):
        self.name, self.internal, self.nbd = name, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        super().__init__(folder / name, dirs=1, extra=("--nbd-addr", self.nbd))

    def told(self, *words, **more) -> str:
        done = self.command(*words, text=True, **more)
        assert done.returncode == 0, (words, done)
        return done.stdout

    def connect(self, name: str) -> Nbd:
        return Nbd(self.nbd).go(name)


class Nodes:
    """A cluster of nodes, each with a directory, a door for volumes and, three of them, a metaserver."""

    def __init__(self, folder: pathlib.Path, count: int):
        self.all = [Node(folder, name) for name in "abcdefgh"[:count]]

    def __enter__(self) -> "Nodes":
        first = self.all[0]
        try:
            self.run("init", first, *map(str, first.dirs))
            first.start()
            for node in self.all[1:]:
                token = first.told("cluster", "token").strip()
                self.run("join", node, token, *map(str, node.dirs))
                node.start()
            first.told("cluster", "set-redundancy", "copies:3")
            wait_for("metadata is on three nodes", lambda: first.status()["meta"]["voters"] == 3)
            wait_for("new data has three copies", lambda: first.status()["redundancy"] == "copies:3")
        except BaseException:
            self.__exit__()
            raise
        return self

    def run(self, what: str, node: Node, *words) -> None:
        described = ["--internal-addr", node.internal, "--name", node.name]
        done = subprocess.run([program(), "cluster", what, *words, *described], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done

    def __exit__(self, *_):
        for node in self.all:
            node.kill()

    def leader(self, asked: Node) -> Node:
        """The node of the leading metaserver, as `asked` sees it."""
        leader = wait_for("there is a leader", lambda: asked.status()["meta"]["leader"])
        return next(node for node in self.all if node.name == leader or node.internal == leader)


class DevDoor:
    """Has hosts attach volumes of a `bixi dev` cluster, whose metaservers are processes of their own: it gives out
    the pass of the cluster's S3 process, which may read and write as those may that nodes give out."""

    def __init__(self, cluster: Cluster):
        home = cluster.data("s3")
        self.credentials_path = home / "credentials"
        identity = (home / "identity").read_bytes()
        self.told = {
            "cluster": f"{int.from_bytes(identity[8:16], 'little'):016x}",
            "secret": identity[64:96].hex(),
            "addresses": list(json.loads((home / "members").read_text())["founders"].values()),
            "certificates": json.loads((home / "tls.json").read_text()),
        }
        door = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.dumps(door.told).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.admin = f"127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "DevDoor":
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
