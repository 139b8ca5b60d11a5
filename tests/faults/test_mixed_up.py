"""Directories that do not belong together: of two clusters, copied, given twice, in another order.
What is wrong is refused at the start and named; what is harmless works. Row 33 of the promises."""

import shutil
import subprocess

import pytest

from harness import Cluster, Server, is_ready, wait_for
from ledger import Ledger, Load


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "one")
    server.start()
    ledger = Ledger()
    with Load(server.client(), ledger) as load:
        load.run_for_steps(30)
    server.stop()
    server.ledger = ledger
    yield server
    server.kill()


def refusal(server: Server) -> str:
    """What a server says that does not start."""
    done = subprocess.run(server.argv(), stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    said = (done.stdout + done.stderr).decode()
    assert 0 < done.returncode < 100 and "panicked" not in said, said
    return said


def test_a_copy_of_a_directory_is_refused_beside_its_original(server, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(server.dirs[1], copy)
    whole = list(server.dirs)
    server.dirs = [*whole, copy]
    assert str(copy) in refusal(server)
    server.dirs = whole
    server.start()
    assert server.ledger.promises().check(server.client()) > 0


def test_a_directory_of_another_cluster_is_refused_and_untouched(server, tmp_path):
    other = Server(tmp_path / "two")
    other.start()
    other.stop()
    before = {path: path.stat().st_mtime_ns for path in other.dirs[1].rglob("*") if path.name != "lock"}
    own = list(server.dirs)
    server.dirs = [own[0], other.dirs[1], own[2]]
    assert str(other.dirs[1]) in refusal(server)
    assert before == {path: path.stat().st_mtime_ns for path in other.dirs[1].rglob("*") if path.name != "lock"}


def test_directories_in_another_order_are_the_same_cluster(server):
    server.dirs = [server.dirs[2], server.dirs[0], server.dirs[1]]
    server.start()
    assert server.ledger.promises().check(server.client()) > 0
    server.kill()
    server.dirs = [server.dirs[1], server.dirs[2], server.dirs[0]]
    server.start()
    assert server.ledger.promises().check(server.client()) > 0


def test_two_chunkservers_that_swapped_their_directories_do_no_harm(tmp_path):
    cluster = Cluster(tmp_path / "cluster", chunk=4, redundancy="copies:3")
    try:
        client = cluster.start().client(attempts=1, read_timeout=60)
        ledger = Ledger()
        with Load(client, ledger) as load:
            load.run_for_steps(30)
            for name in ("chunk-1", "chunk-2"):
                cluster.kill(name)
            one, two = cluster.data("chunk-1"), cluster.data("chunk-2")
            for name in ("identity", "data", "checkpoint"):
                aside = tmp_path / name
                if (one / name).exists() or (two / name).exists():
                    swap(one / name, two / name, aside)
            for name in ("chunk-1", "chunk-2"):
                cluster.restart(name)
            load.run_for_steps(30)
        assert ledger.promises().check(client) > 0
        cluster.wait_whole()
    finally:
        cluster.stop()


def swap(one, two, aside) -> None:
    for source, target in [(one, aside), (two, one), (aside, two)]:
        if source.exists():
            shutil.move(source, target)


def test_two_servers_do_not_share_a_directory(server):
    server.start()
    other = Server(server.folder.parent / "other", [server.dirs[0]])
    other.dirs = [server.dirs[0]]
    assert str(server.dirs[0]) in refusal(other)
    assert is_ready(server.admin)
    wait_for("it is undisturbed", lambda: server.ledger.promises().check(server.client()) > 0)
