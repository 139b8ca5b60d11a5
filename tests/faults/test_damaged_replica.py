"""A metaserver replica whose log, state or directory is not what it was: rotten, rolled back, or
wiped. The others serve on, and it does no harm. Rows 8, 9, 10, 19 and 20 of the promises."""

import os
import shutil

import pytest

from harness import Server, variants, wait_for
from ledger import Ledger, Load

STEPS = 100


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server", 3, ("--redundancy", "copies:3"))
    server.start()
    yield server
    server.kill()


def fill(server: Server, ledger: Ledger, name: str, steps: int = STEPS) -> None:
    with Load(server.client(read_timeout=60), ledger, name=name) as load:
        load.run_for_steps(steps)
    assert load.errors == [], load.errors[:3]


def check(server: Server, ledger: Ledger) -> None:
    assert ledger.promises().check(server.client(read_timeout=60)) > 0


def flip(path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.parametrize("victim", variants([0], [1, 2]))
def test_rot_in_the_middle_of_the_raft_log_costs_nothing(server, victim):
    ledger = Ledger()
    fill(server, ledger, "before")
    server.kill()
    logs = sorted(server.dirs[victim].glob("log-*"), key=lambda path: path.stat().st_size)
    log = logs[-1]
    data = log.read_bytes()
    records = [at for at in range(0, len(data), 8) if data[at : at + 4] == b"BXL1"]
    assert len(records) > 50
    damaged = records[len(records) // 2]
    flip(log, damaged + 88)
    kept = log.read_bytes()[damaged : damaged + 200]
    server.start()
    check(server, ledger)
    assert log.read_bytes()[damaged : damaged + 200] == kept or not log.exists(), "it was cut"
    fill(server, ledger, "after")
    server.kill()
    server.start()
    check(server, ledger)


@pytest.mark.parametrize("victim", variants([2], [0, 1]))
def test_rot_in_the_state_of_a_replica_costs_nothing(server, victim):
    ledger = Ledger()
    fill(server, ledger, "before")
    # An orderly stop flushes the state to its files.
    assert server.stop() == 0
    tables = [path for path in server.dirs[victim].glob("state-*/*.sst") if path.stat().st_size > 200]
    assert tables
    for table in tables:
        for at in range(50, table.stat().st_size, 997):
            flip(table, at)
    server.start()
    check(server, ledger)
    fill(server, ledger, "after")
    server.kill()
    server.start()
    check(server, ledger)


@pytest.mark.parametrize("victim", variants([0], [1, 2]))
def test_a_directory_that_comes_back_as_it_was_before_resurrects_nothing(server, victim, tmp_path):
    ledger = Ledger()
    fill(server, ledger, "old")
    assert server.stop() == 0
    copy = tmp_path / "copy"
    shutil.copytree(server.dirs[victim], copy)
    server.start()
    fill(server, ledger, "new", 2 * STEPS)
    server.kill()
    shutil.rmtree(server.dirs[victim])
    shutil.copytree(copy, server.dirs[victim])
    server.start()
    check(server, ledger)
    fill(server, ledger, "after")
    server.kill()
    server.start()
    check(server, ledger)


def test_only_the_raft_log_rolled_back_is_outvoted(server, tmp_path):
    """Term and vote of one replica are those of long ago; its peers' are not."""
    ledger = Ledger()
    fill(server, ledger, "old")
    server.kill()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in server.dirs[1].glob("log-*"):
        shutil.copy2(path, copy)
    server.start()
    fill(server, ledger, "new")
    server.kill()
    for path in server.dirs[1].glob("log-*"):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy2(path, server.dirs[1])
    server.start()
    check(server, ledger)
    fill(server, ledger, "after")
    check(server, ledger)


@pytest.mark.parametrize("victim", variants([0], [1, 2]))
def test_a_wiped_directory_joins_again_and_is_filled(server, victim):
    ledger = Ledger()
    fill(server, ledger, "before")
    server.kill()
    shutil.rmtree(server.dirs[victim])
    server.start()
    check(server, ledger)
    fill(server, ledger, "after")

    def is_whole():
        chunks = server.status()["chunks"]
        return chunks["degraded"] == 0 and chunks["lost"] == 0

    wait_for("redundancy is whole again", is_whole, pause=0.5)
    # Filled: now another one may go.
    server.kill()
    shutil.rmtree(server.dirs[(victim + 1) % 3])
    server.start()
    check(server, ledger)
