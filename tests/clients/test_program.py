"""The program's own manners: credentials, health, wrong directories."""

import http.client
import os
import re
import shutil
import stat
import subprocess

import pytest

from harness import Server, free_port, is_ready, program, wait_for


@pytest.fixture
def server(tmp_path):
    if "BIXI_TEST_S3" in os.environ:
        pytest.skip("needs a server of its own")
    server = Server(tmp_path / "one", dirs=3)
    server.start()
    yield server
    server.stop()


def client_of(server):
    return server.client()


def admin(server, path):
    connection = http.client.HTTPConnection(server.admin, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def refuses_to_start(argv):
    """Runs a server that must refuse; returns what it said."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert done.returncode not in (0, -6, 101, 134), done
    said = (done.stdout + done.stderr).decode()
    assert "panicked" not in said
    return said


def test_credentials_are_private_and_well_formed(server):
    path = server.dirs[0] / "credentials"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = server.credentials()
    assert re.fullmatch(r"BX[A-Z2-7]{18}", keys["access_key"])
    assert re.fullmatch(r"[0-9A-Za-z/+_-]{40}", keys["secret_key"])
    assert not (server.dirs[1] / "credentials").exists()


def test_health_and_metrics_need_no_key_and_the_rest_does(server):
    assert admin(server, "/health/live")[0] == 200
    assert admin(server, "/health/ready")[0] == 200
    status, metrics = admin(server, "/metrics")
    assert status == 200 and "# TYPE" in metrics
    assert admin(server, "/status")[0] in (401, 403, 404)
    assert server.credentials()["secret_key"] not in metrics


def test_the_log_does_not_show_the_secret_key_twice(server):
    # The first start prints it once, on purpose; nothing else ever does.
    client_of(server).list_buckets()
    assert server.log.read_text(errors="replace").count(server.credentials()["secret_key"]) <= 3


def test_a_second_server_on_the_same_dir_refuses_and_disturbs_nothing(server):
    s3 = client_of(server)
    s3.create_bucket(Bucket="before")
    argv = server.argv()
    argv[argv.index("--s3-addr") + 1] = f"127.0.0.1:{free_port()}"
    argv[argv.index("--admin-addr") + 1] = f"127.0.0.1:{free_port()}"
    assert str(server.dirs[0]) in refuses_to_start(argv)
    s3.create_bucket(Bucket="after")
    assert [entry["Name"] for entry in s3.list_buckets()["Buckets"]] == ["after", "before"]


def test_a_taken_port_is_named(server, tmp_path):
    argv = server.argv()
    argv[2:5] = [str(tmp_path / "other")]
    assert server.s3 in refuses_to_start(argv)


def test_a_dir_of_another_cluster_is_refused_and_left_alone(server, tmp_path):
    other = Server(tmp_path / "two", dirs=3)
    other.start()
    client_of(other).create_bucket(Bucket="theirs")
    other.stop()
    server.stop()
    argv = server.argv()
    argv[argv.index(str(server.dirs[2]))] = str(other.dirs[2])
    assert str(other.dirs[2]) in refuses_to_start(argv)
    server.start()
    other.start()
    assert [entry["Name"] for entry in client_of(other).list_buckets()["Buckets"]] == ["theirs"]
    other.stop()


def test_a_damaged_identity_is_refused_not_formatted(server):
    server.stop()
    kept = {path: path.read_bytes() for path in server.dirs[1].iterdir() if path.is_file() and path.stat().st_size < 1e6}
    assert kept, "a directory has small files of identity"
    for path, body in kept.items():
        path.write_bytes(bytes(byte ^ 0xFF for byte in body))
    before = sorted(path.name for path in server.dirs[1].iterdir())
    # Two of three can serve, or nobody does; either way what is there stays.
    server.launch()
    wait_for("it serves or has ended", lambda: is_ready(server.admin) or server.process.poll() is not None)
    server.kill()
    assert set(before) <= {path.name for path in server.dirs[1].iterdir()}
    for path, body in kept.items():
        path.write_bytes(body)
    server.start()


def test_unknown_flags_and_missing_arguments_are_explained():
    for argv in (["server"], ["server", "--no-such-flag", "x"], ["no-such-command"]):
        done = subprocess.run([program(), *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        assert done.returncode == 2
        assert b"sage" in done.stderr


def test_a_server_writes_only_into_its_dirs(tmp_path):
    # Directories are the only place a server writes to.
    server = Server(tmp_path / "three", dirs=1)
    server.start()
    server.stop()
    assert sorted(path.name for path in server.folder.iterdir()) == ["disk0", "server.log"]
    shutil.rmtree(server.folder)
