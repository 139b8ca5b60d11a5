"""Clients of NBD that break its rules (SECURITY, attack list 48 to 52): the protocol's own error, the session lives on
where the protocol says so, and nobody else notices.

What it leaves to others: errors of ordinary requests (test_nbd.py), the socket of vhost-user (test_vhost_attacks.py).
"""

import os
import pathlib
import random
import socket
import struct
import threading
import time

import pytest

from harness import noise, wait_for
from nbd import (
    ABORT, ACK, CACHE, DF, EINVAL, ENOSPC, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, EXPORT_NAME, EXTENDED, FLUSH,
    FUA, GO, INFO, LIST, LIST_CONTEXT, OPTION, PAYLOAD_LEN, READ, REQ_ONE, SET_CONTEXT, STATUS, STRUCTURED, TRIM, WRITE,
    ZEROES, Nbd, NbdError,
)
from test_nbd import MIB, Nbdserver

SIZE = 64 * MIB
END = (1 << 64) - 1
STARTTLS, ERR_POLICY, ERR_EXT_HEADER_REQD = 5, 0x80000002, 0x8000000A
EPERM, PAYLOAD_MAX, NAME_MAX = 1, 32 * MIB, 4096
# Connections that the server holds at once, and what may stand in its sockets and pools beside a client's budget.
CONNECTIONS_MAX, SLACK = 512, 96 * MIB


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Nbdserver(tmp_path_factory.mktemp("attacks"))
    server.start()
    server.make("disk", SIZE)
    server.make("frozen", SIZE)
    Nbd(server.nbd).go("frozen").write(0, b"frozen")
    assert server.command("volume", "snapshot", "frozen@s").returncode == 0
    pid = server.process.pid
    yield server
    assert server.process.pid == pid and server.process.poll() is None, "it has lived through all of it"
    assert "panicked" not in server.log.read_text(errors="replace")
    assert server.stop() == 0


@pytest.fixture(autouse=True)
def others_notice_nothing(server):
    yield
    client = Nbd(server.nbd, timeout=20).go("disk")
    client.write(SIZE - 4096, b"still here")
    assert client.read(SIZE - 4096, 10) == b"still here"
    client.disconnect()


def rss(server) -> int:
    """Bytes of memory of the server."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def hangs_up(client, seconds: float = 10):
    client.socket.settimeout(seconds)
    try:
        while client.socket.recv(65536):
            pass
    except ConnectionError:
        pass


def lives(client):
    assert client.option(LIST)[-1][0] == ACK


def refused(client, number, *request, **more):
    with pytest.raises(NbdError) as error:
        client.ask(*request, **more)
    assert error.value.number == number, (request, more, error.value)


def ready(server, mode="structured", name="disk", contexts=True) -> Nbd:
    client = Nbd(server.nbd)
    if mode != "simple":
        client.upgrade(STRUCTURED if mode == "structured" else EXTENDED)
        if contexts:
            client.contexts(name, "base:allocation")
    return client.go(name)


def raw_option(client, option, length, data=b"", magic=OPTION):
    client.socket.sendall(struct.pack(">QII", magic, option, length) + data)


# --- the handshake ----------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [4, 1 << 31, 0xFFFFFFFF, 0xFFFF0000])
def test_unknown_flags_of_a_client(server, flags):
    hangs_up(Nbd(server.nbd, flags=flags))


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_known_flags_of_a_client(server, flags):
    client = Nbd(server.nbd, flags=flags).go("disk")
    assert client.size == SIZE


@pytest.mark.parametrize("magic", [0, 0x0003E889045565A9, OPTION ^ 1, OPTION << 8 & END])
def test_options_that_do_not_begin_as_one(server, magic):
    client = Nbd(server.nbd)
    raw_option(client, LIST, 0, magic=magic)
    hangs_up(client)


@pytest.mark.parametrize("option", [GO, INFO, LIST, SET_CONTEXT, EXPORT_NAME, ABORT, 0, 4, 77, 1 << 31, 0xFFFFFFFF])
@pytest.mark.parametrize("length", [33 * MIB, 1 << 31, 0xFFFFFFFF])
def test_lengths_that_nobody_would_read_to_their_end(server, option, length):
    client, before = Nbd(server.nbd), rss(server)
    raw_option(client, option, length)
    hangs_up(client)
    assert rss(server) < before + SLACK


def test_a_length_is_not_believed_before_its_bytes_are_there(server):
    before, held = rss(server), []
    for number in range(200):
        held.append(Nbd(server.nbd))
        raw_option(held[-1], GO if number % 2 else 99, 32 * MIB if number % 3 else 64 << 10, b"x" * 1000)
    time.sleep(0.3)
    assert rss(server) < before + SLACK
    lives(Nbd(server.nbd))
    for client in held:
        client.close()


def test_long_options_are_skipped(server):
    client = Nbd(server.nbd)
    for option in (GO, INFO, LIST, SET_CONTEXT, LIST_CONTEXT, STRUCTURED, 99):
        assert client.option(option, bytes(MIB))[-1][0] in (ERR_TOO_BIG, ERR_UNSUP)
    assert client.option(GO, bytes(8 * MIB))[-1][0] == ERR_TOO_BIG
    lives(client)
    client.go("disk")
    client = Nbd(server.nbd)
    raw_option(client, EXPORT_NAME, MIB, bytes(MIB))
    hangs_up(client)


def test_unknown_options_in_numbers(server):
    client = Nbd(server.nbd)
    batch = b"".join(struct.pack(">QII", OPTION, option, 3) + b"abc" for option in range(1000, 2000))
    for _ in range(10):
        client.socket.sendall(batch)
        for _ in range(1000):
            magic, _, kind, length = struct.unpack(">QIII", client.take(20))
            assert (magic, kind) == (0x0003E889045565A9, ERR_UNSUP)
            client.take(length)
    lives(client)


@pytest.mark.parametrize("option", [LIST, STRUCTURED, EXTENDED])
def test_data_where_there_is_none(server, option):
    client = Nbd(server.nbd)
    for data in (b"\0", b"disk", bytes(4096)):
        assert client.option(option, data)[-1][0] == ERR_INVALID
    lives(client)


def test_abort_and_what_comes_behind_it(server):
    client = Nbd(server.nbd)
    assert client.option(ABORT, b"why not")[-1][0] == ACK
    hangs_up(client)


def test_there_is_no_tls_to_fall_back_from(server):
    client = Nbd(server.nbd)
    assert client.option(STARTTLS)[-1][0] in (ERR_UNSUP, ERR_POLICY)
    lives(client)
    # A TLS hello to a server that speaks plainly.
    client.socket.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    hangs_up(client)


def text(name: bytes, length=None) -> bytes:
    return struct.pack(">I", len(name) if length is None else length) + name


@pytest.mark.parametrize("option", [INFO, GO])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        text(b"disk"),
        text(b"disk") + b"\0",
        text(b"disk") + b"\0\1",
        text(b"disk") + b"\0\1\0",
        text(b"disk") + b"\xff\xff",
        text(b"disk") + b"\xff\xff\0\3",
        text(b"disk") + b"\0\0\0",
        text(b"disk") + b"\0\1\0\3\0",
        text(b"disk", 5) + b"\0\0",
        text(b"disk", 0xFFFFFFFF) + b"\0\0",
        text(b"disk", 0xFFFFFFFC) + b"\0\0",
        text(b"disk", 0x7FFFFFFF) + b"\0\0",
        text(b"\xff\xfe") + b"\0\0",
        b"\xff" * 6,
    ],
    ids=lambda data: data.hex()[:40],
)
def test_questions_whose_lengths_disagree(server, option, data):
    client = Nbd(server.nbd)
    assert client.option(option, data)[-1][0] == ERR_INVALID
    lives(client)
    assert client.go("disk").size == SIZE


def test_more_kinds_of_information_than_there_are(server):
    client = Nbd(server.nbd)
    kinds = b"".join(struct.pack(">H", kind) for kind in range(30_000))
    answers = client.option(INFO, text(b"disk") + struct.pack(">H", 30_000) + kinds)
    assert answers[-1][0] == ACK and len(answers) < 8
    assert client.option(GO, text(b"disk") + b"\0\3\0\3\0\3\0\3")[-1][0] == ACK


NAMES = ["../disk", "/disk", "disk/", "disk\0", "disk@", "@", "@s", "frozen@s@s", "frozen@none", "disk@../frozen", "DISK",
         "a" * 64, "a" * 4096, "", ".", "\u00fc", "disk\n", "frozen@" + "s" * 4000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_names_of_nothing(server, name):
    client = Nbd(server.nbd)
    for option in (INFO, GO):
        with pytest.raises(NbdError) as error:
            client.done(option, text(name.encode()) + b"\0\0")
        assert error.value.number == ERR_UNKNOWN
    client.upgrade(STRUCTURED)
    for option in (LIST_CONTEXT, SET_CONTEXT):
        assert client.option(option, text(name.encode()) + bytes(4))[-1][0] == ERR_UNKNOWN
    lives(client)
    client.socket.sendall(struct.pack(">QII", OPTION, EXPORT_NAME, len(name.encode())) + name.encode())
    hangs_up(client)


@pytest.mark.parametrize("length", [NAME_MAX + 1, 60_000])
def test_names_that_are_too_long(server, length):
    client = Nbd(server.nbd)
    for option in (INFO, GO):
        assert client.option(option, text(b"a" * length) + b"\0\0")[-1][0] in (ERR_TOO_BIG, ERR_INVALID, ERR_UNKNOWN)
    lives(client)
    client.socket.sendall(struct.pack(">QII", OPTION, EXPORT_NAME, length) + b"a" * length)
    hangs_up(client)


def test_oldest_way_in_with_no_text(server):
    client = Nbd(server.nbd)
    client.socket.sendall(struct.pack(">QII", OPTION, EXPORT_NAME, 4) + b"\xff\xfe\xfd\xfc")
    hangs_up(client)


CONTEXTS = [
    b"",
    b"\0\0\0",
    text(b"disk"),
    text(b"disk") + b"\0\0\0",
    text(b"disk") + b"\0\0\0\1",
    text(b"disk") + b"\xff\xff\xff\xff",
    text(b"disk") + b"\xff\xff\xff\xff" + text(b"base:allocation"),
    text(b"disk") + b"\0\0\0\2" + text(b"base:allocation"),
    text(b"disk") + b"\0\0\0\1" + text(b"base:allocation") + b"\0",
    text(b"disk") + b"\0\0\0\1" + text(b"base:allocation", 16),
    text(b"disk") + b"\0\0\0\1" + text(b"base:allocation", 0xFFFFFFFF),
    text(b"disk") + b"\0\0\0\1" + text(b"base:\xff\xff"),
    text(b"disk", 0xFFFFFFFF) + bytes(4),
    text(b"\xff") + bytes(4),
]


@pytest.mark.parametrize("option", [LIST_CONTEXT, SET_CONTEXT])
@pytest.mark.parametrize("data", CONTEXTS, ids=lambda data: data.hex()[:40])
def test_contexts_whose_lengths_disagree(server, option, data):
    client = Nbd(server.nbd)
    assert client.option(option, data)[-1][0] == ERR_INVALID, "structured replies come first"
    client.upgrade(STRUCTURED)
    assert client.option(option, data)[-1][0] == ERR_INVALID
    lives(client)
    assert client.contexts("disk", "base:allocation") == [(1, "base:allocation")]


def test_a_refused_choice_of_contexts_takes_back_the_one_before(server):
    for spoil in (text(b"disk") + b"\0\0\0\1", text(b"none") + bytes(4), text(b"disk") + bytes(4)):
        client = Nbd(server.nbd)
        client.upgrade(STRUCTURED)
        assert client.contexts("disk", "base:allocation")
        client.option(SET_CONTEXT, spoil)
        client.go("disk")
        refused(client, EINVAL, STATUS, 0, 4096)
    client = Nbd(server.nbd)
    client.upgrade(STRUCTURED)
    client.contexts("frozen", "base:allocation")
    client.go("disk")
    refused(client, EINVAL, STATUS, 0, 4096)


def test_many_queries_for_contexts(server):
    client = Nbd(server.nbd)
    client.upgrade(STRUCTURED)
    assert client.contexts("disk", *["base:allocation"] * 3000) == [(1, "base:allocation")]
    assert client.contexts("disk", *["x" * 4096] * 15) == []
    assert client.contexts("disk", *[""] * 10_000) == []
    assert client.contexts("disk", "base", "base:", ":", "base:allocation:", "BASE:allocation", "bixi:changed-since/") == []
    began = time.monotonic()
    assert client.option(SET_CONTEXT, text(b"disk") + struct.pack(">I", 16_000) + bytes(4 * 16_000 - 8 * 4))[-1][0] == ERR_INVALID
    assert time.monotonic() - began < 10


def test_headers_are_agreed_on_once(server):
    client = Nbd(server.nbd)
    client.upgrade(EXTENDED)
    assert client.option(STRUCTURED)[-1][0] == ERR_EXT_HEADER_REQD
    assert client.option(EXTENDED)[-1][0] == ERR_INVALID
    assert client.go("disk").read(0, 1) is not None


def test_half_handshakes_in_numbers(server):
    before, held = rss(server), []
    host, port = server.nbd.split(":")
    for number in range(CONNECTIONS_MAX - 40):
        one = socket.create_connection((host, int(port)), timeout=20)
        one.sendall(struct.pack(">I", 3)[: number % 5])
        held.append(one)
    client = Nbd(server.nbd, timeout=20).go("disk")
    client.write(0, b"among them")
    assert client.read(0, 10) == b"among them"
    assert rss(server) < before + SLACK
    # Beyond its limit it turns clients away at once, and those that are there go on.
    for _ in range(80):
        held.append(socket.create_connection((host, int(port)), timeout=20))
    client.write(0, b"still here")
    away = 0
    for one in held[-40:]:
        try:
            while one.recv(100):
                pass
            away += 1
        except TimeoutError:
            raise AssertionError("neither served nor turned away") from None
        except ConnectionError:
            away += 1
    assert away == 40
    for one in held:
        one.close()
    client.disconnect()

    def is_served():
        try:
            return Nbd(server.nbd, timeout=5).go("disk").read(0, 5) == b"still"
        except (EOFError, OSError):
            return False

    wait_for("there is room again", is_served, patience=20)


# --- requests ---------------------------------------------------------------------------------


MODES = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])


@MODES
def test_unknown_commands_and_flags(server, mode):
    client = ready(server, mode)
    for command in (8, 55, 0x7FFF, 0xFFFF):
        refused(client, EINVAL, command, 0, 0)
        refused(client, EINVAL, command, END, 4096)
    for bit in range(6, 16):
        for command in (READ, FLUSH, TRIM, CACHE, ZEROES):
            refused(client, EINVAL, command, 0, 0 if command == FLUSH else 1, flags=1 << bit)
        refused(client, EINVAL, WRITE, 0, 1, b"x", flags=1 << bit)
    for command, flag in [(READ, REQ_ONE), (TRIM, 2), (TRIM, DF), (FLUSH, DF), (CACHE, 16), (ZEROES, DF), (ZEROES, REQ_ONE)]:
        refused(client, EINVAL, command, 0, 0 if command == FLUSH else 1, flags=flag)
    if mode == "simple":
        refused(client, EINVAL, READ, 0, 1, flags=DF)
        refused(client, EINVAL, STATUS, 0, 1)
    if mode != "extended":
        for command in (READ, TRIM, ZEROES, STATUS, CACHE):
            refused(client, EINVAL, command, 0, 8, flags=PAYLOAD_LEN)
        refused(client, EINVAL, WRITE, 0, 8, bytes(8), flags=PAYLOAD_LEN)
    client.write(0, b"alive", flags=FUA)
    assert client.read(0, 5) == b"alive"
    client.disconnect()


BEYOND = [(SIZE, 1), (SIZE - 1, 2), (SIZE + 1, 0), (SIZE + 4096, 1), (END, 1), (END, 0), (END - 1, 2), (1 << 63, 1),
          (END - SIZE + 1, SIZE), (END - 4095, 8192)]


@MODES
@pytest.mark.parametrize("offset, length", BEYOND)
def test_ranges_beyond_the_device(server, mode, offset, length):
    client = ready(server, mode)
    for command in (READ, TRIM, CACHE):
        refused(client, EINVAL, command, offset, length)
    refused(client, ENOSPC, ZEROES, offset, length)
    if length <= 8192:
        refused(client, ENOSPC, WRITE, offset, length, b"x" * length)
    if mode != "simple":
        refused(client, EINVAL, STATUS, offset, length)
    client.flush()
    assert len(client.read(SIZE - 1, 1)) == 1
    client.disconnect()


@MODES
def test_lengths_that_no_request_has(server, mode):
    client, before = ready(server, mode), rss(server)
    for length in (PAYLOAD_MAX + 1, SIZE, 0xFFFFFFFF):
        refused(client, EINVAL, READ, 0, length)
        refused(client, EINVAL, TRIM, 4096, length if length > SIZE else SIZE)
    if mode == "extended":
        for length in (1 << 32, 1 << 63, END):
            for command in (READ, TRIM, CACHE, STATUS):
                refused(client, EINVAL, command, 0, length)
                refused(client, EINVAL, command, SIZE - 1, length)
            refused(client, ENOSPC, ZEROES, 1, length)
    assert len(client.read(0, PAYLOAD_MAX)) == PAYLOAD_MAX
    # A larger payload is not read to its end.
    client.send(WRITE, 0, PAYLOAD_MAX + 1)
    hangs_up(client)
    assert rss(server) < before + 2 * PAYLOAD_MAX + SLACK


@MODES
@pytest.mark.parametrize("offset", [0, 1, SIZE // 2, SIZE])
def test_requests_for_nothing(server, mode, offset):
    """The protocol leaves them open: an answer, and the session lives on."""
    client = ready(server, mode)
    client.write(1, b"kept")
    for command in (READ, WRITE, TRIM, CACHE, ZEROES):
        try:
            client.ask(command, offset, 0)
        except NbdError as error:
            assert error.number == EINVAL
    if mode != "simple":
        refused(client, EINVAL, STATUS, offset, 0)
    if offset:
        refused(client, EINVAL, FLUSH, offset, 0)
    refused(client, EINVAL, FLUSH, offset, 1)
    refused(client, EINVAL, FLUSH, END, 0)
    assert client.read(1, 4) == b"kept"
    client.disconnect()


@MODES
def test_a_snapshot_is_not_written(server, mode):
    client = ready(server, mode, "frozen@s")
    assert client.flags & 2
    for request in [(WRITE, 0, 5, b"melts"), (TRIM, 0, 4096), (ZEROES, 0, 4096), (WRITE, 0, PAYLOAD_MAX, bytes(PAYLOAD_MAX))]:
        refused(client, EPERM, *request)
    assert client.read(0, 6) == b"frozen"
    client.flush()
    client.disconnect()


def test_a_payload_that_never_comes(server):
    before, held = rss(server), []
    for _ in range(30):
        client = ready(server, "simple")
        client.send(WRITE, 0, PAYLOAD_MAX, b"x" * 100)
        held.append(client)
    time.sleep(0.5)
    assert rss(server) < before + SLACK, "no memory for bytes that are not there"
    # Half a payload and gone: nothing of it is written.
    other = ready(server)
    other.write(8 * MIB, b"before")
    half = ready(server)
    half.send(WRITE, 8 * MIB, 4096, b"y" * 4095)
    half.close()
    time.sleep(0.1)
    assert other.read(8 * MIB, 6) == b"before"
    for client in held:
        client.close()


def test_clients_that_send_a_byte_at_a_time(server):
    client = Nbd(server.nbd)
    client.socket.sendall(struct.pack(">QII", OPTION, GO, 10))
    for byte in text(b"disk") + b"\0\0":
        client.socket.sendall(bytes([byte]))
        time.sleep(0.002)
    while True:
        _, _, kind, length = struct.unpack(">QIII", client.take(20))
        client.take(length)
        if kind == ACK:
            break
    head = struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 7, 0, 8) + b"dripping"
    for byte in head:
        client.socket.sendall(bytes([byte]))
        time.sleep(0.002)
    assert [one for one, _, _ in client.chunks()] == [7]
    assert client.read(0, 8) == b"dripping"


def test_a_client_that_reads_no_replies(server):
    """What waits to be read is bounded, however much is asked for."""
    writer = ready(server)
    for at in range(0, SIZE, 8 * MIB):
        writer.write(at, noise(f"{at}", 8 * MIB))
    before, deaf = rss(server), ready(server, "simple")
    deaf.socket.settimeout(2)
    asked = 0
    try:
        for _ in range(100):
            deaf.send(READ, 0, PAYLOAD_MAX)
            asked += 1
    except TimeoutError:
        pass
    worst, until = 0, time.monotonic() + 3
    while time.monotonic() < until:
        worst = max(worst, rss(server))
        time.sleep(0.02)
    print(f"{asked} reads of 32 MiB asked, {(worst - before) / MIB:.0f} MiB held")
    assert worst < before + 3 * PAYLOAD_MAX + SLACK
    writer.write(0, b"others go on")
    assert writer.read(0, 12) == b"others go on"
    # It gets all of them when it begins to read.
    deaf.socket.settimeout(60)
    first = next(iter(deaf.chunks(PAYLOAD_MAX)))
    assert len(first[2]) == PAYLOAD_MAX
    deaf.close()


def test_small_requests_without_number_and_without_reading(server):
    before, deaf = rss(server), ready(server)
    deaf.socket.setblocking(False)
    head = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, READ, number, 0, 4096) for number in range(1000))
    sent, until = 0, time.monotonic() + 3
    while sent < 100 * len(head) and time.monotonic() < until:
        try:
            sent += deaf.socket.send(head[sent % len(head):])
        except BlockingIOError:
            time.sleep(0.01)
    print(f"{sent // 28} reads sent, {(rss(server) - before) / MIB:.0f} MiB held")
    assert rss(server) < before + SLACK
    deaf.close()


def test_one_cookie_for_many_requests(server):
    client = ready(server, "simple")
    for number in range(200):
        client.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 42, number * 512, 512) + bytes([number]) * 512)
    assert [next(iter(client.chunks()))[0] for _ in range(200)] == [42] * 200
    for number in range(200):
        assert client.read(number * 512, 512) == bytes([number]) * 512


def test_nothing_is_done_after_the_end(server):
    client, other = ready(server), ready(server)
    other.write(0, b"before")
    bye = struct.pack(">IHHQQI", 0x25609513, 0, 2, 1, 0, 0)
    late = struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 2, 0, 6) + b"behind"
    client.socket.sendall(bye + late)
    hangs_up(client)
    assert other.read(0, 6) == b"before"
    # What was asked before it is done and answered.
    client = ready(server)
    first = struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, 6) + b"asked!"
    client.socket.sendall(first + bye)
    assert [one for one, _, _ in client.chunks()] == [1]
    hangs_up(client)
    assert other.read(0, 6) == b"asked!"


@pytest.mark.parametrize("mode", ["structured", "extended"])
def test_requests_that_begin_like_another_kind(server, mode):
    for magic in (0, 0x67446698, 0x668E33EF, 0x21E41C71 if mode == "structured" else 0x25609513):
        client = ready(server, mode)
        client.socket.sendall(struct.pack(">IHHQQQ", magic, 0, READ, 1, 0, 1))
        hangs_up(client)


# --- extended headers -------------------------------------------------------------------------


def extended(client, command, flags, offset, length, payload=b""):
    client.cookie += 1
    client.socket.sendall(struct.pack(">IHHQQQ", 0x21E41C71, flags, command, client.cookie, offset, length) + payload)
    return list(client.chunks())


def error_of(*request) -> int:
    with pytest.raises(NbdError) as error:
        extended(*request)
    return error.value.number


def test_payloads_where_there_are_none(server):
    client = ready(server, "extended")
    for command in (READ, FLUSH, TRIM, CACHE, ZEROES, 55):
        assert error_of(client, command, PAYLOAD_LEN, 0, 16, b"sixteen bytes ok") == EINVAL
        assert error_of(client, command, PAYLOAD_LEN, 0, MIB, bytes(MIB)) == EINVAL
    client.write(0, b"alive")
    assert client.read(0, 5) == b"alive"
    before = rss(server)
    for length in (PAYLOAD_MAX + 1, 1 << 40, END):
        other = ready(server, "extended")
        other.socket.sendall(struct.pack(">IHHQQQ", 0x21E41C71, PAYLOAD_LEN, TRIM, 1, 0, length))
        hangs_up(other)
    for length in (PAYLOAD_MAX + 1, 1 << 40, END):
        other = ready(server, "extended")
        other.send(WRITE, 0, length)
        hangs_up(other)
    assert rss(server) < before + SLACK


def ids(effect: int, *numbers: int) -> bytes:
    return struct.pack(">Q", effect) + b"".join(struct.pack(">I", number) for number in numbers)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(7),
        bytes(8),
        ids(4096, 1)[:-1],
        ids(4096, 1) + b"\0",
        ids(4096, 0),
        ids(4096, 2),
        ids(4096, 0xFFFFFFFF),
        ids(4096, 1, 1),
        ids(4096, 1, 2),
        ids(0, 1),
        ids(SIZE + 1, 1),
        ids(END, 1),
        ids(1 << 63, 1),
        ids(4096, *range(1, 4000)),
    ],
    ids=lambda payload: payload.hex()[:40],
)
def test_choices_of_contexts_that_make_no_sense(server, payload):
    client = ready(server, "extended")
    assert error_of(client, STATUS, PAYLOAD_LEN, 0, len(payload), payload) == EINVAL
    assert error_of(client, STATUS, PAYLOAD_LEN, SIZE, 12, ids(1, 1)) == EINVAL
    assert error_of(client, STATUS, PAYLOAD_LEN, END, 12, ids(1, 1)) == EINVAL
    told = extended(client, STATUS, PAYLOAD_LEN, 0, 12, ids(SIZE, 1))
    assert sum(run[0] for run in struct.iter_unpack(">QQ", told[0][2][8:])) == SIZE
    client.disconnect()


@pytest.mark.parametrize("mode", ["structured", "extended"])
def test_a_status_without_contexts(server, mode):
    client = ready(server, mode, contexts=False)
    refused(client, EINVAL, STATUS, 0, 4096)
    refused(client, EINVAL, STATUS, 0, 4096, flags=REQ_ONE)
    if mode == "extended":
        assert error_of(client, STATUS, PAYLOAD_LEN, 0, 12, ids(4096, 1)) == EINVAL
        assert error_of(client, STATUS, PAYLOAD_LEN, 0, 8, ids(4096)) == EINVAL
    client.disconnect()


# --- neighbours -------------------------------------------------------------------------------


def test_what_was_trimmed_is_not_seen_by_another_volume(server):
    secret = noise("secret", MIB)
    server.make("one", 16 * MIB)
    client = Nbd(server.nbd).go("one")
    client.write(0, secret)
    client.write(MIB, secret)
    client.trim(0, MIB)
    client.zero(MIB, MIB)
    assert client.read(0, 2 * MIB) == bytes(2 * MIB)
    client.disconnect()
    wait_for("it can be deleted", lambda: server.command("volume", "delete", "one", "--yes").returncode == 0, pause=0.3)
    for name in ("two", "one"):
        server.make(name, 16 * MIB)
        client = Nbd(server.nbd).go(name)
        client.write(5, b"x")
        assert client.read(0, 16 * MIB) == b"\0\0\0\0\0x" + bytes(16 * MIB - 6)
        client.disconnect()


def test_rubbish_of_every_length_from_many_at_once(server):
    before = rss(server)

    def work(seed: int):
        rng = random.Random(seed)
        for _ in range(40):
            try:
                client = Nbd(server.nbd, timeout=5)
                if rng.random() < 0.5:
                    client = ready(server, rng.choice(["simple", "structured", "extended"]))
                    good = struct.pack(">IHHQQI", 0x25609513, rng.randrange(64), rng.randrange(9), 1, rng.randrange(SIZE), rng.randrange(9000))
                    client.socket.sendall(good + rng.randbytes(rng.randrange(300)))
                else:
                    option = rng.choice([1, 2, 3, 5, 6, 7, 8, 9, 10, 11])
                    raw_option(client, option, rng.choice([0, 4, 20, 65_536, rng.randrange(1 << 32)]), rng.randbytes(rng.randrange(300)))
                client.close()
            except (EOFError, OSError, NbdError, AssertionError):
                continue

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rss(server) < before + 2 * SLACK
    assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 600
