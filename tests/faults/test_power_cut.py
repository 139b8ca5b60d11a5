"""Power cuts over the real stack: a `bixi server` on three real file systems under load, and crash
images of all three at random moments of the recorded stream of writes and flushes. Whatever an
image holds, the server opens it and everything that was acked before that moment is there.

BIXI_TEST_CUTS: how many images of each kind (default 3); BIXI_TEST_SEED: another choice of them;
BIXI_TEST_FS: ext4 or xfs.
"""

import os
import random

import pytest

import power_cut
from devices import Devices, Marks, Mounted, lacking
from harness import Server
from ledger import Ledger, Load, Promises

CUTS = int(os.environ.get("BIXI_TEST_CUTS", "3"))
SEED = int(os.environ.get("BIXI_TEST_SEED", "1"))
KIND = os.environ.get("BIXI_TEST_FS", "ext4")
STEPS = 120
MIB = 512

pytestmark = [pytest.mark.skipif(bool(lacking()), reason=lacking() or "never"), pytest.mark.timeout(600 + 60 * CUTS)]


@pytest.mark.parametrize("redundancy", ["copies:3", "ec:2+1"])
def test_a_power_cut_at_any_moment_loses_nothing_acked(tmp_path, redundancy):
    rng = random.Random(f"{SEED} {redundancy}")
    with Devices(tmp_path, 3, MIB, KIND) as devices:
        server = Server(tmp_path / "server", [mount / "data" for mount in devices.mounts], ("--redundancy", redundancy))
        server.start()
        marks = Marks(devices)
        with Load(server.client(read_timeout=60), Ledger(marks.set)) as load:
            load.run_for_steps(STEPS // 3)
            # In the middle a restart: recovery writes too.
            server.stop() if rng.random() < 0.5 else server.kill()
            server.start()
            load.run_for_steps(STEPS - STEPS // 3)
        marks.close()
        server.kill()
        devices.command("record off")
    stream = power_cut.Stream(devices.stream)
    first = next(at for at, record in enumerate(stream.records) if record[0] == b"m")
    replay = power_cut.Replay(stream, tmp_path / "replay", 3, MIB << 20)
    read = 0
    for number, moment in enumerate(stream.moments(first, CUTS, rng)):
        replay.forward_to(moment)
        at_stake = replay.unflushed()
        images = replay.images(rng)
        read += check(tmp_path / f"cut{number}", images, replay.marks, redundancy, f"record {moment}, {at_stake} unflushed")
    replay.close()
    devices.stream.unlink()
    print(f"{redundancy}: {CUTS} cuts, {read} acked objects read back, {len(stream.records)} records")


def check(folder, images, marks, redundancy, what) -> int:
    promises = Promises()
    for mark in marks:
        promises.note(mark)
    mounts = [Mounted(image, folder / f"mount{disk}") for disk, image in enumerate(images)]
    with mounts[0] as one, mounts[1] as two, mounts[2] as three:
        server = Server(folder / "server", [mount / "data" for mount in (one, two, three)], ("--redundancy", redundancy))
        try:
            server.start()
            there = promises.check(server.client(read_timeout=60))
            assert server.status()["chunks"]["lost"] == 0
        except BaseException as error:
            raise AssertionError(f"after a cut at {what}: {error}\n{server.log_tail()}") from error
        finally:
            server.kill()
    return there
