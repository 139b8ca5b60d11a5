"""Crash images: what the disks may hold when the power goes at a given moment of a recorded stream.

A disk keeps what was flushed. Of the writes since then each may be there whole, not at all, or in
some of its 512-byte sectors, independent of the order in which they were made.
"""

import os
import pathlib
import random
import struct
import subprocess

HEADER = struct.Struct("<cBHIQ")
SECTOR = 512


class Stream:
    """The records of a stream (tests/faultdev/src/stream.rs): kind, disk, len, offset, where the data is."""

    def __init__(self, path: pathlib.Path):
        self.file = open(path, "rb")
        self.records = []
        at, end = 0, os.path.getsize(path)
        while at + HEADER.size <= end:
            self.file.seek(at)
            kind, disk, _, len_bytes, offset = HEADER.unpack(self.file.read(HEADER.size))
            at += HEADER.size
            if at + len_bytes > end:
                break
            self.records.append((kind, disk, len_bytes, offset, at))
            at += len_bytes

    def data(self, record) -> bytes:
        self.file.seek(record[4])
        return self.file.read(record[2])

    def position_of_mark(self, text: str) -> int:
        """Behind the mark."""
        for position, record in enumerate(self.records):
            if record[0] == b"m" and self.data(record) == text.encode():
                return position + 1
        raise AssertionError(f"no mark {text!r}")

    def moments(self, first: int, count: int, rng: random.Random) -> list:
        """Where to cut, ascending: half of them anywhere, half just before a flush takes effect,
        when most is at stake."""
        flushes = [at for at, record in enumerate(self.records) if record[0] == b"f" and at > first]
        chosen = [rng.randrange(first, len(self.records)) for _ in range(count - count // 2)]
        chosen += rng.choices(flushes, k=count // 2)
        return sorted(chosen)


class Replay:
    """Plays a stream forward and makes images at chosen positions, which must ascend."""

    def __init__(self, stream: Stream, folder: pathlib.Path, disks: int, len_bytes: int):
        folder.mkdir(parents=True)
        self.stream, self.folder = stream, folder
        self.bases = [folder / f"flushed{disk}" for disk in range(disks)]
        for base in self.bases:
            with open(base, "wb") as file:
                file.truncate(len_bytes)
        self.files = [os.open(base, os.O_RDWR) for base in self.bases]
        self.pending = [[] for _ in range(disks)]
        self.position = 0
        self.marks = []

    def forward_to(self, position: int) -> None:
        for record in self.stream.records[self.position : position]:
            kind, disk, _, offset, _ = record
            if kind == b"w":
                self.pending[disk].append((offset, self.stream.data(record)))
            elif kind == b"f":
                for offset, data in self.pending[disk]:
                    os.pwrite(self.files[disk], data, offset)
                self.pending[disk].clear()
            else:
                self.marks.append(self.stream.data(record).decode())
        self.position = position

    def images(self, rng: random.Random) -> list:
        """One image for each disk; the next call writes over them."""
        images = []
        kept = rng.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        for disk, base in enumerate(self.bases):
            image = self.folder / f"image{disk}"
            subprocess.run(["cp", "--sparse=always", "--reflink=auto", base, image], check=True)
            file = os.open(image, os.O_RDWR)
            for offset, data in self.pending[disk]:
                if rng.random() < 0.2:
                    for at in range(0, len(data), SECTOR):
                        if rng.random() < kept:
                            os.pwrite(file, data[at : at + SECTOR], offset + at)
                elif rng.random() < kept:
                    os.pwrite(file, data, offset)
            os.close(file)
            images.append(image)
        return images

    def unflushed(self) -> int:
        """Writes that are at stake now."""
        return sum(map(len, self.pending))

    def close(self) -> None:
        for file in self.files:
            os.close(file)
        for path in [*self.bases, *self.folder.glob("image*")]:
            path.unlink()
