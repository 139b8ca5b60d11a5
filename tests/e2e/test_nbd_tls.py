"""NBD inside TLS: a server that was told to speaks nothing else, and lets in only whom it should."""

import subprocess

import pytest

from harness import Server, free_port
from nbd import GO, LIST, Nbd, NbdError
from test_nbd import SIZE, tool

ERR_INVALID, ERR_TLS_REQD, STARTTLS = 0x80000003, 0x80000005, 5


def openssl(*argv, folder) -> None:
    subprocess.run(["openssl", *map(str, argv)], cwd=folder, check=True, capture_output=True)


def authority(folder, name: str) -> None:
    """A directory as GnuTLS's clients like it: ca-cert.pem, and a key and certificate for either side."""
    (folder / name).mkdir()
    where = folder / name
    extensions = where / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    subject = ["-subj", f"/CN={name}"]
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-days", 9, *subject, folder=where)
    for side in ["server", "client"]:
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{side}-key.pem", "-out", "request.pem", "-subj", f"/CN={side}", folder=where)
        openssl(
            "x509", "-req", "-in", "request.pem", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-out", f"{side}-cert.pem", "-days", 9, "-extfile", "extensions", folder=where,
        )


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    authority(folder, "ours")
    authority(folder, "theirs")
    # Nobody's client: it trusts us and has nothing to show.
    (folder / "bare").mkdir()
    (folder / "bare" / "ca-cert.pem").write_bytes((folder / "ours" / "ca-cert.pem").read_bytes())
    return folder


def serve(tmp_path, papers, *more) -> Server:
    nbd = f"127.0.0.1:{free_port()}"
    ours = papers / "ours"
    extra = ("--nbd-addr", nbd, "--tls-cert", ours / "server-cert.pem", "--tls-key", ours / "server-key.pem", "--nbd-tls", *more)
    server = Server(tmp_path, extra=tuple(map(str, extra)))
    server.nbd = nbd
    server.start()
    done = server.command("volume", "create", "disk", "--size", str(SIZE))
    assert done.returncode == 0, done
    return server


def secure(server, folder) -> str:
    return f"nbds://{server.nbd}/disk?tls-certificates={folder}"


def info(server, folder) -> subprocess.CompletedProcess:
    return subprocess.run(["nbdinfo", secure(server, folder)], capture_output=True, text=True, timeout=60)


def test_everything_is_inside_tls(tmp_path, papers):
    server = serve(tmp_path / "server", papers)
    try:
        told = info(server, papers / "bare")
        assert told.returncode == 0 and f"export-size: {SIZE}" in told.stdout, told
        image = tmp_path / "image"
        image.write_bytes(bytes(range(256)) * (SIZE // 256))
        tool("nbdcopy", image, secure(server, papers / "bare"))
        tool("nbdcopy", "--connections=4", secure(server, papers / "bare"), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == image.read_bytes()
        # Somebody who does not trust us hangs up.
        assert info(server, papers / "theirs").returncode != 0
        # In the clear nothing is told but that TLS is wanted, and the session lives on.
        client = Nbd(server.nbd)
        for option, data in [(LIST, b""), (GO, b"\0\0\0\4disk\0\0"), (99, b"x" * 5000)]:
            assert client.option(option, data)[-1][0] == ERR_TLS_REQD
        assert client.option(STARTTLS, b"x")[-1][0] == ERR_INVALID
        with pytest.raises(NbdError):
            Nbd(server.nbd).go("disk")
        plain = subprocess.run(["nbdinfo", f"nbd://{server.nbd}/disk"], capture_output=True, text=True, timeout=60)
        assert plain.returncode != 0 and str(SIZE) not in plain.stdout, plain
    finally:
        assert server.stop() == 0


def test_only_clients_with_papers_come_in(tmp_path, papers):
    server = serve(tmp_path / "server", papers, "--nbd-client-ca", papers / "ours" / "ca-cert.pem")
    try:
        assert info(server, papers / "ours").returncode == 0
        assert info(server, papers / "bare").returncode != 0
        # A stranger's certificate, though it trusts us.
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        for name, source in [("ca-cert.pem", "ours"), ("client-cert.pem", "theirs"), ("client-key.pem", "theirs")]:
            (stranger / name).write_bytes((papers / source / name).read_bytes())
        assert info(server, stranger).returncode != 0
        assert info(server, papers / "ours").returncode == 0
    finally:
        assert server.stop() == 0
