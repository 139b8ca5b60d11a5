"""Makes a small store of the present format version: `python make_store.py v1.tar.gz`.

Run once when a format version lands, never again for the same version: the file is kept so that
later versions prove that they still open it (tests/e2e/test_corpus.py).
"""

import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import boto3
import botocore.config

SIZES = [0, 1, 100, 4096, 8192, 8193, 70_000, 300_000, 1 << 20, (3 << 20) + 17]


def free_addr() -> str:
    """An address of the loopback that nobody listens on now, below the ports of clients."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return f"127.0.0.1:{port}"
            except OSError:
                continue


S3, ADMIN = free_addr(), free_addr()
SERVER = ["--s3-addr", S3, "--admin-addr", ADMIN]


def pattern(seed: str, size: int) -> bytes:
    """Told apart at every offset, and still small when packed."""
    unit = random.Random(f"corpus {seed}").randbytes(8191)
    return (unit * (size // len(unit) + 1))[:size]


def body(number: int) -> bytes:
    return pattern(str(number), SIZES[number])


def start(binary: str, root: pathlib.Path):
    directories = [root / f"d{number}" for number in (1, 2, 3)]
    log = open(root / "log", "ab")
    server = subprocess.Popen([binary, "server", *directories, *SERVER], stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while True:
        assert server.poll() is None, (root / "log").read_text()
        assert time.monotonic() < deadline, "not ready"
        try:
            keys = dict(line.split("=", 1) for line in (directories[0] / "credentials").read_text().split())
            client = boto3.client(
                "s3",
                endpoint_url=f"http://{S3}",
                aws_access_key_id=keys["access_key"],
                aws_secret_access_key=keys["secret_key"],
                region_name="us-east-1",
                config=botocore.config.Config(retries={"max_attempts": 0}, proxies={}, connect_timeout=1),
            )
            client.list_buckets()
            return server, client
        except Exception:
            time.sleep(0.1)


def stop(server):
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) == 0


def fill(client):
    client.create_bucket(Bucket="corpus")
    for number in range(len(SIZES)):
        client.put_object(Bucket="corpus", Key=f"object/{number}", Body=body(number), Metadata={"number": str(number)})
    upload = client.create_multipart_upload(Bucket="corpus", Key="multipart")["UploadId"]
    parts = []
    for number, size in [(1, 5 << 20), (2, 1000)]:
        part = pattern(f"part {number}", size)
        etag = client.upload_part(Bucket="corpus", Key="multipart", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    client.complete_multipart_upload(Bucket="corpus", Key="multipart", UploadId=upload, MultipartUpload={"Parts": parts})
    client.put_object(Bucket="corpus", Key="gone", Body=b"x" * 20_000)
    client.delete_object(Bucket="corpus", Key="gone")


def check(client):
    names = [entry["Key"] for entry in client.list_objects_v2(Bucket="corpus")["Contents"]]
    assert names == sorted(["multipart", *(f"object/{number}" for number in range(len(SIZES)))])
    for number in range(len(SIZES)):
        answer = client.get_object(Bucket="corpus", Key=f"object/{number}")
        assert answer["Metadata"] == {"number": str(number)}
        assert answer["Body"].read() == body(number)
    whole = b"".join(pattern(f"part {number}", size) for number, size in [(1, 5 << 20), (2, 1000)])
    assert client.get_object(Bucket="corpus", Key="multipart")["Body"].read() == whole


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "e2e"))
    from test_cluster_survives import binary

    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        server, client = start(binary(), root)
        fill(client)
        check(client)
        # Killed, not stopped: the store must be opened by recovery.
        server.kill()
        server.wait()
        subprocess.run(["tar", "-C", root, "-czSf", pathlib.Path(sys.argv[1]).absolute(), "d1", "d2", "d3"], check=True)
