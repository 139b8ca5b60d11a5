"""Too little memory, too few file descriptors. Rows 31 and 32 of the promises.

256 MB hold the program and what it keeps for requests; beyond that it answers SlowDown and is not
killed. With 128 descriptors it serves, sheds connections that do nothing, and serves on.
"""

import concurrent.futures
import os
import pathlib
import socket

import botocore.exceptions
import pytest

from harness import Server, noise, wait_for

MEMORY_V1 = pathlib.Path("/sys/fs/cgroup/memory")
MEMORY_V2 = pathlib.Path("/sys/fs/cgroup")
LIMIT = 256 << 20

pytestmark = pytest.mark.alone


class MemoryLimit:
    """A memory cgroup, of either version, with a limit and no swap."""

    def __init__(self):
        self.is_v1 = (MEMORY_V1 / "cgroup.procs").exists()
        self.path = (MEMORY_V1 if self.is_v1 else MEMORY_V2) / f"bixi-test-{os.getpid()}"

    def lacking(self) -> str:
        if os.geteuid() != 0:
            return "needs root for a memory cgroup"
        controllers = MEMORY_V2 / "cgroup.controllers"
        if not self.is_v1 and not (controllers.exists() and "memory" in controllers.read_text().split()):
            return "needs memory cgroups"
        return ""

    def __enter__(self) -> "MemoryLimit":
        self.path.mkdir()
        name = "memory.limit_in_bytes" if self.is_v1 else "memory.max"
        try:
            (self.path / name).write_text(str(LIMIT))
        except BaseException:
            self.path.rmdir()
            raise
        return self

    def __exit__(self, *_):
        wait_for("the cgroup is empty", lambda: not (self.path / "cgroup.procs").read_text())
        self.path.rmdir()

    def wrapper(self) -> tuple:
        """Starts a program inside."""
        return ("sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh")

    def kills(self) -> int:
        """How often the kernel killed something in here."""
        name = "memory.oom_control" if self.is_v1 else "memory.events"
        rows = dict(line.split() for line in (self.path / name).read_text().splitlines())
        return int(rows.get("oom_kill", 0))


def peak_rss_mib(pid: int) -> int:
    rows = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("VmHWM")).split()[1]) >> 10


@pytest.mark.skipif(bool(MemoryLimit().lacking()), reason=MemoryLimit().lacking() or "never")
def test_256_mb_are_enough_and_overload_is_refused(tmp_path):
    with MemoryLimit() as limit:
        server = Server(tmp_path / "server", wrapper=limit.wrapper())
        server.start()
        try:
            client = server.client(read_timeout=120)
            client.create_bucket(Bucket="tight")
            bodies = {f"k{number}": noise(f"tight {number}", 12 << 20) for number in range(8)}

            def put(number):
                key = f"k{number % 8}"
                try:
                    client.put_object(Bucket="tight", Key=f"{key}/{number}", Body=bodies[key])
                    return f"{key}/{number}"
                except botocore.exceptions.ClientError as error:
                    assert error.response["Error"]["Code"] == "SlowDown", error
                    return None
                except botocore.exceptions.ConnectionClosedError:
                    # A refusal that came while the body was still being sent may be lost with the
                    # connection (RFC 9112, 9.6). That the process lives is asserted below.
                    return None

            with concurrent.futures.ThreadPoolExecutor(48) as pool:
                stored = [key for key in pool.map(put, range(96)) if key]
            assert stored

            def get(key):
                try:
                    return client.get_object(Bucket="tight", Key=key)["Body"].read() == bodies[key.split("/")[0]]
                except botocore.exceptions.ClientError as error:
                    assert error.response["Error"]["Code"] == "SlowDown", error
                    return True

            with concurrent.futures.ThreadPoolExecutor(48) as pool:
                assert all(pool.map(get, stored))
            print(f"{len(stored)} of 96 puts of 12 MiB, peak {peak_rss_mib(server.process.pid)} MiB resident")
            assert limit.kills() == 0 and server.process.poll() is None
        finally:
            server.kill()


def test_without_descriptors_it_serves_on(tmp_path):
    server = Server(tmp_path / "server", wrapper=("prlimit", "--nofile=128:128"))
    server.start()
    idle = []
    try:
        client = server.client(read_timeout=120)
        client.create_bucket(Bucket="few")
        client.put_object(Bucket="few", Key="k", Body=noise("few", 300_000))
        host, port = server.s3.split(":")
        for _ in range(160):
            connection = socket.create_connection((host, int(port)), timeout=60)
            idle.append(connection)

        def serves():
            try:
                found = server.client(read_timeout=20, connect_timeout=20).get_object(Bucket="few", Key="k")["Body"].read()
                return found == noise("few", 300_000)
            except botocore.exceptions.BotoCoreError:
                return False

        wait_for("it serves beside idle connections", serves)
        for connection in idle:
            connection.close()
        idle.clear()
        wait_for("it serves afterwards", serves)
        client.put_object(Bucket="few", Key="after", Body=noise("after", 300_000))
        assert client.get_object(Bucket="few", Key="after")["Body"].read() == noise("after", 300_000)
    finally:
        for connection in idle:
            connection.close()
        server.kill()
