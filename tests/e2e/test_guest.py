"""A Linux guest under QEMU has its disks on volumes: it makes ext4 and XFS on them and writes; all is killed in
mid-write, over and over. fsck finds nothing, and every byte that was made durable is there.

`BIXI_TEST_GUEST_ROUNDS=20` for the long run; one kill is the smoke. `make guest` sets the guest up.
"""

import os
import random
import subprocess
import time

import pytest

from guest import machine, prepare
from guest.machine import SYSTEMS, Ledger, Machine, has_written
from harness import Server, free_port, program, wait_for

ROUNDS = int(os.environ.get("BIXI_TEST_GUEST_ROUNDS", "1"))
# Durable changes on each file system before the kill.
CHANGES_MIN = 40

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not prepare.is_there(), reason="no guest is set up: make guest"),
    pytest.mark.timeout(300 + 300 * ROUNDS),
]


class GuestServer(Server):
    """A server with a volume for each file system of the guest, and how the guest attaches them."""

    def __init__(self, folder, attach: str, reconnect_delay_s: int = 0):
        self.nbd, self.attach, self.delay_s = f"127.0.0.1:{free_port()}", attach, reconnect_delay_s
        self.attached = []
        inside = () if attach == "nbd" else ("--internal-addr", f"127.0.0.1:{free_port()}")
        super().__init__(folder, dirs=3, extra=("--nbd-addr", self.nbd, *inside))

    def make_volumes(self) -> None:
        for name in SYSTEMS:
            done = self.command("volume", "create", name, "--size", "512M", text=True)
            assert done.returncode == 0, done

    def disks(self):
        """Attaches the volumes."""
        if self.attach == "nbd":
            return machine.Nbd(self.nbd, self.delay_s)
        sockets = {name: self.folder / f"{name}.socket" for name in SYSTEMS}
        for name, socket in sockets.items():
            self.attached.append(self.attach_vhost_user(name, socket))
        return machine.VhostUser(sockets)

    def attach_vhost_user(self, name: str, socket) -> subprocess.Popen:
        environment = {**self.environment, "BIXI_ADMIN_ADDR": self.admin, "BIXI_CREDENTIALS": str(self.dirs[0] / "credentials")}
        log = self.folder / f"attach-{name}.log"
        with open(log, "wb") as out:
            argv = [program(), "volume", "attach", name, "--vhost-user", str(socket)]
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)

        def is_ready() -> bool:
            text = log.read_text(errors="replace")
            assert process.poll() is None, f"attaching ended with {process.returncode}: {text}"
            return "ready" in text.splitlines()

        try:
            wait_for("the socket of vhost-user listens", is_ready)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def kill(self) -> None:
        """kill -9 to the server and to all that serve its volumes."""
        for process in self.attached:
            process.kill()
        super().kill()
        for process in self.attached:
            process.wait()
        self.attached = []


def can_attach(attach: str) -> bool:
    if attach == "nbd":
        return True
    told = subprocess.run([program(), "volume", "attach", "--help"], capture_output=True, text=True, timeout=60)
    return told.returncode == 0 and "--vhost-user" in told.stdout


@pytest.mark.parametrize("attach", ["nbd", "vhost-user"])
def test_what_a_guest_made_durable_outlives_all_of_it(attach, tmp_path):
    if not can_attach(attach):
        pytest.skip("this program has no `volume attach --vhost-user`")
    server, guest, ledger = GuestServer(tmp_path / "server", attach), None, Ledger()
    server.start()
    try:
        server.make_volumes()
        for round in range(ROUNDS + 1):
            job = "make" if round == 0 else "again" if round < ROUNDS else "verify"
            guest = Machine(tmp_path / f"guest{round}", server.disks(), job, seed=round, first=ledger.first)
            told = [f"booted after {guest.wait_for_word('up'):.1f} s"]
            for _, disk, _, cache, _, discard_bytes in (line for line in guest.lines() if line[0] == "disk"):
                assert int(discard_bytes) > 0, f"{disk} takes nothing back"
                told.append(f"{disk}: {cache}")
            if round > 0:
                told.append(f"verified after {guest.wait_for_word('verified'):.1f} s")
                told.append(f"{ledger.compare(guest.lines())} files are right")
            if job == "verify":
                guest.wait_for_word("done")
            else:
                guest.wait_for(f"{CHANGES_MIN} durable changes on each", has_written(CHANGES_MIN))
                time.sleep(random.uniform(0.0, 2.0))
                for one in random.sample([guest, server], 2):
                    one.kill()
                counts = ledger.take(guest.lines())
                told.append(f"killed after {time.monotonic() - guest.began:.1f} s, durable changes {counts}")
                told.append(f"server back after {server.start():.1f} s")
            print(f"{attach} {job}: " + ", ".join(told))
        fsck = server.command("fsck", text=True)
        assert fsck.returncode == 0, fsck
    finally:
        if guest:
            guest.kill()
        server.kill()


def test_guest_over_nbd_sees_nothing_of_a_server_that_is_killed(tmp_path):
    server, guest, ledger = GuestServer(tmp_path / "server", "nbd", reconnect_delay_s=120), None, Ledger()
    server.start()
    try:
        server.make_volumes()
        guest = Machine(tmp_path / "writing", server.disks(), "make")
        guest.wait_for(f"{CHANGES_MIN} durable changes", has_written(CHANGES_MIN))
        for kill in range(2):
            server.kill()
            before = {system: machine.durable(guest.lines(), system) for system in SYSTEMS}
            took = server.start()
            began = time.monotonic()
            guest.wait_for("it goes on", lambda lines: all(machine.durable(lines, one) > before[one] + CHANGES_MIN for one in SYSTEMS))
            print(f"kill {kill}: server back after {took:.1f} s, {CHANGES_MIN} more after {time.monotonic() - began:.1f} s")
        guest.kill()
        ledger.take(guest.lines())
        guest = Machine(tmp_path / "verifying", server.disks(), "verify")
        guest.wait_for_word("done")
        print(f"{ledger.compare(guest.lines())} files are right")
    finally:
        if guest:
            guest.kill()
        server.kill()
