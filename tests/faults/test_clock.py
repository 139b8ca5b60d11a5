"""The machine's wall clock jumps by an hour, there and back. Nothing but S3's date window notices.
Row 17 of the promises. Needs libfaketime (Debian: faketime)."""

import datetime
import pathlib

import pytest

from harness import Server, noise
from raw import Raw, utc_now

LIBRARIES = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
pytestmark = [pytest.mark.alone, pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime (Debian: faketime)")]
HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def clock(tmp_path):
    """Sets the server's wall clock off by seconds."""
    path = tmp_path / "offset"

    def set_off(seconds: int) -> None:
        path.write_text(f"{seconds:+d}s\n")

    set_off(0)
    set_off.environment = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_NO_CACHE": "1",
        # A jump of the wall clock is what the kernel does; its monotonic clock never jumps.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return set_off


def test_only_the_date_window_notices_a_clock_that_jumps(tmp_path, clock):
    server = Server(tmp_path / "server", environment=clock.environment)
    server.start()
    try:
        raw = Raw(server.access)
        assert raw.send("PUT", "/clock").status == 200
        stored = {}

        def put(name: str, now) -> None:
            stored[name] = noise(name, 70_000)
            answer = raw.send("PUT", f"/clock/{name}", body=stored[name], now=now)
            assert answer.status == 200, answer

        def all_there(now) -> None:
            for name, body in stored.items():
                assert raw.send("GET", f"/clock/{name}", now=now).body == body, name

        term = server.status()["meta"]["term"]
        put("before", utc_now())
        for round_number, hours in enumerate([1, -1, 0, 24 * 365]):
            clock(hours * 3600)
            there = lambda: utc_now() + hours * HOUR
            if hours:
                refused = raw.send("PUT", "/clock/refused", body=b"x", now=utc_now())
                assert (refused.status, refused.code) == (403, "RequestTimeTooSkewed"), refused
            for number in range(10):
                put(f"{round_number}-{number}", there())
            all_there(there())
        clock(0)
        all_there(utc_now())
        assert raw.send("GET", "/clock/refused", now=utc_now()).status == 404
        # Nobody lost a lease, a session or an election over it.
        assert server.status()["meta"]["term"] == term
        server.kill()
        clock(-3 * 3600)
        server.start()
        all_there(utc_now() - 3 * HOUR)
    finally:
        server.kill()
