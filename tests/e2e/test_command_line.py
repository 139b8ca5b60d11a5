"""The command line as scripts and people meet it."""

import json
import os
import subprocess

import pytest

from harness import Server, program


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    assert server.stop() == 0


def test_status_answers_in_numbers(server):
    status = json.loads(server.command("status", "--output", "json").stdout)
    assert status["ready"] is True
    assert status["meta"]["leader"].startswith("meta-") and status["meta"]["term"] >= 1
    assert {"healthy", "crowded", "degraded", "lost"} <= status["chunks"].keys()
    assert len(status["cluster_id"]) == 16


def test_buckets_and_objects_go_there_and_back(server, tmp_path):
    assert server.command("bucket", "create", "cli-bucket").returncode == 0
    (tmp_path / "tree" / "a").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "tree" / "a" / f"f{number}").write_bytes(os.urandom(number * 3000))
    assert server.command("object", "cp", "--recursive", tmp_path / "tree", "s3://cli-bucket/t").returncode == 0
    listed = server.command("object", "ls", "--recursive", "s3://cli-bucket/", "--output", "json")
    assert listed.returncode == 0 and listed.stdout.count(b"f29") == 1
    done = server.command("object", "cp", "--recursive", "s3://cli-bucket/t", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    back = sorted(path for path in (tmp_path / "back").rglob("*") if path.is_file())
    assert len(back) == 30
    for path in back:
        assert path.read_bytes() == next((tmp_path / "tree").rglob(path.name)).read_bytes()
    assert server.command("object", "cat", "s3://cli-bucket/none").returncode == 3
    assert server.command("bucket", "delete", "cli-bucket").returncode == 4
    assert server.command("object", "rm", "--recursive", "s3://cli-bucket/").returncode == 0
    assert server.command("bucket", "delete", "cli-bucket").returncode == 0


def test_keys_belong_to_users_and_buckets_to_keys(server, tmp_path):
    made = json.loads(server.command("key", "create", "--user", "anna", "--output", "json").stdout)
    assert made["user"] == "anna" and made["access_key"] and made["secret_key"]
    other = tmp_path / "credentials"
    other.write_text(f"access_key={made['access_key']}\nsecret_key={made['secret_key']}\n")
    assert server.command("bucket", "create", "roots-own").returncode == 0
    denied = server.command("object", "ls", "s3://roots-own/", "--credentials", other)
    assert denied.returncode == 5, denied.stderr
    assert server.command("key", "list", "--credentials", other).returncode == 5
    # How the cluster is built, and what is to become of it, is not for tenants.
    for ask in (["plan"], ["safe-to-remove", "disk", "1"], ["disk", "drain", "1"], ["disk", "add", tmp_path / "more"]):
        assert server.command(*ask, "--credentials", other).returncode == 5, ask
    assert not (tmp_path / "more").exists()
    assert server.command("key", "delete", made["access_key"]).returncode == 0
    assert server.command("key", "delete", made["access_key"]).returncode == 3
    assert server.command("bucket", "delete", "roots-own").returncode == 0


def test_mistakes_are_named(server, tmp_path):
    unknown = server.command("statsu")
    assert unknown.returncode == 2 and b"status" in unknown.stderr
    config = tmp_path / "bixi.toml"
    config.write_text("[s3]\nregion = 'eu'\nregoin = 'x'\n")
    checked = server.command("config", "check", config)
    assert checked.returncode != 0 and b"bixi.toml:3" in checked.stderr + checked.stdout
    refused = server.command("server", tmp_path / "x", "--config", config)
    assert refused.returncode in (1, 2) and b"bixi.toml:3" in refused.stderr, refused.stderr
    away = server.command("status", "--admin-addr", "127.0.0.1:1")
    assert away.returncode == 6 and away.stdout == b""
    second = server.command("server", server.dirs[0], "--s3-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0")
    assert second.returncode == 4 and b"in use by another bixi process" in second.stderr


def test_closed_output_ends_quietly_and_no_escape_codes_come_without_a_terminal(server):
    line = f"{program()} completions bash | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stderr == b""
    for command in (["status"], ["--help"], ["bucket", "list"]):
        assert b"\x1b" not in server.command(*command).stdout


def test_bench_prints_its_figures_beside_the_limit(server):
    for operation in ("put", "get", "list"):
        done = server.command("bench", "s3", "--op", operation, "--size", "4k", "-c", "4", "--secs", "1", "--output", "json")
        figures = json.loads(done.stdout)
        assert figures["errors"] == 0 and figures["ops_per_sec"] > 0
        assert figures["cold"] is False
        assert {"op", "size_bytes", "concurrency", "p50_us", "p99_us", "mib_per_sec", "limit"} <= figures.keys()


def test_cold_reads_read_each_object_once(server):
    what = ["--op", "get", "--size", "1M", "-c", "4", "--objects", "30", "--cold", "--secs", "50"]
    figures = json.loads(server.command("bench", "s3", *what, "--output", "json").stdout)
    assert figures["cold"] is True and figures["errors"] == 0
    assert figures["requests"] == 30
    assert figures["limit"]["disk_read_direct_per_sec"] > 0
    assert server.command("bench", "s3", "--op", "put", "--cold").returncode == 2
