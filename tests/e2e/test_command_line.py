"""The command line as scripts and people meet it."""

import json
import os
import subprocess
import sys
import pathlib

import pytest

from test_cluster_survives import binary

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "corpus"))

import make_store  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("server")
    process, client = make_store.start(binary(), root)
    yield root, client
    make_store.stop(process)


def bixi(root, *argv, **more):
    environment = {
        **os.environ,
        "BIXI_ADMIN_ADDR": make_store.ADMIN,
        "BIXI_CREDENTIALS": str(root / "d1" / "credentials"),
    }
    return subprocess.run([binary(), *map(str, argv)], env=environment, capture_output=True, timeout=60, **more)


def test_status_answers_in_numbers(server):
    status = json.loads(bixi(server[0], "status", "--output", "json").stdout)
    assert status["ready"] is True
    assert status["meta"]["leader"].startswith("meta-") and status["meta"]["term"] >= 1
    assert {"healthy", "crowded", "degraded", "lost"} <= status["chunks"].keys()
    assert len(status["cluster_id"]) == 16


def test_buckets_and_objects_go_there_and_back(server, tmp_path):
    root = server[0]
    assert bixi(root, "bucket", "create", "cli-bucket").returncode == 0
    (tmp_path / "tree" / "a").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "tree" / "a" / f"f{number}").write_bytes(os.urandom(number * 3000))
    assert bixi(root, "object", "cp", "--recursive", tmp_path / "tree", "s3://cli-bucket/t").returncode == 0
    listed = bixi(root, "object", "ls", "--recursive", "s3://cli-bucket/", "--output", "json")
    assert listed.returncode == 0 and listed.stdout.count(b"f29") == 1
    done = bixi(root, "object", "cp", "--recursive", "s3://cli-bucket/t", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    back = sorted(path for path in (tmp_path / "back").rglob("*") if path.is_file())
    assert len(back) == 30
    for path in back:
        assert path.read_bytes() == next((tmp_path / "tree").rglob(path.name)).read_bytes()
    assert bixi(root, "object", "cat", "s3://cli-bucket/none").returncode == 3
    assert bixi(root, "bucket", "delete", "cli-bucket").returncode == 4
    assert bixi(root, "object", "rm", "--recursive", "s3://cli-bucket/").returncode == 0
    assert bixi(root, "bucket", "delete", "cli-bucket").returncode == 0


def test_keys_belong_to_users_and_buckets_to_keys(server, tmp_path):
    root = server[0]
    made = json.loads(bixi(root, "key", "create", "--user", "anna", "--output", "json").stdout)
    assert made["user"] == "anna" and made["access_key"] and made["secret_key"]
    other = tmp_path / "credentials"
    other.write_text(f"access_key={made['access_key']}\nsecret_key={made['secret_key']}\n")
    assert bixi(root, "bucket", "create", "roots-own").returncode == 0
    denied = bixi(root, "object", "ls", "s3://roots-own/", "--credentials", other)
    assert denied.returncode == 5, denied.stderr
    assert bixi(root, "key", "list", "--credentials", other).returncode == 5
    assert bixi(root, "key", "delete", made["access_key"]).returncode == 0
    assert bixi(root, "key", "delete", made["access_key"]).returncode == 3
    assert bixi(root, "bucket", "delete", "roots-own").returncode == 0


def test_mistakes_are_named(server, tmp_path):
    root = server[0]
    unknown = bixi(root, "statsu")
    assert unknown.returncode == 2 and b"status" in unknown.stderr
    config = tmp_path / "bixi.toml"
    config.write_text("[s3]\nregion = 'eu'\nregoin = 'x'\n")
    checked = bixi(root, "config", "check", config)
    assert checked.returncode != 0 and b"bixi.toml:3" in checked.stderr + checked.stdout
    refused = bixi(root, "server", tmp_path / "x", "--config", config)
    assert refused.returncode in (1, 2) and b"bixi.toml:3" in refused.stderr, refused.stderr
    away = bixi(root, "status", "--admin-addr", "127.0.0.1:1")
    assert away.returncode == 6 and away.stdout == b""
    second = bixi(root, "server", root / "d1", "--s3-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0")
    assert second.returncode == 4 and b"in use by another bixi process" in second.stderr


def test_closed_output_ends_quietly_and_no_escape_codes_come_without_a_terminal(server):
    root = server[0]
    line = f"{binary()} completions bash | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=30)
    assert done.returncode == 0 and done.stderr == b""
    for command in (["status"], ["--help"], ["bucket", "list"]):
        assert b"\x1b" not in bixi(root, *command).stdout


def test_bench_prints_its_figures_beside_the_limit(server):
    for operation in ("put", "get", "list"):
        done = bixi(server[0], "bench", "s3", "--op", operation, "--size", "4k", "-c", "4", "--secs", "1", "--output", "json")
        figures = json.loads(done.stdout)
        assert figures["errors"] == 0 and figures["ops_per_sec"] > 0
        assert {"op", "size_bytes", "concurrency", "p50_us", "p99_us", "mib_per_sec", "limit"} <= figures.keys()
