"""Sends raw requests to S3 and signs them by hand.

What it leaves to others: what the answers should be (the tests), running servers (harness.py).
"""

import datetime
import hashlib
import hmac
import http.client
import urllib.parse
import xml.etree.ElementTree

from harness import REGION, Access

UNSIGNED = "UNSIGNED-PAYLOAD"


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
