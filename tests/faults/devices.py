"""Disks that fail on demand, with a file system on each (tests/faultdev), for tests as root.

    devices = Devices(folder, count=3, mib=256).start()
    devices.mounts[0]                     a directory on the first disk
    devices.fail(0, "flush")              every flush of it answers EIO from now on

Promise: only mounts, loop devices and processes that this module made are undone by `stop`.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import time

from harness import PATIENCE, target_dir, wait_for

FAULTDEV = target_dir() / "faultdev" / "release" / "faultdev"


def lacking() -> str:
    """Why such disks cannot be had here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root for loop devices"
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "needs /dev/fuse and loop devices"
    if not FAULTDEV.exists():
        return "tests/faultdev is not built (make faultdev)"
    return ""


def run(*argv, **more) -> str:
    argv = [str(word) for word in argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, **more)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def make_file_system(kind: str, path) -> None:
    """ext4 or xfs, without zeroing in the background: that would be writes nobody asked for."""
    if kind == "ext4":
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", path)
    else:
        run("mkfs.xfs", "-q", "-f", "-K", path)


def unmount(path: pathlib.Path) -> None:
    """Unmounts, also when something there is still ending."""

    def is_unmounted():
        return subprocess.run(["umount", path], capture_output=True).returncode == 0 or not os.path.ismount(path)

    wait_for(f"{path} is unmounted", is_unmounted, pause=0.2)


class Mounted:
    """An image of a disk, mounted by a loop device, for as long as the block lasts."""

    def __init__(self, image: pathlib.Path, where: pathlib.Path):
        self.image, self.where = image, where

    def __enter__(self) -> pathlib.Path:
        self.where.mkdir(parents=True, exist_ok=True)
        run("mount", "-o", "loop", self.image, self.where)
        return self.where

    def __exit__(self, *_):
        unmount(self.where)


class Devices:
    """Several such disks, served by one process, so that what was written has one order."""

    def __init__(self, folder: pathlib.Path, count: int = 3, mib: int = 256, kind: str = "ext4"):
        self.folder = folder / "faultdev"
        self.count, self.mib, self.kind = count, mib, kind
        self.fuse = self.folder / "fuse"
        self.stream = self.folder / "stream"
        self.mounts = [self.folder / f"mount{index}" for index in range(count)]
        self.loops = []
        self.process = None

    def start(self) -> "Devices":
        for path in [self.fuse, *self.mounts]:
            path.mkdir(parents=True)
        log = open(self.folder / "faultdev.log", "wb")
        argv = [FAULTDEV, self.fuse, self.folder, str(self.count), str(self.mib << 20)]
        self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            wait_for("the disks are there", self.is_up)
            # From the first byte on, so that the stream says all of what is on the disks.
            self.command("record on")
            for index, mount in enumerate(self.mounts):
                make_file_system(self.kind, self.fuse / f"disk{index}")
                # Past the page cache: a write comes to the disk when it is made.
                loop = run("losetup", "--find", "--show", "--direct-io=on", self.fuse / f"disk{index}")
                self.loops.append(loop)
                run("mount", loop, mount)
        except BaseException:
            self.stop()
            raise
        return self

    def is_up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "faultdev.log").read_text()
        return os.path.ismount(self.fuse)

    def stop(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            for index in range(self.count):
                self.command(f"heal {index}")
        for mount in self.mounts:
            if os.path.ismount(mount):
                unmount(mount)
        for loop in self.loops:
            run("losetup", "--detach", loop)
        if os.path.ismount(self.fuse):
            unmount(self.fuse)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for index in range(self.count):
            (self.folder / f"backing{index}").unlink(missing_ok=True)
        shutil.rmtree(self.fuse, ignore_errors=True)

    def __enter__(self) -> "Devices":
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def command(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.folder / "control"))
            connection.sendall(f"{line}\n".encode())
            answer = connection.makefile().readline().strip()
        assert answer and answer != "unknown command", f"{line}: {answer}"
        return answer

    def fail(self, disk: int, what: str, count="all") -> None:
        """`what`: read, write or flush. They answer EIO."""
        self.command(f"fail {disk} {what} {count}")

    def failed(self, disk: int) -> int:
        """How many operations of the disk were failed so far."""
        return int(self.command(f"failed {disk}"))

    def delay(self, disk: int, milliseconds: int) -> None:
        self.command(f"delay {disk} {milliseconds}")

    def freeze(self, disk: int) -> None:
        self.command(f"freeze {disk}")

    def thaw(self, disk: int) -> None:
        self.command(f"thaw {disk}")

    def heal(self, disk: int) -> None:
        self.command(f"heal {disk}")


class Marks:
    """Sets marks in the stream over one connection."""

    def __init__(self, devices: Devices):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(devices.folder / "control"))
        self.answers = self.connection.makefile()

    def set(self, text: str) -> None:
        """Everything that was acked before is in the stream before the mark."""
        assert "\n" not in text
        self.connection.sendall(f"mark {text}\n".encode())
        assert self.answers.readline() == "ok\n"

    def close(self) -> None:
        self.connection.close()


def pause(seconds: float) -> None:
    """Lets a load run on for a while; nothing hangs on how long it was."""
    time.sleep(seconds)
