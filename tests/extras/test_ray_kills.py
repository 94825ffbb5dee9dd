"""SIGKILL of a worker, of a node and of the driver at random moments: the bytes of a run in one process, and no chunk twice.

WCX_KILLS=20,5,5 python -m pytest tests/extras/test_ray_kills.py     so many of each; by default one
"""

from __future__ import annotations

import ast
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_kill import contents

ray = pytest.importorskip("ray", reason="make test-extras")
WORKERS, NODES, DRIVERS = map(int, os.environ.get("WCX_KILLS", "1,1,1").split(","))
DRIVER = str(Path(__file__).with_name("traced.py"))


class Run:
    """A driver in a process of its own, and what its workers noted."""

    def __init__(self, folder: Path, where: str, notes: str = "notes") -> None:
        self.folder, self.notes = folder / "results", folder / notes
        folder.mkdir(exist_ok=True)
        command = [sys.executable, DRIVER, str(self.folder), str(self.notes), where]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def noted(self) -> list[tuple[int, float, int]]:
        """Process, time and first image of each chunk that was read."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(int(pid), float(moment), int(image)) for pid, moment, image in map(str.split, lines)]

    def wait_until_it_computes(self, readings: int = 0) -> None:
        """Return when a chunk has been read that was not among the first `readings`."""
        while len(self.noted()) <= readings:
            assert self.process.poll() is None, "it ended early"
            time.sleep(0.01)

    def finish(self) -> dict[str, bytes]:
        """Wait for the driver; return its files, having looked whether a chunk was read again after its commit."""
        printed, _ = self.process.communicate(timeout=1800)  # a guard against a hang, on a busy machine too
        assert self.process.returncode == 0
        for chunk, images in enumerate(ast.literal_eval(printed.partition("\n")[0])):
            moments = [moment for _, moment, image in self.noted() if image == images[0]]
            for file in self.folder.rglob(f"chunk-{chunk:05d}.csv"):
                late = [moment for moment in moments if moment > file.stat().st_mtime]
                assert not late, f"chunk {chunk} was computed again after its commit"
        return contents(self.folder)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run in one process."""
    files = Run(tmp_path_factory.mktemp("local"), "local").finish()
    assert len([name for name in files if "chunk-" in name]) == 2 * 4
    return files


@pytest.fixture(scope="module")
def duration(tmp_path_factory: pytest.TempPathFactory, expected: dict[str, bytes]) -> float:
    """Seconds from the first reading to the last commit of a run by Ray that nothing disturbs."""
    run = Run(tmp_path_factory.mktemp("undisturbed"), "new")
    assert run.finish() == expected
    end = max(file.stat().st_mtime for file in run.folder.rglob("chunk-*.csv"))
    return end - min(moment for _, moment, _ in run.noted())


@pytest.mark.parametrize("number", range(WORKERS))
def test_a_worker_dies(number: int, tmp_path: Path, expected: dict[str, bytes], duration: float) -> None:
    run = Run(tmp_path, "new")
    run.wait_until_it_computes()
    time.sleep(random.uniform(0, duration))
    workers = sorted({pid for pid, *_ in run.noted()})
    assert run.process.pid not in workers, "the driver computes nothing itself"
    victim = random.choice(workers)
    try:
        os.kill(victim, signal.SIGKILL)
        print(f"killed worker {victim} after {len(run.noted())} readings", end="; ")
    except ProcessLookupError:
        print("too late", end="; ")
    assert run.finish() == expected
    print(f"{len(run.noted())} readings in all")


@pytest.mark.parametrize("number", range(DRIVERS))
def test_the_driver_dies(number: int, tmp_path: Path, expected: dict[str, bytes], duration: float) -> None:
    first = Run(tmp_path, "new")
    first.wait_until_it_computes()
    time.sleep(random.uniform(0, duration))
    first.process.kill()
    first.process.wait()
    committed = len(list(first.folder.rglob("chunk-*.csv")))
    second = Run(tmp_path, "new", "notes of the second")  # the first one's workers may go on a while
    assert second.finish() == expected
    print(f"killed after {committed} of 8 files; {len(second.noted())} readings in all")


def patiently(start: Callable[[], Any]) -> Any:
    """On a busy machine Ray may need a second try: it gives its own processes 15 s."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            return start()
    return start()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """A head without room for workers; a test adds nodes."""
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # in a long TMPDIR no socket can be
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    started = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    yield started
    started.shutdown()


@pytest.mark.parametrize("number", range(NODES))
def test_a_node_dies(number: int, tmp_path: Path, cluster, expected: dict[str, bytes], duration: float) -> None:
    nodes = [patiently(lambda: cluster.add_node(num_cpus=1, include_dashboard=False)) for _ in range(2)]
    run = Run(tmp_path, cluster.address)
    run.wait_until_it_computes()
    time.sleep(random.uniform(0, duration))
    before = len(run.noted())
    cluster.remove_node(random.choice(nodes), allow_graceful=False)  # SIGKILL to all of its processes
    assert run.finish() == expected
    print(f"killed a node after {before} readings; {len(run.noted())} in all")
