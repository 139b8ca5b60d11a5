"""Makes a small store of the present format version: `python make_store.py v1.tar.gz`.

Run once when a format version lands, never again for the same version: the file is kept so that
later versions prove that they still open it (tests/e2e/test_corpus.py).
"""

import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import harness  # noqa: E402

SIZES = [0, 1, 100, 4096, 8192, 8193, 70_000, 300_000, 1 << 20, (3 << 20) + 17]


def pattern(seed: str, size: int) -> bytes:
    """Told apart at every offset, and still small when packed."""
    unit = random.Random(f"corpus {seed}").randbytes(8191)
    return (unit * (size // len(unit) + 1))[:size]


def body(number: int) -> bytes:
    return pattern(str(number), SIZES[number])


def server(root: pathlib.Path) -> harness.Server:
    return harness.Server(root, [root / f"d{number}" for number in (1, 2, 3)])


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
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        running = server(root)
        running.start()
        fill(running.client())
        check(running.client())
        # Killed, not stopped: the store must be opened by recovery.
        running.kill()
        subprocess.run(["tar", "-C", root, "-czSf", pathlib.Path(sys.argv[1]).absolute(), "d1", "d2", "d3"], check=True)
