"""Of any number of racing conditional writers exactly one wins (issue: 32 writers, 200 keys)."""

import threading
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest

from harness import boto3_client

WRITERS = 32
KEYS = 200


@pytest.fixture(scope="module")
def writers(access):
    return [boto3_client(access) for _ in range(WRITERS)]


def attempt(call):
    """The status of a call: 200, or the status of its refusal."""
    try:
        return call()["ResponseMetadata"]["HTTPStatusCode"]
    except botocore.exceptions.ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]


def test_exactly_one_of_32_racing_creators_wins_each_key(writers, s3, bucket):
    barrier = threading.Barrier(WRITERS)

    def write(number):
        statuses = []
        for key in range(KEYS):
            barrier.wait(60)
            body = f"writer {number}".encode()
            put = lambda: writers[number].put_object(Bucket=bucket, Key=f"k{key}", Body=body, IfNoneMatch="*")
            statuses.append(attempt(put))
        return statuses

    with ThreadPoolExecutor(WRITERS) as pool:
        rows = list(pool.map(write, range(WRITERS)))
    for key in range(KEYS):
        statuses = [row[key] for row in rows]
        winners = [number for number, status in enumerate(statuses) if status == 200]
        assert len(winners) == 1, (key, statuses)
        # 409 is AWS's answer to a writer that lost while another was at work.
        assert set(statuses) <= {200, 409, 412}, (key, statuses)
        stored = s3.get_object(Bucket=bucket, Key=f"k{key}")["Body"].read()
        assert stored == f"writer {winners[0]}".encode()


def test_compare_and_set_loses_no_increment(writers, s3, bucket):
    s3.put_object(Bucket=bucket, Key="counter", Body=b"0")

    def increment(number):
        won = 0
        for _ in range(30):
            got = writers[number].get_object(Bucket=bucket, Key="counter")
            value = int(got["Body"].read()) + 1
            put = lambda: writers[number].put_object(
                Bucket=bucket, Key="counter", Body=str(value).encode(), IfMatch=got["ETag"]
            )
            won += attempt(put) == 200
        return won

    with ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(increment, range(8)))
    assert int(s3.get_object(Bucket=bucket, Key="counter")["Body"].read()) == won
    assert won >= 30


def test_a_reader_sees_whole_versions_only(writers, s3, bucket):
    versions = [bytes([number]) * (10_000 + number * 50_000) for number in range(4)]
    s3.put_object(Bucket=bucket, Key="k", Body=versions[0])
    done = threading.Event()

    def write(number):
        for _ in range(25):
            writers[number].put_object(Bucket=bucket, Key="k", Body=versions[number])

    def read(number):
        seen = 0
        while not done.is_set():
            body = writers[number].get_object(Bucket=bucket, Key="k")["Body"].read()
            assert body in versions
            seen += 1
        return seen

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, 4 + number) for number in range(4)]
        try:
            list(pool.map(write, range(4)))
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)
