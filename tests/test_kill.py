"""SIGKILL in the middle of the masking experiment: resumed, records and tables are those of an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.posix

RUNNER = """
import os, sys, time
sys.path.insert(0, {root!r})
from wcx.cli import main
from wcx.cli.commands import table1
from wcx import datasets  # what a block needs, imported once: every run below is a fork
from wcx.pipeline.block import OpenedBlock
import matplotlib.backends.backend_agg, torchvision

compute = OpenedBlock.compute
for line in sys.stdin:  # how many chunks one run may compute before it waits for its end, and its arguments
    if not (child := os.fork()):
        chunks, *arguments = line.split()
        left = iter(range(int(chunks)))
        def held(*of):
            if next(left, None) is None:
                time.sleep(600)
            return compute(*of)
        OpenedBlock.compute = held
        sys.argv = ["table1.py", *arguments]
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        main("table1")
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
SMALL = (
    "datasets=[parts] models=[small_cnn] methods=[gradcam] dataset.size=48 dataset.test_per_class=3 limit=48 threshold=0 "
    "model.weights=random chunk_size=4 batch_size=4 figure=0 num_workers=1"
)


class Runs:
    """A process that has imported everything and forks for each run: a start costs a moment, not seconds."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNNER.format(root=str(root))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __call__(self, arguments: str, folder: Path, kill_at: float | None = None) -> int:
        """Return the exit code of one run; it is killed some time after so many files of records are there.

        One that is to be killed computes three chunks at most: the kill may come late.
        """
        chunks = 12 if kill_at is None else 3
        self._process.stdin.write(f"{chunks} {arguments} paths.results_dir={folder}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_at is not None:
            while len(list(folder.rglob("chunk-*.csv"))) < int(kill_at):
                time.sleep(0.002)
            time.sleep(0.1 * (kill_at % 1))
            os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but what says how it came about, and what a kill may leave unused."""
    files = (file for file in folder.rglob("*") if file.is_file())
    own = (file for file in files if file.name != "manifest.json" and file.suffix not in (".part", ".lock"))
    return {str(file.relative_to(folder)): file.read_bytes().replace(bytes(folder), b"") for file in own}


def test_resumed_after_three_kills_byte_by_byte(tmp_path: Path, root: Path) -> None:
    runs, whole, killed = Runs(root), tmp_path / "whole", tmp_path / "killed"
    try:
        assert runs(SMALL, whole) == 0
        assert len(list(whole.rglob("chunk-*.csv"))) == 2 * 12
        for first in (1, 7, 13):
            moment = first + random.random()  # any: this must hold at every one
            assert runs(SMALL, killed, kill_at=moment) == -signal.SIGKILL
            assert not list(killed.rglob("complete.json"))
        assert runs(SMALL, killed) == 0
        assert contents(killed) == contents(whole)

        before = contents(whole / "records")
        assert runs(f"{SMALL} threshold=0.01 limit=8", whole) == 0
        after = contents(whole / "records")
        assert after.items() >= before.items(), "a changed setting neither uses nor deletes old records"
        assert len(after) > len(before)
    finally:
        runs.close()
