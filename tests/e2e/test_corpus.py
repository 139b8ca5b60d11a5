"""A store of every landed format version opens and reads back (tests/corpus)."""

import pathlib
import subprocess
import sys

import pytest

CORPUS = pathlib.Path(__file__).parent.parent / "corpus"
sys.path.insert(0, str(CORPUS))

import make_store  # noqa: E402


@pytest.mark.parametrize("version", sorted(path.name for path in CORPUS.glob("*.tar.gz")))
def test_a_store_of_every_landed_version_opens(version, tmp_path):
    subprocess.run(["tar", "-C", tmp_path, "-xzf", CORPUS / version], check=True)
    server = make_store.server(tmp_path)
    for _ in range(2):
        server.start()
        try:
            make_store.check(server.client())
        finally:
            assert server.stop() == 0
