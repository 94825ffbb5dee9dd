"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent

for _key in [key for key in os.environ if key.startswith(("MAKE", "MFLAGS"))]:
    del os.environ[_key]  # a test that runs make gets nothing of the make that runs the tests: `make test ARGS=-x`


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights (WCX_SHARED, or ../shared); skips where it is absent."""
    path = Path(os.environ.get("WCX_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"real images and weights not found: {path} (set WCX_SHARED)")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs POSIX where there is none."""
    for item in items if find_fcntl() is None else ():
        if item.get_closest_marker("posix"):
            item.add_marker(pytest.mark.skip(reason="needs what Windows has not: fork, SIGKILL, fcntl, resource, /dev"))


def find_fcntl() -> ModuleType | None:
    """Return fcntl, which filelock uses where there is one; None on Windows."""
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl


@pytest.fixture
def fcntl() -> ModuleType:
    """The locks of POSIX, for a test marked `posix`."""
    return find_fcntl() or pytest.fail("a test that asks for fcntl bears the marker posix")


@pytest.fixture(autouse=True)
def _log_as_before() -> Generator[None, None, None]:
    """Hydra points the root logger at the output of a command, which a test has captured and closed afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


@pytest.fixture(scope="module")
def one_thread() -> Generator[None, None, None]:
    """For small tensors: threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command of `wcx` in this process: a process of its own costs seconds of imports."""
    from wcx.cli import main

    def call(command: str, *arguments: str) -> Done:
        folder = "" if command == "run" else "scripts/"
        monkeypatch.setattr(sys, "argv", [f"{folder}{command}.py", *arguments])
        code = 0
        try:
            main(command)
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out and their files made, but nothing is drawn into them: half a second each."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda _figure, file, **_: Path(file).touch())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With WCX_REQUIRE_SHARED=1 (set by .ci/run), a test that asks for `shared` and is skipped has failed.

    What tests printed is told in letters that a worker can send: a folder's name may hold a byte that is none.
    """
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    required = os.environ.get("WCX_REQUIRE_SHARED") == "1" and "shared" in getattr(item, "fixturenames", ())
    if required and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"WCX_REQUIRE_SHARED=1, yet a test that needs it: {reason}"
    return report
