"""Runs the program under test: a server of one process, or a whole cluster of processes.

What it leaves to others: what the answers should be (the tests), requests signed by hand
(raw.py).

Promise: only processes that this module started are ever signalled, by their pid.
"""

import hashlib
import http.client
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

import boto3
import botocore.config

REGION = "us-east-1"
# How long something that happens in a second on an idle machine may take on a loaded one.
PATIENCE = 120.0


# `make soak` asks for every variant of a test, `make test` for one that stands for the others.
LONG = bool(os.environ.get("BIXI_TEST_LONG"))


def variants(smoke: list, others: list) -> list:
    """Parameters of a test: those that always run, and those of the long run."""
    return smoke + others if LONG else smoke


def target_dir() -> pathlib.Path:
    """Where cargo builds to; the Makefile exports the same."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path.home() / ".cache/bixi-target"))


def program(name: str = "bixi") -> str:
    """Path of the program under test, or of another one that is built beside it."""
    if name == "bixi" and "BIXI_TEST_PROGRAM" in os.environ:
        return os.environ["BIXI_TEST_PROGRAM"]
    return str(target_dir() / "release" / name)


def client_path(name: str) -> str:
    """Programs of others lie beside the interpreter of the virtual environment."""
    beside = pathlib.Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    assert path, f"{name} is lacking: install tests/requirements.txt"
    return path


# Below those that the kernel gives to clients, and not those that `bixi dev` gives to its processes.
PORTS = range(16_000, 24_000)


def ports_of(worker: int, workers: int) -> range:
    """The ports of one of several processes that run tests at the same time (pytest-xdist); no two share one."""
    return PORTS[worker::workers]


MY_PORTS = ports_of(int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
ports_tried = itertools.count(random.SystemRandom().randrange(len(MY_PORTS)))


def free_port() -> int:
    """A port of the loopback that nobody listens on now, and that the kernel gives to no client
    while the server is down: one from below its range. None is given twice in a run, for a server that is not yet
    started, or is down for a while, does not hold its own."""
    while True:
        port = MY_PORTS[next(ports_tried) % len(MY_PORTS)]
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_for(what: str, is_so, patience: float = PATIENCE, pause: float = 0.05):
    """Waits until `is_so()` is true and returns what it returned."""
    deadline = time.monotonic() + patience
    while True:
        answer = is_so()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not so after {patience:.0f} s: {what}"
        time.sleep(pause)


def noise(seed: str, len_bytes: int) -> bytes:
    """Bytes that do not repeat, the same for the same seed."""
    return hashlib.shake_256(seed.encode()).digest(len_bytes)


class Access:
    """How to reach a running server: endpoint and keys."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str):
        self.endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
        self.access_key = access_key
        self.secret_key = secret_key
        self.host = urllib.parse.urlsplit(self.endpoint).netloc

    def environment(self, home: pathlib.Path) -> dict:
        """Environment for command line clients: keys, and nothing of the user's own settings."""
        home.mkdir(parents=True, exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "NO_PROXY": "127.0.0.1,localhost",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }


def boto3_client(access: Access, attempts: int = 1, **config):
    """A client that hides no failure behind retries unless `attempts` says so."""
    return boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        region_name=REGION,
        config=botocore.config.Config(
            # Presigned URLs too: for an endpoint that is not AWS's it would fall back to SigV2.
            signature_version="s3v4",
            retries={"total_max_attempts": attempts, "mode": "standard"},
            s3={"addressing_style": "path"},
            max_pool_connections=64,
            proxies={},
            **config,
        ),
    )


def read_credentials(directory: pathlib.Path) -> dict:
    """access_key and secret_key of the file that the server left in `directory`."""
    lines = (directory / "credentials").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def is_ready(admin: str) -> bool:
    """Whether the server whose admin door is at `admin` takes requests."""
    host, port = admin.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=2)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def command(argv, admin: str, credentials: pathlib.Path, **more) -> subprocess.CompletedProcess:
    """Runs a `bixi` command against the server whose admin door is at `admin`."""
    environment = {**os.environ, "BIXI_ADMIN_ADDR": admin, "BIXI_CREDENTIALS": str(credentials)}
    argv = [program(), *map(str, argv)]
    return subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, **more)


class Server:
    """One `bixi server` process over the given directories; the same ports at every start."""

    def __init__(self, folder: pathlib.Path, dirs=3, extra: tuple = (), wrapper: tuple = (), environment=None):
        """`dirs`: how many, or their paths. `wrapper`: what the program is started by."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.dirs = [folder / f"disk{number}" for number in range(dirs)] if isinstance(dirs, int) else list(dirs)
        self.s3 = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.extra = list(extra)
        self.wrapper = list(wrapper)
        self.environment = {**os.environ, **(environment or {})}
        self.process = None
        self.log = folder / "server.log"

    @property
    def endpoint(self) -> str:
        return f"http://{self.s3}"

    @property
    def credentials_path(self) -> pathlib.Path:
        return self.dirs[0] / "credentials"

    @property
    def access(self) -> Access:
        keys = self.credentials()
        return Access(self.endpoint, keys["access_key"], keys["secret_key"])

    def client(self, **config):
        return boto3_client(self.access, **config)

    def argv(self) -> list:
        dirs = [str(path) for path in self.dirs]
        addresses = ["--s3-addr", self.s3, "--admin-addr", self.admin]
        return [*self.wrapper, program(), "server", *dirs, *addresses, *self.extra]

    def start(self, timeout: float = PATIENCE) -> float:
        """Starts the process and waits until it is ready. Returns the seconds that took."""
        began = self.launch()
        while not is_ready(self.admin):
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() - began > timeout:
                self.kill()
                raise AssertionError(f"the server is not ready after {timeout} s:\n{self.log_tail()}")
            time.sleep(0.005)
        return time.monotonic() - began

    def launch(self) -> float:
        """Starts the process and waits for nothing. Returns the moment."""
        with open(self.log, "ab") as log:
            began = time.monotonic()
            self.process = subprocess.Popen(
                self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        return began

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """kill -9."""
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def stop(self) -> int:
        """Asks the process to end, insists after a while, and returns its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def command(self, *argv, **more) -> subprocess.CompletedProcess:
        return command(argv, self.admin, self.credentials_path, **more)

    def status(self) -> dict:
        done = self.command("status", "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def metrics(self) -> dict:
        """Sums over labels, by name."""
        connection = http.client.HTTPConnection(self.admin, timeout=60)
        connection.request("GET", "/metrics")
        sums = {}
        for line in connection.getresponse().read().decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.split("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        connection.close()
        return sums

    def credentials(self) -> dict:
        return read_credentials(self.dirs[0])

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


class Cluster:
    """A `bixi dev` cluster: one process for each metaserver, chunkserver and the S3 door."""

    def __init__(
        self, directory: pathlib.Path, *, meta=3, chunk=6, redundancy="ec:4+2", environment=None, extra: tuple = ()
    ):
        self.directory = directory
        self.environment = {**os.environ, **(environment or {})}
        self.argv = [program(), "dev", "--data", str(directory), "--meta", str(meta), "--chunk", str(chunk)]
        self.argv += ["--redundancy", redundancy, *extra]
        self.processes = {}
        self.supervisor = None

    def start(self) -> "Cluster":
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        log = open(self.directory.parent / "dev.err", "ab")
        self.supervisor = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=self.environment
        )
        described = self.directory / "cluster.json"

        def is_up():
            assert self.supervisor.poll() is None, f"bixi dev ended with {self.supervisor.returncode}"
            return described.exists()

        wait_for("the cluster is up", is_up)
        self.description = json.loads(described.read_text())
        # A process that was started again is our child; the others are the supervisor's.
        self.processes = {process["name"]: process["pid"] for process in self.description["processes"]}
        self.again = {}
        return self

    @property
    def access(self) -> Access:
        return Access(self.description["s3"], self.description["access_key"], self.description["secret_key"])

    def client(self, attempts: int = 8, **config):
        return boto3_client(self.access, attempts, **config)

    def command(self, *argv) -> subprocess.CompletedProcess:
        return command(argv, self.description["admin"], self.directory / "s3" / "credentials")

    def status(self) -> dict:
        done = self.command("status", "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def leader(self) -> str:
        """The name of the leading metaserver."""
        return wait_for("there is a leader", lambda: self.status()["meta"]["leader"])

    def data(self, name: str) -> pathlib.Path:
        """The directory of a process."""
        return pathlib.Path(self.described(name)["data"][0])

    def described(self, name: str) -> dict:
        return next(process for process in self.description["processes"] if process["name"] == name)

    def signal(self, name: str, number: int) -> None:
        os.kill(self.processes[name], number)

    def kill(self, name: str) -> None:
        """kill -9, and waits until it is gone."""
        self.signal(name, signal.SIGKILL)
        if name in self.again:
            self.again[name].wait()
        else:
            wait_for(f"{name} is gone", lambda: is_gone(self.processes[name]))

    def restart(self, name: str) -> None:
        """Starts a process that was killed, as it was started before."""
        log = open(self.directory / f"{name}.again.log", "ab")
        argv = self.described(name)["argv"]
        self.again[name] = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
        )
        self.processes[name] = self.again[name].pid

    def wait_whole(self, patience: float = 300.0) -> None:
        """Waits until every chunk has all its shards."""
        last = {}

        def is_whole():
            last.update(self.status()["chunks"])
            return last["degraded"] == 0 and last["lost"] == 0

        try:
            wait_for("redundancy is whole again", is_whole, patience, pause=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}") from None

    def stop(self) -> None:
        if self.supervisor is None:
            return
        mine = [self.supervisor, *self.again.values()] if self.processes else [self.supervisor]
        for process in mine:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in mine:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_gone(pid: int) -> bool:
    """A zombie that its parent has not waited for counts as gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
