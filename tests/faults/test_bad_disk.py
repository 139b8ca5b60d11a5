"""One disk of several fails under load: every flush, write or read of it answers EIO, or it answers
nothing at all. Clients see no error, and everything that was acked reads back right.

Rows 3, 4, 5 and 13 of the promises. Real file systems on disks that fail on demand (devices.py).
"""

import time

import pytest

from devices import Devices, lacking
from harness import LONG, Server, variants, wait_for
from ledger import Ledger, Load

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "never")
STEPS = 60
FREEZE = 12.0 if LONG else 5.0
MIB = 768


# Disk 0 holds a metaserver replica and the credentials, disk 3 no replica.
ALL = [(redundancy, what, disk) for redundancy in ("copies:3", "ec:2+1") for what in ("flush", "write", "read") for disk in (0, 3)]
SMOKE = [("ec:2+1", "flush", 0), ("copies:3", "read", 0), ("ec:2+1", "write", 3)]
FROZEN = [(redundancy, disk) for redundancy in ("copies:3", "ec:2+1") for disk in (0, 3)]


@pytest.fixture
def stack(redundancy, tmp_path):
    """Four disks, one more than a chunk needs."""
    with Devices(tmp_path, 4, MIB) as devices:
        dirs = [mount / "data" for mount in devices.mounts]
        server = Server(tmp_path / "server", dirs, ("--redundancy", redundancy))
        server.start()
        try:
            yield devices, server
        finally:
            for disk in range(4):
                devices.heal(disk)
            server.kill()


def restarted(server: Server, ledger: Ledger) -> None:
    """What was acked is not only in the memory of the process that saw the fault."""
    server.kill()
    server.start()
    ledger.promises().check(server.client(read_timeout=60))


@pytest.mark.parametrize("redundancy, what, disk", variants(SMOKE, [case for case in ALL if case not in SMOKE]))
def test_a_disk_that_answers_errors_is_not_noticed_by_clients(stack, what, disk):
    devices, server = stack
    ledger = Ledger()
    client = server.client(read_timeout=60)
    with Load(client, ledger, writers=6, readers=2) as load:
        load.run_for_steps(STEPS)
        devices.fail(disk, what)
        load.run_for_steps(2 * STEPS)
        wait_for("the fault was met", lambda: devices.failed(disk) > 0)
        load.run_for_steps(STEPS)
    assert load.errors == [], f"{len(load.errors)} errors, as {load.errors[:3]}"
    assert ledger.promises().check(client) > 0
    if what == "flush":
        # It stays out, also when its flushes would do again: what they acked then might be gone.
        devices.heal(disk)
        path = str(server.dirs[disk])

        def is_out():
            return [row for row in server.status()["disks"] if row["path"] == path and row["state"] in ("failed", "lost")]

        wait_for("the disk counts as failed", is_out)
    devices.heal(disk)
    restarted(server, ledger)


@pytest.mark.parametrize("redundancy, disk", variants(FROZEN[:1], FROZEN[1:]))
def test_a_disk_that_answers_nothing_is_not_noticed_by_clients(stack, disk):
    devices, server = stack
    ledger = Ledger()
    client = server.client(read_timeout=60)
    with Load(client, ledger, writers=6, readers=2) as load:
        load.run_for_steps(STEPS)
        devices.freeze(disk)
        frozen = time.monotonic()
        load.run_for_steps(STEPS)
        while time.monotonic() - frozen < FREEZE:
            load.run_for_steps(1)
        devices.thaw(disk)
        load.run_for_steps(STEPS)
    print(f"slowest step {load.slowest:.1f} s")
    assert load.errors == [], f"{len(load.errors)} errors, as {load.errors[:3]}"
    assert ledger.promises().check(client) > 0
    restarted(server, ledger)
