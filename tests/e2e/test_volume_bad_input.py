"""What `bixi volume` is asked wrongly: the right exit code, one clear sentence, and nothing is changed.

What it leaves to others: what goes well (test_nbd.py, test_snapshots.py), the socket's clients (test_vhost_attacks.py).
"""

import json
import os
import random
import struct
import subprocess

import pytest

from harness import free_port, noise, program, wait_for
from nbd import Nbd
from test_nbd import MIB, Nbdserver, tool

SIZE = 16 * MIB
FAILED, USAGE, NOT_FOUND, CONFLICT = 1, 2, 3, 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Nbdserver(tmp_path_factory.mktemp("volumes"), dirs=1)
    server.extra += ["--internal-addr", f"127.0.0.1:{free_port()}"]
    server.start()
    server.make("disk", SIZE)
    Nbd(server.nbd).go("disk").write(0, b"first")
    assert server.command("volume", "snapshot", "disk@s").returncode == 0
    yield server
    assert "panicked" not in server.log.read_text(errors="replace")
    assert server.stop() == 0


@pytest.fixture(autouse=True)
def nothing_is_changed(server):
    before = names(server)
    yield
    assert names(server) == before


def names(server) -> list:
    done = server.command("volume", "list", "--output", "json")
    return sorted((row["name"], row["size"]) for row in json.loads(done.stdout)["volumes"])


def refused(server, *words, code):
    """Ends with one of `code` after a sentence."""
    codes = (code,) if isinstance(code, int) else code
    done = server.command("volume", *words, text=True)
    assert done.returncode in codes, (words, done)
    said = done.stderr.strip()
    assert said and not done.stdout.strip(), done
    for word in ("panicked", "backtrace", "RUST_", "src/", "Err(", "unwrap"):
        assert word not in said, said
    assert len(said.splitlines()) <= 8 and len(said) < 2000, said
    return said


NAMES = ["", "a/b", "../disk", "/etc", ".hidden", "-x", "a b", "a\tb", "a\nb", "\u00fc", "a" * 64, "a" * 5000, "a@b", "@", "disk@",
         "a%2fb", "a?b", "a#b", "\\", "*", "$(id)", "disk;x", "\x7f"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_names_that_are_none(server, name):
    refused(server, "create", "--size", "1M", "--", name, code=(FAILED, USAGE))
    refused(server, "clone", "--", "disk@s", name, code=(FAILED, USAGE))
    refused(server, "rename", "--", "disk", name, code=(FAILED, USAGE, CONFLICT))
    refused(server, "snapshot", "--", f"disk@{name}", code=(FAILED, USAGE))
    refused(server, "resize", "--size", "1T", "--", name, code=(FAILED, USAGE, NOT_FOUND))
    refused(server, "status", "--", name, code=(FAILED, USAGE, NOT_FOUND))
    refused(server, "delete", "--yes", "--", name, code=(FAILED, USAGE, NOT_FOUND))
    refused(server, "qos", "--iops", "5", "--", name, code=(FAILED, USAGE, NOT_FOUND))


@pytest.mark.parametrize("name", ["none", "DISK", "disk.x", "disk@s"])
def test_names_of_nothing(server, name):
    if "@" not in name:
        assert f"there is no volume {name}" in refused(server, "snapshot", f"{name}@t", code=NOT_FOUND)
        assert f"there is no volume {name}" in refused(server, "resize", name, "--size", "1T", code=NOT_FOUND)
        refused(server, "clone", f"{name}@s", "copy", code=NOT_FOUND)
        refused(server, "rollback", f"{name}@s", "--yes", code=NOT_FOUND)
        refused(server, "delete", name, "--yes", code=NOT_FOUND)
        refused(server, "attach", name, "--nbd-unix", str(server.folder / "n"), code=(NOT_FOUND, CONFLICT))
        assert not (server.folder / "n").exists(), "the socket is gone again"
    refused(server, "resize", name, "--size", "1T", code=(FAILED, NOT_FOUND))
    refused(server, "rename", name, "other", code=(FAILED, NOT_FOUND))
    refused(server, "qos", name, "--iops", "5", code=(FAILED, NOT_FOUND))
    refused(server, "status", name, code=(FAILED, NOT_FOUND))


@pytest.mark.parametrize("size", ["0", "-1", "", "x", "1.5G", "1e9", "0x10", " ", "65T", "64T1", "1P", "18446744073709551616",
                                  "99999999999999999999T", "16777216T", "70368744177665"])
def test_sizes_that_are_none(server, size):
    refused(server, "create", "other", f"--size={size}", code=(FAILED, USAGE))
    refused(server, "resize", "disk", f"--size={size}", code=(FAILED, USAGE, CONFLICT))


@pytest.mark.parametrize("size", ["1", "8M", str(SIZE - 1), str(SIZE - 4096)])
def test_smaller_than_it_is(server, size):
    assert "shrink" in refused(server, "resize", "disk", "--size", size, code=CONFLICT)
    assert Nbd(server.nbd).go("disk").read(0, 5) == b"first"


def test_sizes_of_odd_bytes(server):
    """A size need not be a multiple of anything; the last byte is there."""
    for size in (1, 511, 4097, MIB + 1):
        server.make("odd", size)
        client = Nbd(server.nbd).go("odd")
        assert client.size == size
        client.write(size - 1, b"!")
        assert client.read(size - 1, 1) == b"!"
        client.disconnect()
        wait_for("given up", lambda: server.command("volume", "delete", "odd", "--yes").returncode == 0, pause=0.2)


def test_what_is_there_already(server):
    assert "there is a volume" in refused(server, "create", "disk", "--size", "1M", code=CONFLICT)
    refused(server, "clone", "disk@s", "disk", code=CONFLICT)
    refused(server, "snapshot", "disk@s", code=CONFLICT)
    server.make("other", MIB)
    refused(server, "rename", "other", "disk", code=CONFLICT)
    assert server.command("volume", "delete", "other", "--yes").returncode == 0


def test_snapshots_that_are_gone(server):
    assert server.command("volume", "snapshot", "disk@gone").returncode == 0
    assert server.command("volume", "delete", "disk@gone", "--yes").returncode == 0
    refused(server, "delete", "disk@gone", "--yes", code=NOT_FOUND)
    refused(server, "clone", "disk@gone", "copy", code=NOT_FOUND)
    refused(server, "create", "copy", "--from-snapshot", "disk@gone", code=NOT_FOUND)
    refused(server, "rollback", "disk@gone", "--yes", code=NOT_FOUND)
    refused(server, "export", "disk@gone", "-o", str(server.folder / "gone"), code=NOT_FOUND)
    refused(server, "export", "disk@s", "-o", str(server.folder / "gone"), "--since", "disk@gone", "--format", "qcow2", code=NOT_FOUND)
    assert not [path for path in server.folder.iterdir() if "gone" in path.name]


def test_a_snapshot_of_a_deleted_volume(server):
    server.make("short", MIB)
    assert server.command("volume", "snapshot", "short@s").returncode == 0
    assert server.command("volume", "delete", "short", "--yes").returncode == 0
    refused(server, "snapshot", "short@t", code=NOT_FOUND)
    refused(server, "clone", "short@s", "copy", code=NOT_FOUND)
    refused(server, "rollback", "short@s", "--yes", code=NOT_FOUND)
    refused(server, "delete", "short@s", "--yes", code=NOT_FOUND)
    refused(server, "export", "short@s", "-o", str(server.folder / "x"), code=NOT_FOUND)


@pytest.mark.parametrize("name", ["disk", "@s", "disk@", "@", ""])
def test_what_is_not_a_snapshot(server, name):
    for words in (["snapshot", name], ["rollback", name, "--yes"], ["clone", name, "copy"], ["export", name, "-o", "/nowhere/x"]):
        refused(server, *words, code=(FAILED, USAGE, NOT_FOUND))


@pytest.mark.parametrize("policy", ["", "copies:0", "copies:99", "ec:0+0", "ec:4+", "ec:300+2", "none", "ec:-1+2"])
def test_redundancies_that_are_none(server, policy):
    if policy:
        refused(server, "create", "other", "--size", "1M", f"--redundancy={policy}", code=(FAILED, USAGE, CONFLICT))
        refused(server, "create", "other", "--from-snapshot", "disk@s", f"--redundancy={policy}", code=(FAILED, USAGE, CONFLICT))


def test_limits_that_are_none(server):
    for words in (["--iops", "-1"], ["--iops", "x"], ["--bandwidth", "-1"], ["--bandwidth", "fast"], ["--burst", "-1"],
                  ["--iops", "18446744073709551616"], ["--burst", "4294967296"]):
        refused(server, "qos", "disk", *words, code=USAGE)
    # The largest numbers there are do no harm.
    most = [str((1 << 64) - 1), str((1 << 32) - 1)]
    assert server.command("volume", "qos", "disk", "--iops", most[0], "--bandwidth", most[0], "--burst", most[1]).returncode == 0
    client = Nbd(server.nbd).go("disk")
    client.write(4096, b"unhindered")
    client.disconnect()
    assert server.command("volume", "qos", "disk").returncode == 0


class Attached:
    def __init__(self, server, name, socket):
        environment = {**server.environment, "BIXI_ADMIN_ADDR": server.admin, "BIXI_CREDENTIALS": str(server.dirs[0] / "credentials")}
        argv = [program(), "volume", "attach", name, "--nbd-unix", str(socket)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)

    def __enter__(self):
        for line in self.process.stdout:
            if line.strip() == b"ready":
                return self
        raise AssertionError(f"ended with {self.process.wait()}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def test_attaching_twice(server, tmp_path):
    server.make("mine", MIB)
    one, two = tmp_path / "one", tmp_path / "two"
    with Attached(server, "mine", one):
        said = refused(server, "attach", "mine", "--nbd-unix", str(two), code=CONFLICT)
        assert "attached" in said or "has it" in said, said
        assert not two.exists()
        # The same socket: somebody serves it.
        refused(server, "attach", "mine", "--nbd-unix", str(one), code=FAILED)
        assert one.exists()
        refused(server, "rollback", "mine@none", "--yes", code=(NOT_FOUND, CONFLICT))
        assert server.command("volume", "snapshot", "mine@s").returncode == 0
        refused(server, "rollback", "mine@s", "--yes", code=CONFLICT)
        refused(server, "delete", "mine", "--yes", code=CONFLICT)
        refused(server, "rename", "mine", "yours", code=CONFLICT)
        # Its server's own door is another client, too.
        client = Nbd(server.nbd)
        with pytest.raises(Exception):
            client.go("mine")
    assert server.command("volume", "delete", "mine", "--yes").returncode == 0


def test_sockets_that_cannot_be(server, tmp_path):
    (tmp_path / "file").write_text("kept")
    for socket in (tmp_path / "file", tmp_path, tmp_path / "none" / "s", tmp_path / ("s" * 200), "/proc/s"):
        for kind in ("--nbd-unix", "--vhost-user"):
            refused(server, "attach", "disk", kind, str(socket), code=FAILED)
    assert (tmp_path / "file").read_text() == "kept"
    refused(server, "attach", "disk", code=USAGE)
    refused(server, "attach", "disk", "--nbd-unix", "a", "--vhost-user", "b", code=USAGE)
    refused(server, "attach", "disk", "--nbd-unix", str(tmp_path / "s"), "--cache", "-1", code=USAGE)
    wait_for("nobody has it", lambda: "attached_by" not in server.volumes()["disk"] or not server.volumes()["disk"]["attached_by"])


# --- images -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    (folder / "raw").write_bytes(noise("image", MIB) + bytes(MIB) + noise("more", 65536))
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", folder / "raw", folder / "packed")
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "raw", folder / "plain")
    return folder


FIELDS = {
    "version 0": (4, ">I", 0),
    "version 9": (4, ">I", 9),
    "name behind its end": (8, ">QI", 1 << 40, 100),
    "name of 4 GiB": (8, ">QI", 512, 0xFFFFFFFF),
    "clusters of one byte": (20, ">I", 0),
    "clusters of 2 GiB": (20, ">I", 31),
    "clusters of 2^2^32": (20, ">I", 0xFFFFFFFF),
    "no size": (24, ">Q", 0),
    "size of 2^64": (24, ">Q", (1 << 64) - 1),
    "larger than any volume": (24, ">Q", (64 << 40) + 512),
    "encrypted": (32, ">I", 1),
    "encrypted otherwise": (32, ">I", 99),
    "table of 2^32": (36, ">I", 0xFFFFFFFF),
    "no table": (36, ">I", 0),
    "table behind its end": (40, ">Q", 1 << 50),
    "table at an odd place": (40, ">Q", 12345),
    "table in its head": (40, ">Q", 0),
    "features of the future": (72, ">Q", (1 << 64) - 1),
    "marked as corrupt": (72, ">Q", 2),
    "data in another file": (72, ">Q", 4),
    "head of 4 GiB": (100, ">I", 0xFFFFFFFF),
    "head of nothing": (100, ">I", 0),
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())
def test_images_with_a_head_that_lies(server, image, tmp_path, field):
    bytes_ = bytearray((image / "plain").read_bytes())
    struct.pack_into(field[1], bytes_, field[0], *field[2:])
    (tmp_path / "bad").write_bytes(bytes_)
    refused(server, "import", str(tmp_path / "bad"), "imported", code=(FAILED, USAGE))


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_images_that_are_cut_or_damaged(server, image, tmp_path, kind):
    """A clear refusal, or a volume: never half of one, never a crash."""
    whole, rng = (image / kind).read_bytes(), random.Random(kind)
    for turn in range(25):
        damaged = bytearray(whole)
        if turn < 8:
            del damaged[[1, 50, 104, 200, 65536, 65537, len(whole) // 2, len(whole) - 70_000][turn]:]
        else:
            for _ in range(1 + turn % 4):
                at = rng.choice([rng.randrange(112), rng.randrange(65536 * 4), rng.randrange(len(whole))]) & ~7
                damaged[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), rng.randbytes(8)])
        (tmp_path / "bad").write_bytes(damaged)
        done = server.command("volume", "import", tmp_path / "bad", "imported", text=True)
        assert done.returncode in (0, FAILED, USAGE), done
        assert "panicked" not in done.stderr and "RUST_" not in done.stderr, done
        if done.returncode == 0:
            wait_for("deleted", lambda: server.command("volume", "delete", "imported", "--yes").returncode == 0, pause=0.2)
        else:
            assert done.stderr.strip() and "imported" not in server.volumes(), done


def test_files_that_are_no_images(server, tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in ("empty", ".", "none", "none/none"):
        refused(server, "import", str(tmp_path / path), "imported", code=(FAILED, USAGE, NOT_FOUND))
    (tmp_path / "raw").write_bytes(b"x" * 5000)
    refused(server, "import", str(tmp_path / "raw"), "imported", "--format", "qcow2", code=(FAILED, USAGE))
    refused(server, "import", str(tmp_path / "raw"), "disk", code=CONFLICT)
    refused(server, "import", str(tmp_path / "raw"), "none", "--onto", code=NOT_FOUND)
    refused(server, "import", str(tmp_path / "raw"), "a/b", code=(FAILED, USAGE))
    refused(server, "import", str(tmp_path / "raw"), "../../x", "--onto", code=(FAILED, USAGE, NOT_FOUND))
    with open(tmp_path / "large", "wb") as file:
        file.truncate(SIZE + MIB)
    refused(server, "import", str(tmp_path / "large"), "disk", "--onto", code=CONFLICT)
    refused(server, "export", "disk@s", "-o", str(tmp_path / "none" / "x"), code=FAILED)
    refused(server, "export", "disk@s", "-o", str(tmp_path), code=FAILED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "large", "pipe", "raw"]
