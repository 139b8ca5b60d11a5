"""A small NBD client, for what the tools of others do not send: requests by hand, wrong ones too.

    client = Nbd("127.0.0.1:10809"); client.go("disk")
    client.write(0, b"bytes"); assert client.read(0, 5) == b"bytes"

Promise: it hides nothing; an error of the server is raised as `NbdError` with its number.
"""

import socket
import struct

OPTION = int.from_bytes(b"IHAVEOPT", "big")
REPLY = 0x0003E889045565A9
EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED, LIST_CONTEXT, SET_CONTEXT, EXTENDED = 1, 2, 3, 6, 7, 8, 9, 10, 11
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32
ACK, ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = 1, 0x80000001, 0x80000003, 0x80000006, 0x80000009
EINVAL, ENOSPC, ESHUTDOWN = 22, 28, 108


class NbdError(Exception):
    def __init__(self, number: int, text: str = ""):
        super().__init__(f"{number} {text}")
        self.number = number


class Nbd:
    def __init__(self, address: str, timeout: float = 60, flags: int = 3):
        """`address`: HOST:PORT, or unix:PATH."""
        host, port = address.split(":")
        if host == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(port)
        else:
            self.socket = socket.create_connection((host, int(port)), timeout=timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.structured, self.extended, self.cookie = False, False, 0
        assert self.take(8) == b"NBDMAGIC" and self.take(8) == b"IHAVEOPT"
        self.offered = struct.unpack(">H", self.take(2))[0]
        self.socket.sendall(struct.pack(">I", flags))

    def take(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            piece = self.socket.recv(count - len(out))
            if not piece:
                raise EOFError(f"the server hung up, {count - len(out)} bytes short")
            out += piece
        return bytes(out)

    def close(self):
        self.socket.close()

    # The handshake.

    def option(self, option: int, data: bytes = b"", length=None) -> list:
        """Sends an option; all its answers, the last of which is an acknowledgement or an error."""
        self.socket.sendall(struct.pack(">QII", OPTION, option, len(data) if length is None else length) + data)
        answers = []
        while True:
            magic, about, kind, size = struct.unpack(">QIII", self.take(20))
            assert (magic, about) == (REPLY, option), (hex(magic), about)
            answers.append((kind, self.take(size)))
            if kind == ACK or kind >> 31:
                return answers

    def done(self, option: int, data: bytes = b"") -> list:
        answers = self.option(option, data)
        if answers[-1][0] != ACK:
            raise NbdError(answers[-1][0], answers[-1][1].decode(errors="replace"))
        return answers[:-1]

    def upgrade(self, option: int):
        self.done(option)
        self.structured, self.extended = True, option == EXTENDED

    def contexts(self, name: str, *queries: str, option: int = SET_CONTEXT) -> list:
        data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(queries))
        data += b"".join(struct.pack(">I", len(query)) + query.encode() for query in queries)
        return [(struct.unpack(">I", answer[:4])[0], answer[4:].decode()) for _, answer in self.done(option, data)]

    def go(self, name: str, *kinds: int, option: int = GO) -> "Nbd":
        data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">H", len(kinds))
        for _, answer in self.done(option, data + b"".join(struct.pack(">H", kind) for kind in kinds)):
            if answer[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", answer[2:])
        return self

    # Requests.

    def send(self, command: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> int:
        self.cookie += 1
        if self.extended:
            flags |= PAYLOAD_LEN if command == WRITE else 0
            head = struct.pack(">IHHQQQ", 0x21E41C71, flags, command, self.cookie, offset, length)
        else:
            head = struct.pack(">IHHQQI", 0x25609513, flags, command, self.cookie, offset, length)
        self.socket.sendall(head + payload)
        return self.cookie

    def chunks(self, length: int = 0):
        """The chunks of the next reply: (cookie, kind, bytes); a simple reply is one of kind 0."""
        while True:
            magic = struct.unpack(">I", self.take(4))[0]
            if magic == 0x67446698:
                error, cookie = struct.unpack(">IQ", self.take(12))
                if error:
                    raise NbdError(error)
                yield cookie, 0, self.take(length)
                return
            if magic == 0x668E33EF:
                flags, kind, cookie, size = struct.unpack(">HHQI", self.take(16))
            else:
                assert magic == 0x6E8A278C, hex(magic)
                flags, kind, cookie, _, size = struct.unpack(">HHQQQ", self.take(28))
            data = self.take(size)
            if kind == 0x8001:
                raise NbdError(struct.unpack(">I", data[:4])[0], data[6:].decode(errors="replace"))
            yield cookie, kind, data
            if flags & 1:
                return

    def ask(self, command: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> list:
        cookie = self.send(command, offset, length, payload, flags)
        plain = length if command == READ and not self.structured else 0
        chunks = list(self.chunks(plain))
        assert all(one == cookie for one, _, _ in chunks)
        return [(kind, data) for _, kind, data in chunks]

    def read(self, offset: int, length: int, flags: int = 0) -> bytes:
        chunks = self.ask(READ, offset, length, flags=flags)
        if not self.structured:
            return chunks[0][1]
        out, seen = bytearray(length), 0
        for kind, data in chunks:
            if kind == 1:
                at = struct.unpack(">Q", data[:8])[0] - offset
                out[at : at + len(data) - 8] = data[8:]
                seen += len(data) - 8
            elif kind == 2:
                seen += struct.unpack(">QI", data)[1]
        assert seen == length, f"{seen} of {length} bytes were told of"
        return bytes(out)

    def write(self, offset: int, data: bytes, flags: int = 0):
        self.ask(WRITE, offset, len(data), data, flags)

    def flush(self):
        self.ask(FLUSH, 0, 0)

    def trim(self, offset: int, length: int):
        self.ask(TRIM, offset, length)

    def zero(self, offset: int, length: int, flags: int = 0):
        self.ask(ZEROES, offset, length, flags=flags)

    def status(self, offset: int, length: int, flags: int = 0) -> list:
        """(length, flags) of the runs of base:allocation."""
        runs = []
        for kind, data in self.ask(STATUS, offset, length, flags=flags):
            body = data[8:] if kind == 6 else data[4:]
            runs += struct.iter_unpack(">QQ" if kind == 6 else ">II", body)
        return runs

    def disconnect(self):
        self.send(DISC, 0, 0)
        assert self.socket.recv(1) == b"", "the server ends the session"
        self.close()
