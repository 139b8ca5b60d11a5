"""Processes speak to each other by mutual TLS only, and certificates are exchanged while they run."""

import json
import re
import socket
import ssl
import subprocess
import threading
import time

from harness import Cluster, program, wait_for


def internal_address(cluster: Cluster, name: str) -> tuple:
    spec = json.loads((cluster.data(name) / "process.json").read_text())
    host, port = spec["listen"].rsplit(":", 1)
    return host, int(port)


def authority_seen_at(address: tuple) -> bytes:
    """The certificate that a process shows to anybody who asks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, timeout=10) as raw, context.wrap_socket(raw) as inside:
        return inside.getpeercert(binary_form=True)


def test_certificates(tmp_path):
    data = tmp_path / "cluster"
    cluster = Cluster(data).start()
    failures, stop, stored = [], threading.Event(), []

    def work():
        client = cluster.client()
        while not stop.is_set():
            key = f"k{len(stored)}"
            try:
                client.put_object(Bucket="bucket", Key=key, Body=key.encode() * 5000)
                assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == key.encode() * 5000
                stored.append(key)
            except Exception as error:  # whatever the client says is the finding
                failures.append(error)

    try:
        cluster.client().create_bucket(Bucket="bucket")
        # The internal ports answer neither plain bytes nor a client without a certificate.
        for name in ("meta-1", "chunk-1"):
            address = internal_address(cluster, name)
            with socket.create_connection(address, timeout=10) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"HTTP" not in stranger.recv(4096)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            try:
                with socket.create_connection(address, timeout=10) as raw, context.wrap_socket(raw) as inside:
                    inside.sendall(b"x" * 200)
                    assert inside.recv(4096) == b"", "a client without a certificate was answered"
            except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
                pass
        for name in ("authority.json", "meta-1/tls.json", "s3/tls.json"):
            assert (data / name).stat().st_mode & 0o077 == 0, f"{name} can be read by others"

        worker = threading.Thread(target=work)
        worker.start()
        address = internal_address(cluster, "chunk-1")
        before = authority_seen_at(address)
        dry = subprocess.run([program(), "cluster", "rotate-certificates", "--data", data, "--dry-run"], capture_output=True)
        assert dry.returncode == 8, dry.stderr
        done = subprocess.run(
            [program(), "cluster", "rotate-certificates", "--data", data, "--authority"], capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        wait_for("chunk-1 shows its new certificate", lambda: authority_seen_at(address) != before, pause=0.5)
        time.sleep(6)  # the last step, forgetting the old authority, is taken over too
        count = len(stored)
        wait_for("more is stored, or refused", lambda: failures or len(stored) >= count + 10)
        stop.set()
        worker.join()
        assert not failures, failures[:3]
        # A process that starts now finds its place with the new certificates.
        cluster.kill("chunk-1")
        cluster.restart("chunk-1")
        client = cluster.client()
        for key in stored[:: max(1, len(stored) // 50)]:
            assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == key.encode() * 5000
        # One that lost its certificates says so and does not run in the clear.
        cluster.kill("chunk-2")
        (data / "chunk-2" / "tls.json").rename(data / "chunk-2" / "elsewhere")
        lost = subprocess.run(cluster.described("chunk-2")["argv"], capture_output=True, timeout=30)
        assert lost.returncode == 1
        assert re.search(rb"tls\.json is missing", lost.stderr + lost.stdout), lost
    finally:
        stop.set()
        cluster.stop()
