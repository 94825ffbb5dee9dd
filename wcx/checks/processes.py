"""Processes of their own, whose memory holds nothing else, and what Linux says of it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from wcx.errors import WcxError

_T = TypeVar("_T")
STATUS = Path("/proc/self/status")


def alone(function: Callable[..., _T], *arguments: object) -> _T:
    """Return what a function of a module returns in a new Python process; its error is raised here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def mebibytes(key: str) -> float:
    """Return the memory of this process, MiB: `VmRSS` now, `VmHWM` at its peak.

    Raises:
        WcxError: another system than Linux.
    """
    if not STATUS.exists():
        raise WcxError(
            f"peak memory is read from {STATUS}, which Linux alone has; leave that part out, e.g. parts=[time]."
        )
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
