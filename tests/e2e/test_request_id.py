"""One request can be followed by its x-amz-request-id: through the access log, the logs of all
processes it touched, and down to the records on the disks."""

import concurrent.futures
import json
import re
import subprocess

import pytest

from harness import Cluster, Server, noise, program, wait_for

LOG = {"BIXI_LOG": "warn,bixi=info,access=info,rpc=debug,client=debug"}


def id_of(answer) -> str:
    return answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]


def records(directory, *more) -> list:
    """What `bixi debug records` says of a data directory."""
    done = subprocess.run(
        [program(), "debug", "records", str(directory), "--output", "json", *more], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def lines_with(log, request: str) -> list:
    return [line for line in log.read_text(errors="replace").splitlines() if request in line]


def served(lines) -> list:
    """What was asked of a process, in words."""
    return [match.group(1) for line in lines if (match := re.search(r' served .*what="([a-z-]+)"', line))]


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server", environment=LOG)
    server.start()
    yield server
    server.stop()


def test_the_id_of_an_answer_is_in_the_logs_and_on_the_disks(server):
    client = server.client()
    client.create_bucket(Bucket="traced")
    request = id_of(client.put_object(Bucket="traced", Key="some/key", Body=noise("one", 100_000)))
    assert re.fullmatch("[0-9A-F]{16}", request)

    def access_line():
        return [line for line in lines_with(server.log, request) if " access: " in line]

    line = wait_for("the access log has it", access_line)[0]
    assert 'operation="PutObject"' in line and "status=200" in line and "PUT /traced/some/key" in line
    assert f'access_key="{server.access.access_key}"' in line
    asked = served(lines_with(server.log, request))
    assert asked.count("append") == 3 and "propose" in asked
    for directory in server.dirs:
        found = records(directory, "--request", request)
        assert [record["kind"] for record in found] == ["data"]
        assert found[0]["len"] == 100_000 and found[0]["request"] == request

    answer = client.get_object(Bucket="traced", Key="some/key")
    answer["Body"].read()
    request = id_of(answer)
    asked = served(lines_with(server.log, request))
    assert "query" in asked and "read" in asked
    assert all(records(directory, "--request", request) == [] for directory in server.dirs)


def test_a_refused_request_is_in_the_access_log(server):
    client = server.client()
    with pytest.raises(client.exceptions.NoSuchBucket) as refused:
        client.get_object(Bucket="absent", Key="k\nforged line")
    request = id_of(refused.value.response)
    line = wait_for("the access log has it", lambda: [x for x in lines_with(server.log, request) if " access: " in x])[0]
    assert "status=404" in line
    assert "\nforged" not in server.log.read_text(errors="replace")


def test_of_requests_that_share_a_record_each_is_found(server):
    client = server.client()
    client.create_bucket(Bucket="traced")

    def put(number):
        return id_of(client.put_object(Bucket="traced", Key=f"k{number}", Body=noise(f"packed {number}", 20_000)))

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        requests = list(pool.map(put, range(200)))
    assert len(set(requests)) == 200
    on_disk = {record["request"] for record in records(server.dirs[1])}
    carriers = {}
    for line in server.log.read_text(errors="replace").splitlines():
        if match := re.search(r"request=([0-9A-F]{16}) carrier=([0-9A-F]{16})", line):
            carriers[match.group(1)] = match.group(2)
    for request in requests:
        assert carriers.get(request, request) in on_disk, request


def test_the_id_goes_through_all_processes_of_a_cluster(tmp_path):
    cluster = Cluster(tmp_path / "cluster", environment=LOG)
    try:
        client = cluster.start().client()
        client.create_bucket(Bucket="traced")
        request = id_of(client.put_object(Bucket="traced", Key="k", Body=noise("large", 3 << 20)))
        chunks = [f"chunk-{number}" for number in range(1, 7)]
        for name in chunks:
            assert "append" in served(lines_with(cluster.directory / f"{name}.log", request)), name
            assert records(cluster.data(name), "--request", request), name
        metas = [served(lines_with(cluster.directory / f"meta-{number}.log", request)) for number in (1, 2, 3)]
        assert sum("propose" in asked for asked in metas) == 1
    finally:
        cluster.stop()
