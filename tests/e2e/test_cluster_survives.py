"""A cluster of separate processes loses two chunkservers and the metaserver's leader in mid-upload.

Uploads go on, every object that was acked reads back identical while they are dead and after they
return, and redundancy is whole again. Sizes by BIXI_TEST_FILES (default 300) and BIXI_TEST_BIG_MIB
(default 64); the figures of issue 2 are 20000 and 5120.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import boto3
import botocore.config

FILES = int(os.environ.get("BIXI_TEST_FILES", "300"))
BIG_MIB = int(os.environ.get("BIXI_TEST_BIG_MIB", "64"))
PART = 8 << 20


def binary() -> str:
    target = os.environ.get("CARGO_TARGET_DIR", str(pathlib.Path.home() / ".cache/bixi-target"))
    return os.environ.get("BIXI_TEST_PROGRAM", str(pathlib.Path(target) / "release" / "bixi"))


class Cluster:
    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.started = []
        self.supervisor = subprocess.Popen(
            [binary(), "dev", "--data", directory, "--meta", "3", "--chunk", "6", "--redundancy", "ec:4+2"],
            stdout=subprocess.DEVNULL,
            stderr=open(directory.parent / "dev.err", "ab"),
        )
        deadline = time.monotonic() + 60
        while not (directory / "cluster.json").exists():
            assert self.supervisor.poll() is None, "bixi dev ended"
            assert time.monotonic() < deadline, "the cluster is not ready after 60 s"
            time.sleep(0.1)
        self.description = json.loads((directory / "cluster.json").read_text())

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url="http://" + self.description["s3"],
            aws_access_key_id=self.description["access_key"],
            aws_secret_access_key=self.description["secret_key"],
            region_name="us-east-1",
            config=botocore.config.Config(retries={"max_attempts": 8, "mode": "standard"}, max_pool_connections=16, proxies={}),
        )

    def status(self) -> dict:
        environment = {
            **os.environ,
            "BIXI_ADMIN_ADDR": self.description["admin"],
            "BIXI_CREDENTIALS": str(self.directory / "s3" / "credentials"),
        }
        done = subprocess.run([binary(), "status", "--output", "json"], env=environment, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def process(self, name: str) -> dict:
        return next(process for process in self.description["processes"] if process["name"] == name)

    def kill(self, name: str):
        os.kill(self.process(name)["pid"], signal.SIGKILL)

    def restart(self, name: str):
        log = open(self.directory / f"{name}.again.log", "ab")
        self.started.append(subprocess.Popen(self.process(name)["argv"], stdout=log, stderr=log))

    def stop(self):
        self.supervisor.send_signal(signal.SIGTERM)
        for process in self.started:
            process.send_signal(signal.SIGTERM)
        for process in [self.supervisor, *self.started]:
            process.wait(timeout=30)


def body(number: int) -> bytes:
    rng = random.Random(number)
    size = int(rng.lognormvariate(9, 1.5)) if number % 50 else rng.randrange(1 << 20, 4 << 20)
    return rng.randbytes(size)


def check_all(client, acked: set, big: str):
    def check(number):
        read = client.get_object(Bucket="tree", Key=f"src/{number % 100}/{number}")["Body"].read()
        assert read == body(number), f"object {number} differs"

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(check, sorted(acked)))
    digest = hashlib.sha256()
    for piece in client.get_object(Bucket="tree", Key="big")["Body"].iter_chunks(1 << 20):
        digest.update(piece)
    assert digest.hexdigest() == big


def upload_big(client) -> str:
    digest = hashlib.sha256()
    upload = client.create_multipart_upload(Bucket="tree", Key="big")["UploadId"]
    parts = []
    for number in range(1, BIG_MIB * (1 << 20) // PART + 1):
        part = random.Random(f"big {number}").randbytes(PART)
        digest.update(part)
        etag = client.upload_part(Bucket="tree", Key="big", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    client.complete_multipart_upload(Bucket="tree", Key="big", UploadId=upload, MultipartUpload={"Parts": parts})
    return digest.hexdigest()


def test_two_chunkservers_and_the_leader_die_in_mid_upload(tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    try:
        client = cluster.client()
        client.create_bucket(Bucket="tree")
        acked, lock, killed = set(), threading.Lock(), []

        def put(number):
            client.put_object(Bucket="tree", Key=f"src/{number % 100}/{number}", Body=body(number))
            with lock:
                acked.add(number)
                now = len(acked) >= FILES // 3 and not killed
                if now:
                    killed.extend(["chunk-2", "chunk-5", cluster.status()["meta"]["leader"]])
            if now:
                for name in killed:
                    cluster.kill(name)

        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            big = pool.submit(upload_big, cluster.client())
            list(pool.map(put, range(FILES)))
            big = big.result()
        assert len(acked) == FILES and len(killed) == 3
        check_all(client, acked, big)
        assert cluster.status()["chunks"]["lost"] == 0
        for name in killed:
            cluster.restart(name)
        deadline = time.monotonic() + 120
        while True:
            chunks = cluster.status()["chunks"]
            if chunks["degraded"] == 0 and chunks["lost"] == 0:
                break
            assert time.monotonic() < deadline, f"redundancy is not whole again: {chunks}"
            time.sleep(0.5)
        check_all(client, acked, big)
    finally:
        cluster.stop()
