"""The main job: people's own tools carry a real tree of files into a cluster, machines die in the
middle of it, and everything comes back identical.

`aws s3 sync` and `rclone copy` upload the same tree, `aws s3 cp` one large file in parts, all at
once, into three metaservers and six chunkservers under ec:4+2. When a good part is there, two
chunkservers and the leading metaserver are killed. No tool fails; everything reads back identical
while they are dead and after they return; redundancy is whole again.

    BIXI_TEST_JOB_FILES      files of the tree, at least (default 240; the long run: 20000)
    BIXI_TEST_JOB_MIB        bytes of the tree, at least, in MiB (default 8; the long run: 1024)
    BIXI_TEST_JOB_BIG_MIB    the large file, in MiB (default 40; the long run: 5120)

The tree is made of files that this machine has: sources, documents and libraries of Python, Rust
and the system. Disk needed: about seven times the tree and four times the large file.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import threading
import time

import pytest

from harness import Access, Cluster, boto3_client, client_path, noise, wait_for

FILES = int(os.environ.get("BIXI_TEST_JOB_FILES", "240"))
TREE_MIB = int(os.environ.get("BIXI_TEST_JOB_MIB", "8"))
BIG_MIB = int(os.environ.get("BIXI_TEST_JOB_BIG_MIB", "40"))
FILE_MAX = 64 << 20
DEAD = ["chunk-2", "chunk-5"]


def sources() -> list:
    """Where real files are, the likeliest first."""
    home = pathlib.Path.home()
    cargo = pathlib.Path(os.environ.get("CARGO_HOME", home / ".cargo"))
    rustup = pathlib.Path(os.environ.get("RUSTUP_HOME", home / ".rustup"))
    names = [sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], cargo / "registry/src"]
    return [*map(pathlib.Path, names), rustup / "toolchains", pathlib.Path("/usr/share"), pathlib.Path("/usr/include")]


def build_tree(tree: pathlib.Path) -> dict:
    """Fills `tree` with copies of real files; returns their SHA-256 by path."""
    digests, total = {}, 0
    for source in sources():
        for folder, folders, names in os.walk(source):
            folders.sort()
            for name in sorted(names):
                path = pathlib.Path(folder) / name
                if len(digests) >= FILES and total >= TREE_MIB << 20:
                    return digests
                if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                    continue
                if path.stat().st_size > FILE_MAX or not str(path).isprintable():
                    continue
                relative = f"{source.name}/{path.relative_to(source)}"
                target = tree / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
                digests[relative] = digest_of(target)
                total += target.stat().st_size
    raise AssertionError(f"this machine has {len(digests)} files of {total >> 20} MiB; ask for fewer")


def build_big(path: pathlib.Path) -> str:
    """A file of BIG_MIB that does not repeat; returns its SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for number in range(BIG_MIB):
            piece = noise(f"big {number}", 1 << 20)
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def digest_of(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Tools:
    """aws and rclone, as a person would set them up."""

    def __init__(self, access: Access, home: pathlib.Path):
        self.access = access
        self.environment = {
            **access.environment(home),
            # What awscli does by itself; the harness asks for less elsewhere.
            "AWS_MAX_ATTEMPTS": "10",
            "AWS_RETRY_MODE": "standard",
            "RCLONE_CONFIG": str(home / "rclone.conf"),
            "RCLONE_CONFIG_BIXI_TYPE": "s3",
            "RCLONE_CONFIG_BIXI_PROVIDER": "Other",
            "RCLONE_CONFIG_BIXI_ACCESS_KEY_ID": access.access_key,
            "RCLONE_CONFIG_BIXI_SECRET_ACCESS_KEY": access.secret_key,
            "RCLONE_CONFIG_BIXI_ENDPOINT": access.endpoint,
            "RCLONE_CONFIG_BIXI_REGION": "us-east-1",
        }
        (home / "rclone.conf").write_text("")

    def start(self, log: pathlib.Path, *argv) -> subprocess.Popen:
        argv = [client_path(argv[0]), *map(str, argv[1:])]
        with open(log, "wb") as out:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment)

    def aws(self, log, *argv) -> subprocess.Popen:
        return self.start(log, "aws", "--endpoint-url", self.access.endpoint, *argv)

    def rclone(self, log, *argv) -> subprocess.Popen:
        return self.start(log, "rclone", *argv, "--transfers", "4", "--checkers", "4")


def finish(process: subprocess.Popen, log: pathlib.Path) -> None:
    code = process.wait()
    assert code == 0, f"{process.args} ended with {code}:\n{log.read_text(errors='replace')[-3000:]}"


def assert_same_tree(back: pathlib.Path, digests: dict) -> None:
    found = {str(path.relative_to(back)): digest_of(path) for path in back.rglob("*") if path.is_file()}
    wrong = sorted(key for key in digests.keys() | found.keys() if digests.get(key) != found.get(key))
    assert not wrong, f"{len(wrong)} files differ, are lacking or are too many, as {wrong[:5]}"


def check(tools: Tools, tmp_path: pathlib.Path, digests: dict, big: str, when: str) -> None:
    """Both copies of the tree, each fetched by the other tool than the one that stored it, and the
    large file."""
    began = time.monotonic()
    for tool, prefix in [(tools.rclone, "aws"), (tools.aws, "rclone")]:
        back, log = tmp_path / "back", tmp_path / f"{when} {prefix}.log"
        if tool == tools.rclone:
            finish(tool(log, "copy", f"bixi:job/{prefix}", back), log)
        else:
            finish(tool(log, "s3", "sync", "--only-show-errors", f"s3://job/{prefix}", back), log)
        assert_same_tree(back, digests)
        shutil.rmtree(back)
    digest = hashlib.sha256()
    body = boto3_client(tools.access, attempts=8, read_timeout=300).get_object(Bucket="job", Key="big")["Body"]
    for piece in body.iter_chunks(1 << 20):
        digest.update(piece)
    assert digest.hexdigest() == big
    print(f"{when}: everything read back identical in {time.monotonic() - began:.0f} s")


@pytest.mark.timeout(600 + FILES // 4 + TREE_MIB * 2 + BIG_MIB)
def test_real_tools_carry_a_real_tree_while_machines_die(tmp_path):
    tree, large = tmp_path / "tree", tmp_path / "large"
    digests, big = build_tree(tree), build_big(large)
    total = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    print(f"\n{len(digests)} files of {total >> 20} MiB, and one of {BIG_MIB} MiB, on {sys.platform}")
    cluster = Cluster(tmp_path / "cluster")
    try:
        client = cluster.start().client(read_timeout=300)
        client.create_bucket(Bucket="job")
        tools = Tools(cluster.access, tmp_path / "home")
        began = time.monotonic()
        logs = [tmp_path / f"{name}.log" for name in ("aws", "rclone", "big")]
        work = [
            tools.aws(logs[0], "s3", "sync", "--only-show-errors", tree, "s3://job/aws"),
            tools.rclone(logs[1], "copy", tree, "bixi:job/rclone"),
            tools.aws(logs[2], "s3", "cp", "--only-show-errors", large, "s3://job/big"),
        ]

        def in_the_middle():
            """A good part of both trees is there."""
            assert any(tool.poll() is None for tool in work), "the tools were done before anything was killed"
            enough = min(len(digests) // 5, 900)
            return all(
                client.list_objects_v2(Bucket="job", Prefix=f"{prefix}/")["KeyCount"] >= enough
                for prefix in ("aws", "rclone")
            )

        wait_for("a good part of the tree is there", in_the_middle, patience=600, pause=0.1)
        dead = [*DEAD, cluster.leader()]
        killers = [threading.Thread(target=cluster.kill, args=(name,)) for name in dead]
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
        under_way = sum(tool.poll() is None for tool in work)
        killed_at = time.monotonic() - began
        assert under_way > 0
        for tool, log in zip(work, logs, strict=True):
            finish(tool, log)
        took = time.monotonic() - began
        print(f"killed {', '.join(dead)} after {killed_at:.0f} s with {under_way} of 3 tools at work; uploaded in {took:.0f} s")
        check(tools, tmp_path, digests, big, "while they are dead")
        assert cluster.status()["chunks"]["lost"] == 0
        for name in dead:
            cluster.restart(name)
        began = time.monotonic()
        cluster.wait_whole(300 + TREE_MIB + BIG_MIB)
        print(f"redundancy whole again {time.monotonic() - began:.0f} s after they returned")
        check(tools, tmp_path, digests, big, "after they returned")
    finally:
        cluster.stop()
