"""The socket of vhost-user against frontends and drivers that break its rules: the process lives, the session of who
does so ends or its queue stands still, and the next proper frontend finds its disk.

What it leaves to others: descriptors by chance (block-gateway's own tests), a guest that behaves (test_guest.py).
"""

import mmap
import os
import pathlib
import random
import select
import socket
import struct
import subprocess
import time

import pytest

from harness import Server, free_port, noise, program, wait_for

MIB = 1 << 20
SIZE = 64 * MIB

(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM, SET_VRING_ADDR,
 SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES,
 SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE) = range(1, 19)
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG, GET_INFLIGHT_FD, SET_INFLIGHT_FD = 21, 24, 25, 31, 32
RESET_DEVICE, ADD_MEM_REG, REM_MEM_REG = 34, 37, 38
REPLY, NEED_REPLY = 4, 8
IN, OUT, FLUSH = 0, 1, 4
NEXT, WRITABLE, INDIRECT = 1, 2, 4
OK, IOERR, UNSUPP = 0, 1, 2
EVENT_IDX = 1 << 29

# The guest's memory: rings, then a test's own bytes.
MEMORY, QUEUE, DESCRIPTORS, AVAILABLE, USED, DATA = 4 * MIB, 64, 0x10000, 0x11000, 0x12000, 0x20000
FRONTEND = 0x7F00_0000_0000


class Attached(Server):
    """A server, and a process that serves a volume of it on a socket."""

    def __init__(self, folder):
        super().__init__(folder, dirs=1, extra=("--internal-addr", f"127.0.0.1:{free_port()}"))
        self.socket, self.serving, self.out = folder / "s", None, folder / "attach.log"

    def attach(self, name: str):
        environment = {**self.environment, "BIXI_ADMIN_ADDR": self.admin, "BIXI_CREDENTIALS": str(self.dirs[0] / "credentials")}
        with open(self.out, "wb") as out:
            argv = [program(), "volume", "attach", name, "--vhost-user", str(self.socket)]
            self.serving = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)

        def is_ready():
            assert self.serving.poll() is None, self.out.read_text()
            return "ready" in self.out.read_text(errors="replace").splitlines()

        wait_for("the socket of vhost-user listens", is_ready)

    def rss(self) -> int:
        text = pathlib.Path(f"/proc/{self.serving.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.serving.pid}/fd"))


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    server = Attached(tmp_path_factory.mktemp("vhost"))
    server.start()
    try:
        assert server.command("volume", "create", "disk", "--size", str(SIZE)).returncode == 0
        server.attach("disk")
        yield server
        assert server.serving.poll() is None, server.out.read_text()
        assert "panicked" not in server.out.read_text(errors="replace")
        server.serving.terminate()
        assert server.serving.wait(30) == 0
        assert server.stop() == 0
    finally:
        if server.serving:
            server.serving.kill()
            server.serving.wait()
        server.kill()


@pytest.fixture(autouse=True)
def the_next_one_finds_its_disk(attached):
    yield
    for master in list(Master.open):
        master.close()
    assert attached.serving.poll() is None, attached.out.read_text()
    master = Master(attached).set_up()
    text = noise("next", 4096)
    assert master.request(OUT, 100, text) == OK
    assert master.request(IN, 100, room=4096) == OK
    assert master.get(DATA + 0x1000, 4096) == text
    master.close()


def memory_file(size: int) -> int:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    return fd


def region(guest=0, size=MEMORY, user=FRONTEND, offset=0) -> bytes:
    return struct.pack("=QQQQ", guest, size, user, offset)


class Master:
    """A frontend with its guest's memory."""

    open = []

    def __init__(self, attached):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(12)
        self.socket.connect(str(attached.socket))
        self.memory = memory_file(MEMORY)
        self.map = mmap.mmap(self.memory, MEMORY)
        self.kick, self.call, self.error = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        self.available = self.seen = 0
        Master.open.append(self)

    def close(self):
        if self in Master.open:
            Master.open.remove(self)
        self.socket.close()
        self.map.close()
        for fd in (self.memory, self.kick, self.call, self.error):
            os.close(fd)

    # Messages.

    def send(self, request: int, payload: bytes = b"", fds=(), flags: int = 1, size=None):
        head = struct.pack("=III", request, flags, len(payload) if size is None else size)
        socket.send_fds(self.socket, [head + payload], list(fds))

    def receive(self):
        """The payload of the next answer; None: it hung up."""
        try:
            head, fds, _, _ = socket.recv_fds(self.socket, 12, 8)
            while 0 < len(head) < 12:
                head += self.socket.recv(12 - len(head))
        except ConnectionError:
            return None
        for fd in fds:
            os.close(fd)
        if not head:
            return None
        size = struct.unpack("=III", head)[2]
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece
            data += piece
        return data

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.send(request, payload)
        answer = self.receive()
        assert answer is not None, f"request {request} ended the session"
        return answer

    def do(self, request: int, payload: bytes = b"", fds=()):
        """Sends and waits for the acknowledgement: 0 if it was done."""
        self.send(request, payload, fds, flags=1 | NEED_REPLY)
        answer = self.receive()
        return None if answer is None else struct.unpack("=Q", answer)[0]

    def negotiate(self, without: int = EVENT_IDX) -> "Master":
        self.send(SET_OWNER)
        features = struct.unpack("=Q", self.ask(GET_FEATURES))[0] & ~without
        self.send(SET_FEATURES, struct.pack("=Q", features))
        self.protocol = struct.unpack("=Q", self.ask(GET_PROTOCOL_FEATURES))[0]
        self.send(SET_PROTOCOL_FEATURES, struct.pack("=Q", self.protocol))
        return self

    def share(self) -> "Master":
        assert self.do(SET_MEM_TABLE, struct.pack("=II", 1, 0) + region(), [self.memory]) == 0
        return self

    def set_up(self) -> "Master":
        self.negotiate().share()
        assert self.do(SET_VRING_NUM, struct.pack("=II", 0, QUEUE)) == 0
        assert self.do(SET_VRING_BASE, struct.pack("=II", 0, 0)) == 0
        assert self.do(SET_VRING_ADDR, self.addresses()) == 0
        for request, fd in [(SET_VRING_CALL, self.call), (SET_VRING_ERR, self.error), (SET_VRING_KICK, self.kick)]:
            assert self.do(request, struct.pack("=Q", 0), [fd]) == 0
        assert self.do(SET_VRING_ENABLE, struct.pack("=II", 0, 1)) == 0
        return self

    @staticmethod
    def addresses(descriptors=DESCRIPTORS, used=USED, available=AVAILABLE, index=0, flags=0) -> bytes:
        places = (FRONTEND + descriptors, FRONTEND + used, FRONTEND + available)
        return struct.pack("=II", index, flags) + struct.pack("=QQQQ", *(place & (1 << 64) - 1 for place in places), 0)

    # The driver.

    def put(self, at: int, data: bytes):
        self.map[at : at + len(data)] = data

    def get(self, at: int, size: int) -> bytes:
        return self.map[at : at + size]

    def describe(self, index: int, address: int, size: int, flags: int = 0, next: int = 0, table: int = DESCRIPTORS):
        self.put(table + 16 * index, struct.pack("<QIHH", address, size, flags, next))

    def offer(self, head: int, available=None):
        self.put(AVAILABLE + 4 + 2 * (self.available % QUEUE), struct.pack("<H", head))
        self.available = (self.available + 1) % 65536 if available is None else available
        self.put(AVAILABLE + 2, struct.pack("<H", self.available))
        os.eventfd_write(self.kick, 1)

    def used(self) -> int:
        return struct.unpack("<H", self.get(USED + 2, 2))[0]

    def is_rung(self, fd: int, seconds: float = 10) -> bool:
        is_there = bool(select.select([fd], [], [], seconds)[0])
        if is_there:
            os.eventfd_read(fd)
        return is_there

    def answered(self):
        until = time.monotonic() + 15
        while self.used() == self.seen:
            self.is_rung(self.call, 0.2)
            assert time.monotonic() < until, "no answer"
        self.seen = self.used()

    def request(self, kind: int, sector: int, data: bytes = b"", room: int = 0) -> int:
        """One request from beginning to end: its status."""
        self.put(DATA, struct.pack("<IIQ", kind, 0, sector))
        self.put(DATA + 0x1000, data or b"\xee" * room)
        self.put(DATA + 0x20, b"\xee")
        self.describe(0, DATA, 16, NEXT, 1)
        self.describe(1, DATA + 0x1000, len(data) or room, NEXT | (0 if data else WRITABLE), 2)
        self.describe(2, DATA + 0x20, 1, WRITABLE)
        if not data and not room:
            self.describe(0, DATA, 16, NEXT, 2)
        self.offer(0)
        self.answered()
        return self.get(DATA + 0x20, 1)[0]


def is_over(master):
    """The session ends, or its message was refused."""
    answer = master.receive()
    assert answer is None or answer == b"" or struct.unpack("=Q", answer[:8])[0] != 0, answer


# --- messages ---------------------------------------------------------------------------------


def test_rubbish(attached):
    rng = random.Random(48)
    before = attached.descriptors()
    for turn in range(150):
        master = Master(attached)
        if turn % 2:
            master.negotiate()
        if turn % 3:
            head = struct.pack("=III", rng.randrange(45), rng.choice([1, 1, 9, 5, 0, 0xFFFFFFFF]), rng.choice([0, 8, 40, rng.randrange(5000)]))
            fds = [master.memory] * rng.randrange(4)
            socket.send_fds(master.socket, [head + rng.randbytes(rng.randrange(200))], fds)
        else:
            master.socket.sendall(rng.randbytes(rng.randrange(1, 400)))
        master.close()
    Master(attached).negotiate().close()
    wait_for("no descriptor is left behind", lambda: attached.descriptors() <= before + 8, patience=20)


HEADS = {
    "no version": (GET_FEATURES, 0, 0),
    "another version": (GET_FEATURES, 2, 0),
    "unknown flags": (GET_FEATURES, 0xFFFFFFF1, 0),
    "an answer": (GET_FEATURES, 1 | REPLY, 0),
    "request zero": (0, 1, 0),
    "unknown request": (99, 1, 0),
    "last request": (0xFFFFFFFF, 1, 0),
    "4 GiB follow": (SET_MEM_TABLE, 1, 0xFFFFFFFF),
    "too much follows": (SET_FEATURES, 1, 4097),
    "too little follows": (SET_FEATURES, 1, 4),
    "something follows": (GET_FEATURES, 1, 8),
    "nothing follows": (SET_VRING_ADDR, 1, 0),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("negotiated", [False, True])
def test_heads_of_no_message(attached, head, negotiated):
    master, before = Master(attached), attached.rss()
    if negotiated:
        master.negotiate()
    master.socket.sendall(struct.pack("=III", *head) + bytes(min(head[2], 4097)))
    if head[2] <= 4097:
        is_over(master)
    assert attached.rss() < before + 32 * MIB
    master.close()


def test_half_a_message_holds_the_socket_for_seconds(attached):
    for part in (b"\x01", struct.pack("=III", SET_FEATURES, 1, 8), struct.pack("=III", SET_FEATURES, 1, 8) + b"1234"):
        master = Master(attached)
        master.socket.sendall(part)
        began = time.monotonic()
        is_over(master)
        assert time.monotonic() - began < 12
        master.close()


def table(*regions, count=None) -> bytes:
    return struct.pack("=II", len(regions) if count is None else count, 0) + b"".join(regions)


END = (1 << 64) - 1
TABLES = {
    "nothing": (table(), 0),
    "no descriptor": (table(region()), 0),
    "two descriptors for one": (table(region()), 2),
    "one descriptor for two": (table(region(0, MIB), region(MIB, MIB)), 1),
    "says more than it has": (table(region(), count=2), 2),
    "says 2^32": (table(region(), count=0xFFFFFFFF), 1),
    "more than descriptors can be sent": (table(*(region(number * 4096, 4096) for number in range(33))), 32),
    "empty": (table(region(size=0)), 1),
    "larger than its file": (table(region(size=MEMORY + 4096)), 1),
    "behind its file": (table(region(offset=MEMORY)), 1),
    "offset without an end": (table(region(offset=END - 4095)), 1),
    "odd offset": (table(region(size=4096, offset=1)), 1),
    "guest address without an end": (table(region(guest=END - 4095)), 1),
    "our address without an end": (table(region(user=END - 4095)), 1),
    "everything": (table(region(size=END)), 1),
    "overlapping": (table(region(0, 2 * MIB), region(MIB, 2 * MIB)), 2),
    "twice the same": (table(region(), region()), 2),
}


@pytest.mark.parametrize("payload, count", TABLES.values(), ids=TABLES.keys())
def test_memory_that_cannot_be(attached, payload, count):
    master = Master(attached).negotiate()
    assert master.do(SET_MEM_TABLE, payload, [master.memory] * count) != 0
    master.close()


@pytest.mark.parametrize("kind", ["pipe", "socket", "eventfd", "folder", "closed for reading", "empty"])
def test_memory_that_is_no_file(attached, kind, tmp_path):
    ends = []
    if kind == "pipe":
        ends = list(os.pipe())
    elif kind == "socket":
        ends = [one.detach() for one in socket.socketpair()]
    elif kind == "eventfd":
        ends = [os.eventfd(0)]
    elif kind == "folder":
        ends = [os.open(tmp_path, os.O_RDONLY)]
    elif kind == "empty":
        ends = [memory_file(0)]
    else:
        ends = [os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)]
        os.ftruncate(ends[0], MEMORY)
    for request in (SET_MEM_TABLE, ADD_MEM_REG):
        master = Master(attached).negotiate()
        payload = table(region()) if request == SET_MEM_TABLE else struct.pack("=Q", 0) + region()
        assert master.do(request, payload, [ends[0]]) != 0
        master.close()
    for fd in ends:
        os.close(fd)


def test_memory_piece_by_piece(attached):
    master = Master(attached).negotiate()
    one = struct.pack("=Q", 0)
    assert master.do(ADD_MEM_REG, one + region(0, MIB), [master.memory]) == 0
    master.send(REM_MEM_REG, one + region(0, 2 * MIB), flags=1 | NEED_REPLY)
    is_over(master)
    master.close()
    for spoil in (one + region(MIB // 2, MIB), one + region(2 * MIB, 0), one + region(END - 4095, MIB), bytes(8)):
        master = Master(attached).negotiate()
        assert master.do(ADD_MEM_REG, one + region(0, MIB), [master.memory]) == 0
        assert master.do(ADD_MEM_REG, spoil, [master.memory]) != 0
        master.close()


RINGS = {
    "no size": (SET_VRING_NUM, struct.pack("=II", 0, 0)),
    "odd size": (SET_VRING_NUM, struct.pack("=II", 0, 3)),
    "large size": (SET_VRING_NUM, struct.pack("=II", 0, 65536)),
    "largest size": (SET_VRING_NUM, struct.pack("=II", 0, 0xFFFFFFFF)),
    "size of a ring that is not": (SET_VRING_NUM, struct.pack("=II", 16, 64)),
    "size of ring 2^32": (SET_VRING_NUM, struct.pack("=II", 0xFFFFFFFF, 64)),
    "base of a ring that is not": (SET_VRING_BASE, struct.pack("=II", 99, 0)),
    "enabling a ring that is not": (SET_VRING_ENABLE, struct.pack("=II", 99, 1)),
    "half enabled": (SET_VRING_ENABLE, struct.pack("=II", 0, 2)),
    "descriptors outside": (SET_VRING_ADDR, Master.addresses(descriptors=MEMORY)),
    "used outside": (SET_VRING_ADDR, Master.addresses(used=MEMORY)),
    "available outside": (SET_VRING_ADDR, Master.addresses(available=-4096)),
    "descriptors at an odd place": (SET_VRING_ADDR, Master.addresses(descriptors=DESCRIPTORS + 8)),
    "used at an odd place": (SET_VRING_ADDR, Master.addresses(used=USED + 2)),
    "available at an odd place": (SET_VRING_ADDR, Master.addresses(available=AVAILABLE + 1)),
    "addresses of a ring that is not": (SET_VRING_ADDR, Master.addresses(index=77)),
    "everything nowhere": (SET_VRING_ADDR, struct.pack("=II", 0, 0) + b"\xff" * 32),
    "unknown flags of addresses": (SET_VRING_ADDR, Master.addresses(flags=0xFFFFFFFE)),
    "kick of a ring that is not": (SET_VRING_KICK, struct.pack("=Q", 0xFE | 0x100)),
    "kick without a descriptor": (SET_VRING_KICK, struct.pack("=Q", 0)),
    "a ring that is not kicked": (SET_VRING_KICK, struct.pack("=Q", 0x100)),
    "features that are not offered": (SET_FEATURES, struct.pack("=Q", END)),
    "memory for nothing under way": (GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 0, 0, 0)),
    "memory for too much under way": (GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 65535, 65535, 0)),
    "configuration of nothing": (SET_CONFIG, struct.pack("=III", 0, 4, 0) + bytes(4)),
    "an unfit reset": (RESET_DEVICE, b""),
    "a log": (SET_LOG_BASE, struct.pack("=QQ", MIB, 0)),
    "a channel without its descriptor": (SET_BACKEND_REQ_FD, b""),
    "base asked of a ring that is not": (GET_VRING_BASE, struct.pack("=II", 99, 0)),
}


@pytest.mark.parametrize("request_, payload", RINGS.values(), ids=RINGS.keys())
def test_rings_that_cannot_be(attached, request_, payload):
    before = attached.rss()
    master = Master(attached).negotiate().share()
    master.send(request_, payload, flags=1 | NEED_REPLY)
    master.socket.settimeout(1)
    try:
        master.receive()
    except TimeoutError:
        pass
    master.close()
    # The same before there is any memory, and before anything is agreed on.
    for master in (Master(attached).negotiate(), Master(attached)):
        master.send(request_, payload)
        master.close()
    assert attached.rss() < before + 32 * MIB


@pytest.mark.parametrize("offset, size", [(0, 0), (0, 4096), (60, 1), (4095, 2), (0xFFFFFFFF, 1), (0, 0xFFFFFFFF), (4096, 4096)])
def test_questions_about_the_configuration(attached, offset, size):
    master = Master(attached).negotiate()
    master.send(GET_CONFIG, struct.pack("=III", offset, size, 0) + bytes(min(size, 5000)))
    master.socket.settimeout(7)
    answer = master.receive()
    assert answer is None or len(answer) <= 12 + 4096
    master.close()


@pytest.mark.parametrize("kind", ["file", "folder", "closed pipe", "socket", "memory", "the connection"])
@pytest.mark.parametrize("request_", [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR])
def test_events_that_are_none(attached, kind, request_, tmp_path):
    master = Master(attached).set_up()
    assert master.request(FLUSH, 0) == OK
    master.send(GET_VRING_BASE, struct.pack("=II", 0, 0))
    master.receive()
    other = None
    if kind == "file":
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    elif kind == "folder":
        fd = os.open(tmp_path, os.O_RDONLY)
    elif kind == "closed pipe":
        other, fd = os.pipe()
        os.close(other)
        other = None
    elif kind == "socket":
        other, fd = (one.detach() for one in socket.socketpair())
    elif kind == "memory":
        fd = os.dup(master.memory)
    else:
        fd = os.dup(master.socket.fileno())
    master.send(request_, struct.pack("=Q", 0), [fd], flags=1 | NEED_REPLY)
    try:
        master.socket.settimeout(2)
        master.receive()
        if request_ != SET_VRING_KICK:
            master.send(SET_VRING_KICK, struct.pack("=Q", 0), [master.kick], flags=1 | NEED_REPLY)
            master.receive()
        master.describe(0, DATA, 16, NEXT, 1)
        master.describe(1, DATA + 0x20, 1, WRITABLE)
        master.put(DATA, struct.pack("<IIQ", FLUSH, 0, 0))
        master.offer(0)
        time.sleep(0.05)
    except (OSError, AssertionError):
        pass
    os.close(fd)
    if other is not None:
        os.close(other)
    master.close()


def test_one_kick_for_all_rings(attached):
    """What one ring has heard the other must not wait for. Blocking descriptors, which QEMU never has."""
    master = Master(attached)
    os.close(master.kick)
    master.kick = os.eventfd(0)
    master.set_up()
    for index in (1, 2, 3):
        fd = os.dup(master.kick)
        assert master.do(SET_VRING_KICK, struct.pack("=Q", index), [fd]) == 0
        os.close(fd)
    for _ in range(20):
        assert master.request(OUT, 7, b"x" * 512) == OK
    master.close()


def test_kicks_before_anything_is_set_up(attached):
    for enabled in (False, True):
        master = Master(attached).negotiate()
        if enabled:
            master.do(SET_VRING_ENABLE, struct.pack("=II", 0, 1))
        master.do(SET_VRING_KICK, struct.pack("=Q", 0), [master.kick])
        for _ in range(3):
            os.eventfd_write(master.kick, 1)
            time.sleep(0.02)
        master.send(GET_FEATURES)
        assert master.receive() is not None, "the queue stands still, the session goes on"
        master.close()


@pytest.mark.parametrize("told", [
    struct.pack("=QQHHI", 1 << 40, 0, 16, 1024, 0), struct.pack("=QQHHI", 4096, 0, 65535, 1024, 0),
    struct.pack("=QQHHI", 4096, END - 4095, 1, 64, 0), struct.pack("=QQHHI", 4096, 1, 1, 64, 0),
    struct.pack("=QQHHI", 64, 0, 1, 64, 0), struct.pack("=QQHHI", 0, 0, 0, 0, 0), struct.pack("=QQHHI", MIB, 0, 1, 65535, 0),
], ids=range(7))
def test_memory_of_what_is_under_way_that_lies(attached, told):
    master = Master(attached).negotiate()
    fd = memory_file(4096)
    assert master.do(SET_INFLIGHT_FD, told, [fd]) != 0
    os.close(fd)
    master.close()


def test_memory_of_what_is_under_way_that_is_damaged(attached):
    rng = random.Random(7)
    for turn in range(25):
        master = Master(attached).negotiate().share()
        fd = memory_file(4096)
        damage = bytearray(rng.randbytes(4096) if turn % 2 else bytes(4096))
        if turn % 3:
            struct.pack_into("<HHHH", damage, 8, 1, QUEUE, rng.randrange(70000) % 65536, rng.randrange(65536))
        for head in range(QUEUE):
            damage[16 + 16 * head] = rng.randrange(3)
        os.pwrite(fd, damage, 0)
        master.do(SET_INFLIGHT_FD, struct.pack("=QQHHI", 4096, 0, 1, QUEUE, 0), [fd])
        try:
            master.do(SET_VRING_NUM, struct.pack("=II", 0, QUEUE))
            master.do(SET_VRING_ADDR, master.addresses())
            master.do(SET_VRING_KICK, struct.pack("=Q", 0), [master.kick])
            master.do(SET_VRING_ENABLE, struct.pack("=II", 0, 1))
            os.eventfd_write(master.kick, 1)
            master.ask(GET_FEATURES)
        except (OSError, AssertionError):
            pass
        os.close(fd)
        master.close()


# --- drivers ----------------------------------------------------------------------------------


def spoiled(attached, spoil) -> None:
    """The queue stands still and says so, and nothing was answered."""
    master = Master(attached).set_up()
    assert master.request(FLUSH, 0) == OK
    began = time.monotonic()
    spoil(master)
    assert master.is_rung(master.error), "the frontend hears of it"
    assert time.monotonic() - began < 10, "and soon"
    assert master.used() == 1
    master.ask(GET_FEATURES)
    master.close()


def head(master, kind=IN):
    master.put(DATA, struct.pack("<IIQ", kind, 0, 0))


CHAINS = {
    "circle of one": [(0, DATA, 16, NEXT, 0)],
    "circle of two": [(0, DATA, 16, NEXT, 1), (1, DATA, 16, NEXT, 0)],
    "circle of nothing": [(0, DATA, 0, NEXT, 0)],
    "next outside": [(0, DATA, 16, NEXT, QUEUE)],
    "next far outside": [(0, DATA, 16, NEXT, 65535)],
    "no status": [(0, DATA, 16, 0, 0)],
    "status nowhere": [(0, DATA, 16, NEXT, 1), (1, MEMORY, 1, WRITABLE, 0)],
    "status at the end of all addresses": [(0, DATA, 16, NEXT, 1), (1, END, 2, WRITABLE, 0)],
    "empty table": [(0, DATA, 0, INDIRECT, 0)],
    "half a table": [(0, DATA, 24, INDIRECT, 0)],
    "table nowhere": [(0, MEMORY, 32, INDIRECT, 0)],
    "table and more": [(0, DATA, 32, INDIRECT | NEXT, 1)],
}


@pytest.mark.parametrize("descriptors", CHAINS.values(), ids=CHAINS.keys())
def test_chains_that_do_not_end(attached, descriptors):
    def spoil(master):
        head(master)
        for descriptor in descriptors:
            master.describe(*descriptor)
        master.offer(0)

    spoiled(attached, spoil)


def test_tables_in_tables(attached):
    def nested(master):
        master.describe(0, DATA, 16, INDIRECT, table=DATA)
        master.describe(0, DATA, 16, INDIRECT)
        master.offer(0)

    spoiled(attached, nested)


def test_a_table_as_large_as_can_be_said(attached):
    def circle(master):
        master.describe(0, DATA, 0, NEXT, 0, table=DATA)
        master.describe(0, DATA, 0xFFFFFFF0, INDIRECT)
        master.offer(0)

    spoiled(attached, circle)


@pytest.mark.parametrize("first, available", [(QUEUE, None), (65535, None), (0, 1 + QUEUE + 1), (0, 40_000)])
def test_available_rings_that_lie(attached, first, available):
    spoiled(attached, lambda master: master.offer(first, available))


@pytest.mark.parametrize(
    "kind, sector, data, room",
    [
        (OUT, SIZE // 512, b"x" * 512, 0),
        (OUT, SIZE // 512 - 1, b"x" * 1024, 0),
        (OUT, END // 512, b"x" * 512, 0),
        (OUT, END, b"x" * 512, 0),
        (OUT, 0, b"x" * 511, 0),
        (IN, SIZE // 512, b"", 512),
        (IN, END // 512, b"", 512),
        (IN, 0, b"", 513),
        (11, 0, b"x" * 15, 0),
        (11, 0, struct.pack("<QII", END, 1, 0), 0),
        (11, 0, struct.pack("<QII", 0, 0xFFFFFFFF, 0), 0),
        (13, 0, struct.pack("<QII", SIZE // 512, 8, 0), 0),
        (11, 0, struct.pack("<QII", 0, 8, 0) * 17, 0),
    ],
)
def test_requests_that_make_no_sense(attached, kind, sector, data, room):
    master = Master(attached).set_up()
    assert master.request(kind, sector, data, room) == IOERR
    assert master.request(77, 0, b"?" * 512) == UNSUPP
    assert master.request(11, 0, struct.pack("<QII", 0, 8, 0xFFFFFFFF)) == UNSUPP
    assert master.request(OUT, 0, b"x" * 512) == OK
    master.close()


def test_a_read_of_more_than_the_memory_has(attached):
    master, before = Master(attached).set_up(), attached.rss()
    head(master)
    master.describe(0, DATA, 16, NEXT, 1)
    for index in range(1, QUEUE - 1):
        master.describe(index, 0, 0xFFFFFE00, WRITABLE | NEXT, index + 1)
    master.describe(QUEUE - 1, DATA + 0x20, 1, WRITABLE)
    master.put(DATA + 0x20, b"\xee")
    for _ in range(3):
        master.offer(0)
        master.answered()
        assert master.get(DATA + 0x20, 1)[0] == IOERR
    assert attached.rss() < before + 32 * MIB
    master.close()


def test_one_head_many_times(attached):
    master = Master(attached).set_up()
    master.put(DATA, struct.pack("<IIQ", OUT, 0, 0))
    master.describe(0, DATA, 16, NEXT, 1)
    master.describe(1, DATA + 0x1000, MIB, NEXT, 2)
    master.describe(2, DATA + 0x20, 1, WRITABLE)
    for entry in range(QUEUE):
        master.put(AVAILABLE + 4 + 2 * entry, struct.pack("<H", 0))
    master.put(AVAILABLE + 2, struct.pack("<H", 32))
    os.eventfd_write(master.kick, 1)
    assert master.is_rung(master.error) or master.used()
    master.ask(GET_FEATURES)
    master.close()


def test_frontends_that_come_and_go(attached):
    before = attached.descriptors()
    for turn in range(60):
        master = Master(attached)
        if turn % 3:
            master.set_up()
        if turn % 3 == 2:
            master.put(DATA, struct.pack("<IIQ", OUT, 0, 0))
            master.describe(0, DATA, 16, NEXT, 1)
            master.describe(1, DATA + 0x1000, MIB, NEXT, 2)
            master.describe(2, DATA + 0x20, 1, WRITABLE)
            master.offer(0)
        master.close()
    wait_for("no descriptor is left behind", lambda: attached.descriptors() <= before + 8, patience=20)
