"""Memory: processes of their own, which hold nothing else, what Linux says of it, and too little of it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

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


@contextmanager
def scarce(device: torch.device, model: nn.Module) -> Iterator[None]:
    """Leave memory for a batch of two images or so, as long as the context lasts; on a CPU the model complains of more."""
    if device.type != "cuda":
        with model.register_forward_pre_hook(_refuse):
            yield
        return
    torch.cuda.empty_cache()
    total, used = torch.cuda.mem_get_info(device)[1], torch.cuda.memory_allocated(device)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.set_per_process_memory_fraction((used + 2.5 * (peak - used)) / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _refuse(_module: nn.Module, inputs: tuple[Tensor]) -> None:
    if len(inputs[0]) > 2:
        raise torch.OutOfMemoryError("no more than two images")
