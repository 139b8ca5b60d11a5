"""The guest as a process: starts QEMU, reads what the guest tells, kills it; and what the guest was told to have kept.

QEMU emulates the processor (no KVM), so a boot takes some seconds. The first serial port is the kernel's (`console`),
on the second the guest tells what it does (`report`; its lines are listed at the head of worker.rs).

Promise: only the QEMU that this module started is ever signalled, by its pid.
"""

import os
import pathlib
import re
import signal
import subprocess
import time

from guest import prepare

SYSTEMS = ["ext4", "xfs"]
MEMORY = "512M"
# What a kernel says only when a disk or a file system has failed it.
TROUBLE = re.compile(
    r"I/O error|EXT4-fs (error|warning)|EXT4-fs .*(abort|remount)|XFS .*(orrupt|rror|shut)"
    r"|Call Trace|Kernel panic|blocked for more than|Out of memory"
)
# Seconds in which something must have been told: emulated, on a machine that builds at the same time.
PATIENCE = 240.0


class Nbd:
    """Disks that QEMU reaches over NBD. `reconnect_delay_s`: how long it holds requests while the server is away."""

    def __init__(self, address: str, reconnect_delay_s: int = 0):
        self.host, self.port = address.split(":")
        self.delay_s = reconnect_delay_s

    def machine(self) -> list:
        return []

    def disk(self, name: str) -> list:
        node = [
            f"driver=nbd,node-name={name},server.type=inet,server.host={self.host},server.port={self.port},export={name}",
            f"reconnect-delay={self.delay_s},cache.direct=on,cache.no-flush=off,discard=unmap",
        ]
        return ["-blockdev", ",".join(node), "-device", f"virtio-blk-pci,drive={name},serial={name},num-queues=2,write-cache=on"]


class VhostUser:
    """Disks that another process serves over a socket, out of the guest's own memory."""

    def __init__(self, sockets: dict):
        self.sockets = sockets

    def machine(self) -> list:
        return ["-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on", "-machine", "memory-backend=mem"]

    def disk(self, name: str) -> list:
        chardev = ["-chardev", f"socket,id=socket-{name},path={self.sockets[name]},reconnect=1"]
        return [*chardev, "-device", f"vhost-user-blk-pci,chardev=socket-{name},num-queues=2"]


class Machine:
    """One boot of the guest."""

    def __init__(self, folder: pathlib.Path, disks, job: str, seed: int = 1, first: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.console, self.report = folder, folder / "console.log", folder / "report.log"
        root = prepare.system()
        # An emulated processor that had to wait for the real one is no trouble.
        words = "console=ttyS0 quiet loglevel=5 panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
        words += f" bixi.job={job} bixi.seed={seed} bixi.first={first}"
        argv = [*prepare.run_by(root), str(root / "usr/bin/qemu-system-x86_64")]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]
        argv += ["-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY]
        for folder_of_firmware in ("qemu", "seabios"):
            argv += ["-L", str(root / "usr/share" / folder_of_firmware)]
        argv += ["-kernel", str(prepare.kernel()), "-initrd", str(prepare.image() / "initramfs.gz"), "-append", words]
        argv += ["-serial", f"file:{self.console}", "-serial", f"file:{self.report}", *disks.machine()]
        for name in SYSTEMS:
            argv += disks.disk(name)
        self.began = time.monotonic()
        # It looks for its own parts, the emulation among them, beside a program that was installed.
        environment = {**os.environ, "QEMU_MODULE_DIR": str(root / "usr/lib/x86_64-linux-gnu/qemu")}
        with open(folder / "qemu.log", "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def lines(self) -> list:
        """What the guest has told, as words; not the line that it is at."""
        text = self.report.read_text(errors="replace") if self.report.exists() else ""
        return [line.split() for line in text.split("\n")[:-1]]

    def wait_for(self, what: str, is_so, patience: float = PATIENCE) -> float:
        """Waits until `is_so(lines)`; returns the seconds since the start. Trouble of the guest ends the waiting."""
        deadline = time.monotonic() + patience
        while True:
            lines, over = self.lines(), self.process.poll()
            self.check(lines)
            if is_so(lines):
                return time.monotonic() - self.began
            assert over is None, f"QEMU ended with {over} before: {what}\n{self.tail()}"
            assert time.monotonic() < deadline, f"not so after {patience:.0f} s: {what}\n{self.tail()}"
            time.sleep(0.05)

    def wait_for_word(self, word: str) -> float:
        return self.wait_for(f"the guest says {word!r}", lambda lines: any(line[:1] == [word] for line in lines))

    def check(self, lines: list) -> None:
        """Nothing has gone wrong so far, as the guest sees it."""
        failed = [" ".join(line) for line in lines if line and line[0].startswith("failed")]
        console = self.console.read_text(errors="replace") if self.console.exists() else ""
        failed += [line for line in console.splitlines() if TROUBLE.search(line)]
        assert not failed, "\n".join(failed)

    def kill(self) -> None:
        """kill -9."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        files = [self.folder / "qemu.log", self.console, self.report]
        return "\n".join(f"{path}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-25:]) for path in files if path.exists())


class Ledger:
    """What each file of each file system may be after a kill, by what the guest has told: (length, hash), or None for
    a file that is not there. A file that is not in here may be anything.
    """

    def __init__(self):
        self.files = {name: {} for name in SYSTEMS}
        self.first = 0

    def take(self, lines: list) -> dict:
        """Notes what one boot has told; returns how many changes it told to be durable, for each file system."""
        for verb, *words in lines:
            if verb not in ("begin", "synced", "deleted"):
                continue
            files, number = self.files[words[0]], int(words[1])
            self.first = max(self.first, number + 1)
            state = (int(words[2]), words[3]) if len(words) == 4 else None
            if verb != "begin":
                files[number] = {state}
            elif words[2:] == ["anything"]:
                files.pop(number, None)
            elif number in files:
                files[number] = files[number] | {state}
        return {system: durable(lines, system) for system in SYSTEMS}

    def compare(self, lines: list) -> int:
        """Whether a guest that checked its disks has found them clean and all that is expected; how many files."""
        clean = {words[1]: words[2] for words in lines if words[0] == "fsck"}
        assert clean == dict.fromkeys(SYSTEMS, "0"), f"what fsck says: {clean}"
        found = {name: {} for name in SYSTEMS}
        for words in lines:
            if words[0] == "file":
                found[words[1]][int(words[2])] = (int(words[3]), words[4])
                self.first = max(self.first, int(words[2]) + 1)
        wrong, compared = [], 0
        for system in SYSTEMS:
            for number, states in self.files[system].items():
                if found[system].get(number) not in states:
                    wrong.append(f"{system} file {number}: {found[system].get(number)}, none of {states}")
                compared += number in found[system]
            # What was read after the crash stays, be it told before or not.
            self.files[system] = {number: {found[system].get(number)} for number in range(self.first)}
        assert not wrong, "\n".join(wrong)
        return compared


def durable(lines: list, system: str) -> int:
    """How many changes of this file system the guest has told to be durable."""
    return sum(words[0] in ("synced", "deleted") and words[1] == system for words in lines)


def has_written(count: int):
    """A condition for `wait_for`: this many durable changes on each file system."""
    return lambda lines: all(durable(lines, system) >= count for system in SYSTEMS)
