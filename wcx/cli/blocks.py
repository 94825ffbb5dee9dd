"""Blocks of a runner, one (dataset, model) each, by the executor that is asked for; what failed is told at the end."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from wcx import pipeline
from wcx.cli import user_errors
from wcx.errors import WcxError, choose
from wcx.pipeline import Executor, Job, Local
from wcx.records import Shard

Results = tuple[list[Shard], Any]  # what `pipeline.run` returns


@dataclass(frozen=True)
class Block:
    """What one network is computed on.

    Attributes:
        pair: dataset and model, by their choices' names.
    """

    pair: tuple[str, ...]

    @property
    def name(self) -> str:
        """For the messages, e.g. "cub vgg16"."""
        return " ".join(self.pair)


def executor(cfg: DictConfig) -> Executor:
    """Return the executor that the settings ask for.

    Raises:
        WcxError: settings of Ray without it; Ray is not there.
    """
    choose("executor", cfg.executor, ["local", "ray"])
    if cfg.executor == "local":
        for key in ("address", "workers", "num_cpus", "num_gpus"):
            if cfg[key] is not None:
                raise WcxError(f"{key}={cfg[key]} is a setting of Ray; add executor=ray, or leave it out.")
        count = torch.cuda.device_count() if cfg.device in ("auto", "cuda") else 0
        if count > 1:
            print(
                f"{count} GPUs are visible and one is used: executor=ray uses all (pip install 'wcx[ray]')", flush=True
            )
        return Local(cfg.threads)
    from wcx.pipeline.ray import Ray

    num_gpus = 0 if cfg.device == "cpu" else cfg.num_gpus
    return Ray(cfg.address, cfg.workers, cfg.num_cpus or 1, num_gpus, cfg.threads)


def in_turn(blocks: Sequence[Block], work: Callable[[Block], object]) -> dict[str, str]:
    """Do the blocks in this process, one after the other; return the failed ones' names and errors.

    A user's mistake is a line at the end; anything else shows its traceback where it happens, too.
    """
    failed: dict[str, str] = {}
    for block in blocks:
        with _told(block, failed):
            work(block)
    return failed


def run(
    blocks: Sequence[Block],
    jobs: Callable[[Block], Iterable[tuple[Job, str]]],
    executor: Executor,
    finished: Callable[[Block, Job, Results], object],
    progress: Callable[[Block], Callable[[int], object]] | None = None,
) -> dict[str, str]:
    """Compute the records of all blocks; return the failed ones' names and errors.

    Args:
        jobs: opens the jobs of a block, each with its configuration as text; called when its turn comes.
        executor: keeps as many jobs under way as it says.
        finished: called with what a job has come to, in the order of the jobs.
        progress: of a block, see `pipeline.run`.
    """
    failed: dict[str, str] = {}
    waiting: deque[tuple[Block, Job, Callable[[], Results]]] = deque()

    def finish() -> None:
        block, job, result = waiting.popleft()
        with _told(block, failed):
            finished(block, job, result())

    with contextlib.ExitStack() as stack:
        # Threads only where jobs are to overlap: one that computes here belongs to the main thread.
        pool = stack.enter_context(ThreadPoolExecutor(executor.blocks)) if executor.blocks > 1 else None
        stack.push(lambda kind, *_: executor.close() if kind else None)  # before the pool waits for its threads
        for block in blocks:
            with _told(block, failed):
                for job, config in jobs(block):
                    arguments = {"progress": progress and progress(block), "executor": executor}
                    waiting.append((block, job, _begun(pool, pipeline.run, job, config, **arguments)))
                    if len(waiting) >= executor.blocks:
                        finish()
        while waiting:
            finish()
    return failed


def _begun(
    pool: ThreadPoolExecutor | None, function: Callable[..., Results], *args: Any, **kwargs: Any
) -> Callable[[], Results]:
    """Begin a call in the pool; return what gives its result, which without a pool is the call itself."""
    if pool is None:
        return lambda: function(*args, **kwargs)
    return pool.submit(function, *args, **kwargs).result


@contextlib.contextmanager
def _told(block: Block, failed: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed.setdefault(block.name, user_errors.told(error))
