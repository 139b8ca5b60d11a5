"""Fixtures: a running server, clients, a bucket of its own for each test.

With BIXI_TEST_S3, BIXI_TEST_ACCESS_KEY and BIXI_TEST_SECRET_KEY set the tests go against that
server; otherwise one is started over three directories and stopped at the end.
"""

import os
import pathlib
import re
import subprocess
import uuid

import pytest

from harness import Access, Server, boto3_client, client_path, noise
from raw import Raw


@pytest.fixture(scope="session")
def access(tmp_path_factory):
    """The server under test."""
    if "BIXI_TEST_S3" in os.environ:
        keys = os.environ["BIXI_TEST_ACCESS_KEY"], os.environ["BIXI_TEST_SECRET_KEY"]
        yield Access(os.environ["BIXI_TEST_S3"], *keys)
        return
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server.access
    code = server.stop()
    assert code == 0, f"the server stopped with {code}:\n{server.log_tail()}"


@pytest.fixture(scope="session")
def s3(access):
    """A boto3 client that does not hide failures behind retries."""
    return boto3_client(access)


@pytest.fixture(scope="session")
def raw(access):
    """A client that sends exactly what it is told to."""
    return Raw(access)


@pytest.fixture
def bucket(s3, request):
    """A bucket of this test, emptied and deleted afterwards."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    name = f"{name}-{uuid.uuid4().hex[:10]}"
    s3.create_bucket(Bucket=name)
    yield name
    empty(s3, name)
    s3.delete_bucket(Bucket=name)


@pytest.fixture
def run(access, tmp_path):
    """Runs a command line client and returns what it printed."""
    environment = access.environment(tmp_path / "home")

    def call(*argv, stdin=None, good=True, **more):
        done = subprocess.run(
            [client_path(argv[0]), *map(str, argv[1:])],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env={**environment, **more},
            cwd=tmp_path,
            timeout=300,
        )
        said = "\n".join(text.decode(errors="replace")[-3000:] for text in (done.stdout, done.stderr))
        assert (done.returncode == 0) == good, f"{argv} ended with {done.returncode}: {said}"
        return done.stdout

    return call


@pytest.fixture
def make_file(tmp_path):
    """Makes a file of bytes that do not repeat, the same in every run."""

    def make(name: str, len_bytes: int) -> pathlib.Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(name, len_bytes))
        # An hour old: clients that compare times take a file of this very second for changed.
        os.utime(path, times=(path.stat().st_atime, path.stat().st_mtime - 3600))
        return path

    return make


def empty(s3, bucket: str) -> None:
    for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
        if keys:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            assert "Errors" not in answer, answer
