"""Blocks of a runner over the GPUs present: one process each at a time, every GPU taking the next block that waits.

With one device or none, the blocks run one after the other in this process. A block that fails is told at the end; the
others finish.
"""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from wcx.cli import user_errors

_BAR = re.compile(r"\d+%\|")  # a progress bar, redrawn many times a second
_EVERY = 20.0  # seconds between two lines of a progress bar


@dataclass(frozen=True)
class Block:
    """What one process does.

    Attributes:
        pair: dataset and model.
        command: arguments of Python, for a process of its own.
    """

    pair: tuple[str, ...]
    command: Sequence[str]

    @property
    def name(self) -> str:
        """For the messages, e.g. "cub vgg16"."""
        return " ".join(self.pair)


def devices(asked: str) -> list[str]:
    """Return the GPUs to spread over, as CUDA_VISIBLE_DEVICES names them; none, if `device` asks for the CPU or for one.

    Args:
        asked: the setting `device`: auto and cuda mean all that are visible.
    """
    import torch

    if asked not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (
        [name.strip() for name in visible.split(",")] if visible else list(map(str, range(torch.cuda.device_count())))
    )
    return names[: torch.cuda.device_count()]


def run(blocks: Sequence[Block], work: Callable[[Block], object], gpus: Sequence[str]) -> dict[str, str]:
    """Do every block; return the failed ones' names and errors.

    Args:
        blocks: their commands write records only; they are used where there are several GPUs.
        work: does a block in this process and collects its records. After processes of their own it is called as well: it
            then finds the records there.
        gpus: from `devices`.
    """
    failed = over(blocks, gpus) if min(len(gpus), len(blocks)) > 1 else {}
    return failed | in_turn([block for block in blocks if block.name not in failed], work)


def in_turn(blocks: Sequence[Block], work: Callable[[Block], object]) -> dict[str, str]:
    """Do the blocks in this process, one after the other; return the failed ones' names and errors.

    A user's mistake is a line at the end; anything else shows its traceback where it happens, too.
    """
    failed = {}
    for block in blocks:
        try:
            work(block)
        except Exception as error:
            failed[block.name] = user_errors.told(error)
    return failed


def over(blocks: Sequence[Block], gpus: Sequence[str]) -> dict[str, str]:
    """Do the blocks in processes of their own, one a GPU at a time; return the failed ones' names and errors.

    A process sees its GPU alone (CUDA_VISIBLE_DEVICES). Its lines appear with its block's name before them, a progress bar
    every 20 seconds. All processes end with this one.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for gpu in gpus:
        free.put(gpu)
    running: set[subprocess.Popen[str]] = set()

    def one(block: Block) -> str | None:
        gpu = free.get()
        try:
            return _process(block, gpu, running)
        finally:
            free.put(gpu)

    before = _terminated_is_exit()
    pool = ThreadPoolExecutor(len(gpus))
    try:
        errors = list(pool.map(one, blocks))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return {block.name: error for block, error in zip(blocks, errors, strict=True) if error is not None}


def _process(block: Block, gpu: str, running: set[subprocess.Popen[str]]) -> str | None:
    """Run one block; return its last words if it failed."""
    print(f"[{block.name}] on GPU {gpu}", flush=True)
    process = subprocess.Popen(
        [sys.executable, *block.command],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # universal newlines: each state of a progress bar is a line
    )
    running.add(process)
    last: dict[str, collections.deque[str]] = {name: collections.deque(maxlen=20) for name in ("stdout", "stderr")}
    readers = [threading.Thread(target=_relay, args=(block.name, process, name, last[name])) for name in last]
    with process:  # closes its pipes
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    code = process.returncode
    running.discard(process)
    if code == 0:
        return None
    errors = [line for line in last["stderr"] if line.startswith(("error: ", "failed: "))] or list(last["stderr"])
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return errors[-1].removeprefix("error: ").removeprefix(f"failed: {block.name}: ") if errors and code > 0 else ended


def _relay(name: str, process: subprocess.Popen[str], stream: str, last: collections.deque[str]) -> None:
    """Print a process's lines under its block's name, progress bars now and then; keep the last ones."""
    drawn = time.monotonic()
    for line in getattr(process, stream):
        text = line.strip()
        if not text:
            continue
        if _BAR.search(text):
            if time.monotonic() - drawn < _EVERY:
                continue
            drawn = time.monotonic()
        else:
            last.append(text)
        print(f"[{name}] {text}", file=getattr(sys, stream), flush=True)


def _terminated_is_exit() -> Callable[..., object] | int | None:
    """Make SIGTERM an orderly exit, so that the processes end, too; return what it was (None outside the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
