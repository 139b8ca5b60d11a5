"""A cluster of separate processes loses two chunkservers and the metaserver's leader in mid-upload.

Uploads go on, every object that was acked reads back identical while they are dead and after they
return, and redundancy is whole again. Sizes by BIXI_TEST_FILES (default 300) and BIXI_TEST_BIG_MIB
(default 64); the figures of issue 2 are 20000 and 5120.
"""

import concurrent.futures
import hashlib
import os
import random
import threading

import pytest

from harness import Cluster

FILES = int(os.environ.get("BIXI_TEST_FILES", "300"))
BIG_MIB = int(os.environ.get("BIXI_TEST_BIG_MIB", "64"))
PART = 8 << 20


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


@pytest.mark.timeout(300 + FILES // 5 + BIG_MIB // 2)
def test_two_chunkservers_and_the_leader_die_in_mid_upload(tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    try:
        client = cluster.start().client()
        client.create_bucket(Bucket="tree")
        acked, lock, killed = set(), threading.Lock(), []

        def put(number):
            client.put_object(Bucket="tree", Key=f"src/{number % 100}/{number}", Body=body(number))
            with lock:
                acked.add(number)
                now = len(acked) >= FILES // 3 and not killed
                if now:
                    killed.extend(["chunk-2", "chunk-5", cluster.leader()])
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
        cluster.wait_whole()
        check_all(client, acked, big)
    finally:
        cluster.stop()
