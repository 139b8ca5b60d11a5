"""Faults for hours: `make soak HOURS=n`, or `soak.py --hours n [--ledger docs/soak.md]`.

Each round runs every variant of the fault tests with a seed of its own, kills under load, and fresh
seeds of the simulator; file systems and lengths of pauses take turns. At the end it says for each
row of the promise sheet how often it was put to the test and how often it failed. With `--ledger`
a line goes into the ledger. Ends with code 1 if anything failed; logs of failures are kept.

What it leaves to others: what the tests are (tests/faults, tests/clients/test_kill.py).
"""

import argparse
import collections
import datetime
import os
import pathlib
import random
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

from harness import target_dir

ROOT = pathlib.Path(__file__).parent
# Modules, and the rows of the promise sheet that each puts to the test.
ROWS = {
    "clients.test_kill": "1",
    "faults.test_power_cut": "2",
    "faults.test_bad_disk": "3 4 5 13",
    "faults.test_rot": "7 11 12",
    "faults.test_damaged_replica": "8 9 10 19 20",
    "faults.test_pause": "13 18",
    "faults.test_partition": "14 15 16",
    "faults.test_clock": "17",
    "faults.test_scarcity": "31 32",
    "faults.test_mixed_up": "33",
}


class Tally:
    """What was run and what became of it."""

    def __init__(self):
        self.runs, self.failures, self.skipped = collections.Counter(), collections.Counter(), collections.Counter()
        self.cuts, self.kills, self.read_back, self.sim_seeds = 0, 0, 0, 0
        self.failed = []

    def take(self, report: pathlib.Path, how: str) -> None:
        """Counts the cases of a JUnit report."""
        for case in xml.etree.ElementTree.parse(report).iter("testcase"):
            module = case.get("classname").removeprefix("tests.")
            if case.find("skipped") is not None:
                self.skipped[module] += 1
                continue
            self.runs[module] += 1
            if case.find("failure") is not None or case.find("error") is not None:
                self.failures[module] += 1
                self.failed.append(f"{module}::{case.get('name')} ({how})")
            said = case.findtext("system-out") or ""
            for cuts, objects in re.findall(r"(\d+) cuts, (\d+) acked objects read back", said):
                self.cuts += int(cuts)
                self.read_back += int(objects)

    def text(self) -> str:
        lines = [f"{'rows':>14}  {'cases':>6}  {'failed':>6}  {'skipped':>7}  module"]
        for module, rows in ROWS.items():
            counts = f"{self.runs[module]:6}  {self.failures[module]:6}  {self.skipped[module]:7}"
            lines.append(f"{rows:>14}  {counts}  {module}")
        lines.append(f"{self.cuts} power cuts with {self.read_back} acked objects read back, {self.kills} kills under load,")
        lines.append(f"{self.sim_seeds} fresh seeds of the simulator")
        lines += [f"FAILED {name}" for name in self.failed]
        return "\n".join(lines)


def one_round(tally: Tally, number: int, seed: int, work: pathlib.Path, args) -> None:
    settings = {
        "BIXI_TEST_LONG": "1",
        "BIXI_TEST_SEED": str(seed),
        "BIXI_TEST_CUTS": str(args.cuts),
        "BIXI_TEST_KILLS": str(args.kills),
        "BIXI_TEST_FS": "xfs" if number % 2 and has_xfs() else "ext4",
        # A session lives for 30 s: now and then a writer is away for longer.
        "BIXI_TEST_PAUSE": "40" if number % 4 == 3 else "8",
    }
    how = " ".join(f"{name}={value}" for name, value in settings.items())
    report = work / f"round{number}.xml"
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pytest.ini", "-q", f"--junitxml={report}"]
    command += ["-o", "junit_logging=system-out", f"--basetemp={work / f'round{number}'}"]
    command += [ROOT / "faults", ROOT / "clients" / "test_kill.py"]
    subprocess.run([str(word) for word in command], env={**os.environ, **settings}, check=False)
    if report.exists():
        tally.take(report, how)
    else:
        tally.failed.append(f"round {number} left no report ({how})")
    tally.kills += 3 * args.kills
    simulate(tally, seed, args.sim_seconds)


def simulate(tally: Tally, seed: int, seconds: int) -> None:
    program = target_dir() / "release" / "bixi-sim"
    done = subprocess.run([program, "--from", str(seed), "--seconds", str(seconds)], capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1:] or ["it said nothing"]
    if counted := re.match(r"(\d+) seeds, (\d+) failed", last[0]):
        tally.sim_seeds += int(counted.group(1))
    if done.returncode != 0:
        tally.failed.append(f"bixi-sim --from {seed} --seconds {seconds}: {last[0]}")


def has_xfs() -> bool:
    return subprocess.run(["sh", "-c", "command -v mkfs.xfs"], capture_output=True).returncode == 0


def enter(ledger: pathlib.Path, tally: Tally, hours: float, seed: int) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    row = [
        f"{datetime.date.today():%Y-%m-%d}",
        commit.stdout.strip() or "?",
        f"{hours:.1f} h",
        str(sum(tally.runs.values())),
        str(tally.cuts),
        str(tally.kills),
        str(tally.sim_seeds),
        str(len(tally.failed)),
        str(seed),
    ]
    with open(ledger, "a") as file:
        file.write("| " + " | ".join(row) + " |\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 32))
    parser.add_argument("--cuts", type=int, default=25, help="crash images of a kind, each round")
    parser.add_argument("--kills", type=int, default=20, help="kills of a test, each round")
    parser.add_argument("--sim-seconds", type=int, default=120)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path.home() / ".cache" / "bixi-soak")
    parser.add_argument("--ledger", type=pathlib.Path, help="append a line to this file")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    seeds = random.Random(args.seed)
    began, number, tally = time.monotonic(), 0, Tally()
    while True:
        one_round(tally, number, seeds.randrange(1, 1 << 32), args.work, args)
        number += 1
        hours = (time.monotonic() - began) / 3600
        print(f"\n{number} rounds in {hours:.2f} hours, first seed {args.seed}\n{tally.text()}", flush=True)
        if hours >= args.hours:
            break
    if args.ledger:
        enter(args.ledger, tally, hours, args.seed)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
