"""The loop that fills a job's records: an executor computes the chunks, this process commits them in their order."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from wcx import records
from wcx.contrasts import Confused
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.files import write
from wcx.inventory import Check
from wcx.pipeline.executors import Executor, Local
from wcx.pipeline.job import Job
from wcx.records import Shard

log = logging.getLogger("wcx")
Progress = Callable[[int], object] | None  # of the images of each chunk that was computed


def run(
    job: Job, config: str = "", quiet: bool = False, progress: Progress = None, executor: Executor | None = None
) -> tuple[list[Shard], Counter[str]]:
    """Compute the records of a block, or what is missing of them.

    Args:
        job: what to compute.
        config: the composed configuration as text, kept beside the records.
        quiet: no progress bar.
        progress: called with the number of images of each chunk that has been computed; then there is no progress bar.
        executor: computes the chunks; None is this process.

    Returns:
        the shards in the order of `job.cells`, and the network passes done, counted in images.

    Raises:
        WcxError: cells that do not fit; an image that cannot be read (with on_error=stop; what was computed is kept).
    """
    shards, passes = job.shards(), Counter[str]()
    for shard in shards:
        shard.relabel()
    for checks in _together(job.checks(shards)):
        passes += _fill(job, checks, executor or Local(), config, quiet, progress)
    return shards, passes


def plan(job: Job, probe: int = 16, executor: Executor | None = None) -> dict[str, Any]:
    """Return what a block costs: images, passes, seconds of a worker and disk, from a probe of the first few images."""
    shards, chunks = job.shards(), job.chunks()
    checks = {shard: check for shard, check in job.checks(shards).items() if not check.complete}
    todo = [Cell(shard.key[2], shard.key[3]) for shard in checks]
    images_left = sum(len(chunks[chunk]) for chunk in job.missing(checks))
    estimate: dict[str, Any] = {"seconds": 0}
    if todo:
        estimate = (executor or Local()).plan(job, todo, probe, images_left)
    if job.confusion is None and Confused.count(getattr(job.settings, "foils", None)) is not None:
        estimate["confusion"] = (
            "is not kept beside the checkpoints: it comes first, and finished records are known by it alone"
        )
    return {
        "dataset": job.dataset.name,
        "model": job.loaded.name,
        "cells": len(shards),
        "complete": len(shards) - len(todo),
        "images": sum(map(len, chunks)),
        "images_left": images_left,
        **estimate,
    }


def _together(checks: Mapping[Shard, Check]) -> list[dict[Shard, Check]]:
    """Return what is computed together, on which the last bits depend: what is damaged, with all that was finished."""
    finished = {shard: check for shard, check in checks.items() if shard.complete}
    groups = [{shard: check for shard, check in checks.items() if not check.complete}]
    if any(check.faults for check in finished.values()):
        groups = [finished, {shard: check for shard, check in checks.items() if not shard.complete}]
    return [group for group in groups if group]


def _fill(
    job: Job, checks: Mapping[Shard, Check], executor: Executor, config: str, quiet: bool, progress: Progress
) -> Counter[str]:
    """Compute what is missing of some of the job's shards; return the passes done."""
    cells, first = [Cell(shard.key[2], shard.key[3]) for shard in checks], next(iter(checks))
    made_with: dict[str, Any] = {}
    chunks, missing, passes = job.chunks(), job.missing(checks), Counter[str]()
    done = sum(len(indices) for chunk, indices in enumerate(chunks) if chunk not in set(missing))
    name = f"{job.dataset.name} {job.loaded.name}" + f" x{executor.workers}" * (executor.workers > 1)
    total, hidden = sum(map(len, chunks)), quiet or progress is not None
    bar = tqdm(total=total, initial=done, unit="image", desc=name, disable=hidden, smoothing=0.05)

    def compute(chunk: int) -> list[list[Row]]:
        computed = chunk_of(chunk)
        if not made_with:  # before the first commit
            made_with.update(computed.made_with)
            for shard in (shard for shard, check in checks.items() if not check.complete):
                _describe(shard, job, made_with, config)
        for fact, value in computed.made_with.items():
            if value != made_with[fact]:
                log.warning("%s: %s of chunk %d is %s, the manifest has %s", name, fact, chunk, value, made_with[fact])
        for shard, content in zip(checks, computed.maps, strict=False):  # none unless maps are saved
            write(shard.chunk_path(chunk).with_suffix(job.suffix), content)
        passes.update(computed.passes)
        return computed.rows

    def tell(chunk: int) -> None:
        if chunk in missing:
            (progress or bar.update)(len(chunks[chunk]))

    with bar, executor.chunks(job, cells, missing, lambda chunk: job.left(first, chunk)) as chunk_of:
        records.collect(
            list(checks),
            len(chunks),
            compute,
            job.columns(),
            suffix=job.suffix,
            plan=chunks,
            stop=lambda: job.left(first) == 0,
            progress=tell,
        )
    return passes


def _describe(shard: Shard, job: Job, made_with: Mapping[str, Any], config: str) -> None:
    """Write what a shard is and what it is made with; the command is this process's, all else the workers'."""
    facts = {"fingerprint": records.fingerprint(shard.parts), "seed": job.seed, "layer": job.loaded.layer}
    facts |= {"dataset_listing": shard.parts["dataset"], "method": job.settled[shard.key[2]]}
    facts |= {"weights": job.loaded.weights, "weights_hash": job.loaded.weights_hash}
    facts |= {"evaluation": job.evaluator.kind, "evaluation_reason": job.evaluator.reason}
    shard.describe({**facts, **made_with, "command": sys.argv}, config)
