"""The network between servers breaks: both ways, one way, or now and then. Whoever is cut off stops
deciding, the others go on, and it heals alone. Rows 14, 15 and 16 of the promises."""

import time

import pytest

from harness import variants
from ledger import Ledger, Load
from networks import Networked, lacking, settled

WHY_NOT = lacking()
pytestmark = [pytest.mark.alone, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "never")]
STEPS = 40


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    net = Networked(tmp_path_factory.mktemp("net"))
    try:
        yield net.start()
    finally:
        net.stop()


@pytest.fixture(autouse=True)
def healed(net):
    yield
    net.heal()


def through(net, fault, name: str, seconds: float = 4.0):
    """A load before, during and after `fault`; returns the load and its ledger."""
    ledger = Ledger()
    client = net.client(read_timeout=60)
    settled(net, 1.0)
    with Load(client, ledger, writers=6, readers=2, name=name) as load:
        load.run_for_steps(STEPS)
        fault()
        began = time.monotonic()
        load.run_for_steps(STEPS)
        while time.monotonic() - began < seconds:
            load.run_for_steps(1)
        net.heal()
        load.run_for_steps(STEPS)
    print(f"{name}: slowest step {load.slowest:.1f} s, {len(load.errors)} errors of {load.steps} steps")
    return load, ledger, client


@pytest.mark.parametrize("how", variants(["cut_off"], ["deafen", "silence"]))
def test_a_leader_that_is_cut_off_is_replaced_without_an_error(net, how):
    old = net.leader()
    load, ledger, client = through(net, lambda: getattr(net, how)(old), f"leader-{how}")
    assert load.errors == [], load.errors[:3]
    assert check(client, ledger) > 0
    # It comes back as a follower, and nobody fights over it.
    term = settled(net)
    time.sleep(3)
    assert net.status()["meta"]["term"] == term, "elections without end"


@pytest.mark.parametrize("how", variants(["deafen"], ["cut_off", "silence"]))
def test_a_chunkserver_that_is_cut_off_is_not_noticed(net, how):
    load, ledger, client = through(net, lambda: getattr(net, how)("chunk-2"), f"chunk-{how}")
    assert load.errors == [], load.errors[:3]
    assert check(client, ledger) > 0


@pytest.mark.parametrize("percent", [5, 15])
def test_lost_packets_change_nothing(net, percent):
    load, ledger, client = through(net, lambda: net.lose(percent), f"lossy-{percent}")
    # With one packet of seven lost, "not now" is an honest answer; with one of twenty it is not.
    assert [error for error in load.errors if percent < 10 or "ServiceUnavailable" not in error] == []
    assert check(client, ledger) > 0


def test_nothing_is_decided_without_a_majority_and_all_heals(net):
    def cut_all():
        for name in ("meta-1", "meta-2", "meta-3"):
            net.cut_off(name)

    ledger = Ledger()
    client = net.client(read_timeout=60)
    with Load(client, ledger, writers=4, name="minority") as load:
        load.run_for_steps(STEPS)
        cut_all()
        time.sleep(3)
        before = load.steps
        time.sleep(3)
        assert load.steps == before, "a command was acked with every metaserver alone"
        net.heal()
        load.run_for_steps(STEPS)
    # What was under way waited for it.
    assert load.errors == [], load.errors[:3]
    assert check(client, ledger) > 0


def check(client, ledger) -> int:
    """Other tests of this module use the same bucket: only the listing of our own keys counts."""
    return ledger.promises().check(client, only_ours=True)
