"""Shows the logs of the programs under test with every failure, and says in which order tests run."""

import collections
import pathlib

import pytest

LINES = 40


def pytest_collection_modifyitems(items):
    """Files of few tests come first. Those take longest, and of two processes that share the files none is then left
    to wait for the other's last one."""
    count = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: count[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for path in logs(item):
            lines = path.read_text(errors="replace").splitlines()[-LINES:]
            report.sections.append((f"end of {path}", "\n".join(lines)))
    return report


def logs(item) -> list:
    """Every log below the test's own directory, and the one of the server that tests share."""
    folders = []
    if "tmp_path" in item.fixturenames and "tmp_path" in item.funcargs:
        folders.append(item.funcargs["tmp_path"])
    base = item.config._tmp_path_factory.getbasetemp()
    folders.extend(path for path in pathlib.Path(base).glob("server*") if path.is_dir())
    found = []
    for folder in folders:
        for pattern in ("*.log", "*.err", "log", "err", "*/*.log", "*/*/*.log"):
            found.extend(path for path in sorted(folder.glob(pattern)) if path.is_file() and path.stat().st_size)
    return found
