"""Bytes on a disk are no longer what they were: flipped, written to another place, or never written
although the drive said so. Every read answers the right bytes all the same, and the damage is
counted. Rows 7, 11 and 12 of the promises.

One of three directories is damaged all over, so every answer needs the others.
"""

import os
import random

import pytest

from harness import Server, variants
from ledger import Ledger, Load

BLOCK = 4096
STEPS = 120


@pytest.fixture(params=variants(["ec:2+1"], ["copies:3"]))
def server(request, tmp_path):
    server = Server(tmp_path / "server", 3, ("--redundancy", request.param))
    server.start()
    yield server
    server.kill()


def written_blocks(path) -> list:
    """Numbers of the blocks that are not zeros."""
    with open(path, "rb") as file:
        return [at for at in range(os.path.getsize(path) // BLOCK) if any(file.read(BLOCK))]


def rewrite(path, change) -> int:
    """`change(number, block) -> block` for every block that was written; returns how many changed."""
    changed = 0
    with open(path, "r+b") as file:
        for number in written_blocks(path):
            file.seek(number * BLOCK)
            old = file.read(BLOCK)
            new = change(number, old)
            if new != old:
                file.seek(number * BLOCK)
                file.write(new)
                changed += 1
        file.flush()
        os.fsync(file.fileno())
    return changed


def fill(server: Server) -> Ledger:
    ledger = Ledger()
    with Load(server.client(), ledger) as load:
        load.run_for_steps(STEPS)
    return ledger


def assert_right(server: Server, ledger: Ledger) -> float:
    """Every read is right, also after another start; returns how often damage was met."""
    server.start()
    assert ledger.promises().check(server.client(read_timeout=60)) > STEPS // 3
    found = server.metrics()["bixi_rot_found_total"]
    server.stop()
    server.start()
    assert ledger.promises().check(server.client(read_timeout=60)) > STEPS // 3
    return found + server.metrics()["bixi_rot_found_total"]


@pytest.mark.parametrize("victim", variants([0], [1, 2]))
def test_a_flipped_bit_in_every_block_of_a_disk_is_never_served(server, victim):
    ledger = fill(server)
    server.stop()
    rng = random.Random(victim)

    def flip(_, block):
        at = rng.randrange(BLOCK)
        return block[:at] + bytes([block[at] ^ 1 << rng.randrange(8)]) + block[at + 1 :]

    assert rewrite(server.dirs[victim] / "data", flip) > 20
    assert assert_right(server, ledger) > 0, "no damage was counted"


def test_blocks_that_were_written_to_the_wrong_place_are_never_served(server):
    ledger = fill(server)
    server.stop()
    path = server.dirs[1] / "data"
    numbers = written_blocks(path)
    with open(path, "rb") as file:
        whole = file.read()
    shuffled = numbers[1:] + numbers[:1]
    place = dict(zip(numbers, shuffled, strict=True))
    moved = rewrite(path, lambda number, _: whole[place[number] * BLOCK : (place[number] + 1) * BLOCK])
    assert moved > 20
    assert_right(server, ledger)


def test_writes_that_a_drive_lost_are_never_missed(server):
    """Of what was written lately every second block is as it was before."""
    first = fill(server)
    path = server.dirs[1] / "data"
    with open(path, "rb") as file:
        before = file.read()
    ledger = first
    with Load(server.client(), ledger, name="later") as load:
        load.run_for_steps(STEPS)
    server.stop()
    lost = rewrite(
        path, lambda number, block: (before[number * BLOCK : (number + 1) * BLOCK].ljust(BLOCK, b"\0")) if number % 2 else block
    )
    assert lost > 10
    assert_right(server, ledger)
