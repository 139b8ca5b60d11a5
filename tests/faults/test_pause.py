"""A process is paused (SIGSTOP) for longer than others wait for it, and goes on as if nothing had
been. Nobody notices while it is away, and nothing that it does late counts. Rows 13 and 18 of the
promises.

BIXI_TEST_PAUSE: seconds of a pause (default 5).
"""

import os
import signal
import time

import pytest

from harness import Cluster
from ledger import Ledger, Load

PAUSE = float(os.environ.get("BIXI_TEST_PAUSE", "5"))
STEPS = 60

pytestmark = pytest.mark.alone


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "cluster", chunk=7)
    try:
        yield cluster.start()
    finally:
        for name in cluster.processes:
            try:
                cluster.signal(name, signal.SIGCONT)
            except ProcessLookupError:
                pass
        cluster.stop()


@pytest.mark.parametrize("who", ["a chunkserver", "the leader"])
@pytest.mark.timeout(300 + 10 * PAUSE)
def test_a_paused_process_is_not_noticed_by_clients(cluster, who):
    ledger = Ledger()
    client = cluster.client(attempts=1, read_timeout=60)
    with Load(client, ledger, writers=6, readers=2) as load:
        load.run_for_steps(STEPS)
        name = "chunk-3" if who == "a chunkserver" else cluster.leader()
        cluster.signal(name, signal.SIGSTOP)
        stopped = time.monotonic()
        load.run_for_steps(STEPS)
        while time.monotonic() - stopped < PAUSE:
            load.run_for_steps(1)
        cluster.signal(name, signal.SIGCONT)
        load.run_for_steps(STEPS)
    print(f"{name} paused for {PAUSE:.0f} s; slowest step {load.slowest:.1f} s")
    assert load.errors == [], f"{len(load.errors)} errors, as {load.errors[:3]}"
    assert ledger.promises().check(client) > 0
    cluster.wait_whole()
    if who == "the leader":
        assert cluster.leader()
        assert cluster.status()["meta"]["voters"] == 3


@pytest.mark.timeout(600)
@pytest.mark.skipif(PAUSE < 40, reason="a session lives for 30 s; BIXI_TEST_PAUSE=40 for the long run")
def test_a_writer_that_was_away_for_longer_than_its_session_lives_writes_nothing_old(cluster):
    """The gateway is the writer of chunks. While it is away its session ends, its chunks are fenced
    and sealed; afterwards it begins anew."""
    ledger = Ledger()
    client = cluster.client(attempts=1, read_timeout=300)
    with Load(client, ledger, writers=6) as load:
        load.run_for_steps(STEPS)
        cluster.signal("s3", signal.SIGSTOP)
        time.sleep(PAUSE)
        cluster.signal("s3", signal.SIGCONT)
        load.run_for_steps(STEPS)
    # Requests that were under way may have failed, never been half done.
    assert ledger.promises().check(client) > 0
    cluster.wait_whole()
