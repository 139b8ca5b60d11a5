"""A cluster whose processes each live in a network namespace of their own, for tests as root.

    net = Networked(folder).start()
    net.cut_off("meta-1")                 nothing goes in or out between it and the other servers
    net.deafen("meta-1")                  it is heard and hears nothing
    net.lose(30)                          of a hundred packets between servers thirty are lost
    net.heal()

The cluster is founded by `bixi dev`; then its processes are started one by one, each in its
namespace, with addresses of a network that this machine's bridge joins. The doors for clients stay
open whatever is cut.

Promise: only namespaces, links and processes that this module made are undone by `stop`.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from devices import run
from harness import Access, Cluster, boto3_client, command, is_ready, program, wait_for

TABLE = "inet bixitest"


def lacking() -> str:
    """Why such networks cannot be had here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    for tool in ("ip", "nft"):
        if shutil.which(tool, path="/usr/sbin:/sbin:" + os.environ["PATH"]) is None:
            return f"needs {tool}"
    name = f"bxp{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
        return "network namespaces are not permitted"
    rules = f"add table {TABLE}; add chain {TABLE} i {{ type filter hook input priority 0; }}"
    tried = subprocess.run(["ip", "netns", "exec", name, "nft", rules], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], check=True)
    return "" if tried.returncode == 0 else "nftables do not work here"


class Networked:
    """Three metaservers, some chunkservers, one S3 door."""

    def __init__(self, folder: pathlib.Path, *, chunk: int = 4, redundancy: str = "copies:3"):
        self.folder = folder
        self.cluster = Cluster(folder / "cluster", meta=3, chunk=chunk, redundancy=redundancy)
        self.bridge = f"bx{os.getpid() % 100000}"
        # Of 10/8 nobody here uses these; told apart by process, as several tests may run.
        self.net = f"10.{64 + os.getpid() // 250 % 128}.{os.getpid() % 250}"
        self.names, self.address, self.processes = [], {}, {}
        self.argv = {}

    def start(self) -> "Networked":
        self.cluster.start()
        self.cluster.stop()
        described = self.cluster.description["processes"]
        self.names = [process["name"] for process in described]
        try:
            self.build_networks()
            self.move(described)
            for name in self.names:
                self.launch(name)
            wait_for("the cluster is up", lambda: is_ready(self.admin))
        except BaseException:
            self.stop()
            raise
        return self

    def build_networks(self) -> None:
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.net}.254/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for number, name in enumerate(self.names, 1):
            self.address[name] = f"{self.net}.{number}"
            space, here, there = self.space(name), f"{self.bridge}h{number}", f"{self.bridge}n{number}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", here, "type", "veth", "peer", "name", there)
            run("ip", "link", "set", here, "master", self.bridge, "up")
            run("ip", "link", "set", there, "netns", space)
            run("ip", "-n", space, "addr", "add", f"{self.address[name]}/24", "dev", there)
            run("ip", "-n", space, "link", "set", there, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")

    def move(self, described) -> None:
        """Writes every process's new address wherever it stands."""
        paths = {process["name"]: pathlib.Path(process["data"][0]) / "process.json" for process in described}
        specs = {name: json.loads(path.read_text()) for name, path in paths.items()}
        text = json.dumps(specs)
        for name, spec in specs.items():
            for old in filter(None, [spec["listen"], spec["admin"]]):
                text = text.replace(old, f"{self.address[name]}:{old.split(':')[1]}")
        for name, spec in json.loads(text).items():
            paths[name].write_text(json.dumps(spec))
            self.argv[name] = [program(), "node", "--spec", str(paths[name])]
        door = json.loads(text)["s3"]
        self.s3, self.admin = door["listen"], door["admin"]

    def space(self, name: str) -> str:
        return f"{self.bridge}-{name}"

    def launch(self, name: str) -> None:
        log = open(self.folder / f"{name}.log", "ab")
        # `ip netns exec` becomes the program: the pid is the program's.
        argv = ["ip", "netns", "exec", self.space(name), *self.argv[name]]
        self.processes[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        for process in self.processes.values():
            process.wait(60)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", self.space(name)], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        self.cluster.stop()

    def client(self, attempts: int = 1, **config):
        keys = self.cluster.access
        return boto3_client(Access(self.s3, keys.access_key, keys.secret_key), attempts, **config)

    def status(self) -> dict:
        done = command(["status", "--output", "json"], self.admin, self.cluster.data("s3") / "credentials")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def leader(self) -> str:
        return wait_for("there is a leader", lambda: self.status()["meta"]["leader"])

    def rules(self, name: str, *rules: str) -> None:
        """Replaces the rules of a process's namespace."""
        lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
        for chain, hook in [("i", "input"), ("o", "output")]:
            lines.append(f"add chain {TABLE} {chain} {{ type filter hook {hook} priority 0; }}")
        lines += [f"add rule {TABLE} {rule}" for rule in rules]
        run("ip", "netns", "exec", self.space(name), "nft", "; ".join(lines))

    def others(self, name: str) -> str:
        return "{ " + ", ".join(self.address[other] for other in self.names if other != name) + " }"

    def cut_off(self, name: str) -> None:
        self.rules(name, f"i ip saddr {self.others(name)} drop", f"o ip daddr {self.others(name)} drop")

    def deafen(self, name: str) -> None:
        self.rules(name, f"i ip saddr {self.others(name)} drop")

    def silence(self, name: str) -> None:
        self.rules(name, f"o ip daddr {self.others(name)} drop")

    def lose(self, percent: int) -> None:
        for name in self.names:
            self.rules(name, f"i ip saddr {self.others(name)} numgen random mod 100 < {percent} drop")

    def heal(self) -> None:
        for name in self.names:
            self.rules(name)


def settled(net: Networked, seconds: float = 3.0) -> int:
    """Waits until there is a leader whose term stays, and returns the term."""
    term, since = None, time.monotonic()

    def is_settled():
        nonlocal term, since
        now = net.status()["meta"]
        if (now["leader"], now["term"]) != term or not now["leader"]:
            term, since = (now["leader"], now["term"]), time.monotonic()
        return time.monotonic() - since > seconds

    wait_for("one leader stays", is_settled, pause=0.2)
    return term[1]
