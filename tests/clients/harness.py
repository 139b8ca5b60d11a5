"""Starts and stops the program under test, and signs raw requests.

What it leaves to others: what the answers should be (the tests).

Promise: only processes that this module started are ever signalled, by their pid.
"""

import datetime
import hashlib
import hmac
import http.client
import os
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.parse
import xml.etree.ElementTree

REGION = "us-east-1"
UNSIGNED = "UNSIGNED-PAYLOAD"


def target_dir() -> pathlib.Path:
    """Where cargo builds to; the Makefile exports the same."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path.home() / ".cache/bixi-target"))


def program() -> str:
    """Path of the program under test."""
    return os.environ.get("BIXI_TEST_PROGRAM", str(target_dir() / "release" / "bixi"))


def free_port() -> int:
    """A port of the loopback that nobody listens on now, and that the kernel gives to no client
    while the server is down: one from below its range."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Server:
    """One `bixi server` process over the given directories; the same ports at every start."""

    def __init__(self, folder: pathlib.Path, dirs: int = 3, extra: tuple = ()):
        self.folder = folder
        self.dirs = [folder / f"disk{number}" for number in range(dirs)]
        self.s3 = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.extra = list(extra)
        self.process = None
        self.log = folder / "server.log"

    @property
    def endpoint(self) -> str:
        return f"http://{self.s3}"

    def argv(self) -> list:
        dirs = [str(path) for path in self.dirs]
        return [program(), "server", *dirs, "--s3-addr", self.s3, "--admin-addr", self.admin, *self.extra]

    def start(self, timeout: float = 30.0) -> float:
        """Starts the process and waits until it is ready. Returns the seconds that took."""
        with open(self.log, "ab") as log:
            began = time.monotonic()
            self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not self.is_ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() - began > timeout:
                self.kill()
                raise AssertionError(f"the server is not ready after {timeout} s:\n{self.log_tail()}")
            time.sleep(0.005)
        return time.monotonic() - began

    def is_ready(self) -> bool:
        host, port = self.admin.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=2)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """kill -9."""
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        if self.process:
            self.process.wait()

    def stop(self) -> int:
        """Asks the process to end, insists after 20 s, and returns its exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def credentials(self) -> dict:
        """access_key and secret_key, as the first start left them."""
        lines = (self.dirs[0] / "credentials").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


class Access:
    """How to reach a running server: endpoint and keys."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str):
        self.endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
        self.access_key = access_key
        self.secret_key = secret_key
        self.host = urllib.parse.urlsplit(self.endpoint).netloc

    def environment(self, home: pathlib.Path) -> dict:
        """Environment for command line clients: keys, and nothing of the user's own settings."""
        home.mkdir(parents=True, exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "NO_PROXY": "127.0.0.1,localhost",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }


class Answer:
    """Status, headers (lower-case names) and body of one raw request."""

    def __init__(self, response: http.client.HTTPResponse):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def code(self) -> str:
        """AWS's error code in the document, or an empty string."""
        try:
            return xml.etree.ElementTree.fromstring(self.body).findtext("Code") or ""
        except xml.etree.ElementTree.ParseError:
            return ""

    def __repr__(self) -> str:
        return f"{self.status} {self.code} {self.body[:300]!r}"


class Raw:
    """An S3 client that sends exactly what it is told to."""

    def __init__(self, access: Access):
        self.access = access

    def send(self, method: str, path: str, query=(), headers=None, body=b"", sign=True, tamper=None, **signing):
        """Signs and sends. `tamper(path, headers)` may change what goes out after signing."""
        headers = {"host": self.access.host, **(headers or {})}
        if sign:
            headers = self.signed(method, path, query, headers, body, **signing)
        target = quoted(path) + ("?" + canonical_query(query) if query else "")
        if tamper:
            target, headers = tamper(target, headers)
        return self.exchange(method, target, headers, body)

    def exchange(self, method: str, target: str, headers: dict, body: bytes) -> Answer:
        """Sends a request as it is."""
        connection = http.client.HTTPConnection(self.access.host, timeout=60)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            has_len = any(name.lower() in ("content-length", "transfer-encoding") for name in headers)
            if not has_len and (body or method in ("PUT", "POST")):
                connection.putheader("content-length", str(len(body)))
            for name, value in headers.items():
                connection.putheader(name, value)
            try:
                connection.endheaders(body or None)
            except (BrokenPipeError, ConnectionResetError):
                # A refusal may come before the body is read; it still lies in the socket.
                pass
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def signed(self, method, path, query, headers, body, payload_hash=None, secret_key=None, access_key=None, now=None):
        """The headers with a SigV4 signature over all of them."""
        now = now or utc_now()
        payload_hash = payload_hash or hashlib.sha256(body).hexdigest()
        headers = {**headers, "x-amz-date": stamp(now), "x-amz-content-sha256": payload_hash}
        names = ";".join(sorted(name.lower() for name in headers))
        signature = self.signature(method, path, query, headers, payload_hash, now, secret_key)
        credential = f"{access_key or self.access.access_key}/{scope(now)}"
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        )
        return headers

    def presigned(self, method, path, expires=300, query=(), now=None, headers=None) -> str:
        """Target of a presigned request that signs `host` and the given headers."""
        now = now or utc_now()
        headers = {"host": self.access.host, **(headers or {})}
        query = [
            *query,
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self.access.access_key}/{scope(now)}"),
            ("X-Amz-Date", stamp(now)),
            ("X-Amz-Expires", str(expires)),
            ("X-Amz-SignedHeaders", ";".join(sorted(headers))),
        ]
        signature = self.signature(method, path, query, headers, UNSIGNED, now, None)
        return quoted(path) + "?" + canonical_query([*query, ("X-Amz-Signature", signature)])

    def signature(self, method, path, query, headers, payload_hash, now, secret_key) -> str:
        lower = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
        names = sorted(lower)
        canonical = "\n".join(
            [
                method,
                quoted(path),
                canonical_query(query),
                "".join(f"{name}:{lower[name]}\n" for name in names),
                ";".join(names),
                payload_hash,
            ]
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp(now), scope(now), digest])
        return keyed(signing_key(secret_key or self.access.secret_key, now), to_sign).hex()


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def stamp(now: datetime.datetime) -> str:
    return now.strftime("%Y%m%dT%H%M%SZ")


def scope(now: datetime.datetime) -> str:
    return f"{now:%Y%m%d}/{REGION}/s3/aws4_request"


def keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signing_key(secret_key: str, now: datetime.datetime) -> bytes:
    key = keyed(b"AWS4" + secret_key.encode(), f"{now:%Y%m%d}")
    for part in (REGION, "s3", "aws4_request"):
        key = keyed(key, part)
    return key


def quoted(path: str) -> str:
    return urllib.parse.quote(path, safe="/-_.~")


def canonical_query(query) -> str:
    pairs = [(urllib.parse.quote(name, safe="-_.~"), urllib.parse.quote(value, safe="-_.~")) for name, value in query]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
