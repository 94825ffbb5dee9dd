"""What an experiment costs beyond the network passes that it needs, as ratios measured in one run.

- ours / bare: the experiment against the same passes of the bare network, batch by batch, with nothing between them.
- naive / ours: against a loop as most people would write it.
- ours / plain: where evaluation passes go through a copy of the network (`evaluation`, `evaluation_precision`), against without it.
- peak memory, of a process of its own, for few and for many images.

Machines are shared and noisy: the runs take turns, and medians are told. With one thread on a CPU (OMP_NUM_THREADS=1) the
seconds are the process's own, which others on the machine cannot lengthen.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from wcx import pipeline
from wcx.checks import processes
from wcx.checks.base import gathered, summary_table
from wcx.checks.rounds import Rounds, Timed
from wcx.checks.workloads import WORKLOADS, Workload
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.pipeline import Job
from wcx.records import Shard, fingerprint
from wcx.report.tables import Table

WAYS = ("ours", "bare", "naive", "plain")
PASSES = ["forward", "backward", "masked", "evaluation"]
MEASURES = {"time": ["images", "seconds", *PASSES], "memory": ["images", "peak_mib"]}
MEANINGS = {
    **dict.fromkeys(("dataset", "network", "experiment"), ""),
    "cells": "method and contrast pairs, computed together",
    "images": "",
    "repeats": "rounds",
    "batch_size": "images a pass",
    "threads": "",
    "passes": "of the experiment, in images",
    "compared_with": "masking: without sharing; perturbation: the least",
    **dict.fromkeys(WAYS, "seconds, median"),
    "ours / bare": "ratio of medians",
    "naive / ours": "ratio of medians",
    "evaluation": "what evaluation passes go through, and in which precision",
    "ours / plain": "median ratio of a round's; plain: evaluation=eager, float32",
    "peak_mib": "peak memory, MiB",
    "ratio": "to that of the fewest images",
}


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        measures: time or memory.
        cells: of the experiment, as text.
        work: fingerprints of the records that the experiment would make: its protocol, images and network.
        images: for the time.
        repeats: rounds.
        counts: numbers of images whose peak memory is compared, a round each.
        evaluation: what evaluation passes go through, in words.
    """

    measures: str
    cells: tuple[str, ...]
    work: tuple[str, ...]
    images: int
    repeats: int
    counts: tuple[int, ...] = ()
    evaluation: str = "eager float32"


@dataclass(frozen=True)
class BenchRequest:
    """What is asked of the bench for one (dataset, model).

    Attributes:
        open_job: opens the experiment's job; can be pickled.
        parts: time, memory.
        images, repeats, counts: see `BenchSettings`.
        methods: of peers; all if none.
    """

    open_job: Callable[[], Job]
    parts: Sequence[str]
    images: int = 32
    repeats: int = 3
    counts: tuple[int, ...] = (100, 500)
    methods: Sequence[str] = ()


class Bench(Timed):
    """Seconds of a `Workload` by cell (experiment, way), the naive ones scaled to all images; or peak memory."""

    protocol = BenchSettings
    measures = MEASURES
    version = 2  # 2: bare passes through the copy that the experiment's go through

    @classmethod
    def jobs(cls, request: BenchRequest) -> Iterator[Job]:  # type: ignore[override]  # asked for by a command of its own
        job = request.open_job()
        name, cells = job.experiment.name(), tuple(map(" ".join, job.cells))
        work = tuple(fingerprint(shard.parts) for shard in job.shards())
        evaluation = f"{job.evaluator.kind} {getattr(job.settings, 'evaluation_precision', 'float32')}"
        for measures in request.parts:
            timed = measures == "time"
            ways = [way for way in WAYS if way != "plain" or job.evaluator.network] if timed else [measures]
            counts = () if timed else request.counts
            sizes = (request.images * timed, len(counts) or request.repeats, counts)
            settings = BenchSettings(measures, cells, work, *sizes, evaluation)
            yield Rounds.of(job, cls, [Cell(name, way) for way in ways], settings, reopen=request.open_job)

    @cached_property
    def workload(self) -> Workload:
        """What is timed, warmed up."""
        job = self.job.work
        return WORKLOADS[job.experiment.name()](job, self.settings.images)

    def measure(self, place: int) -> dict[Cell, Row]:
        if self.settings.measures == "memory":
            count = self.settings.counts[place]
            return {self.cells[0]: {"images": count, "peak_mib": processes.alone(peak, self.job.reopen, count)}}
        work = self.workload
        scale = {"naive": len(work.items) / work.few}
        passes = {"ours": work.passes, "bare": work.compared()}
        rows = {}
        for cell in self.cells:
            duration = seconds(getattr(work, cell.contrast)) * scale.get(cell.contrast, 1)
            rows[cell] = {"images": len(work.items), "seconds": duration, **passes.get(cell.contrast, {})}
        return rows

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        groups: dict[str, list[Row]] = {name: [] for name in MEASURES}
        jobs: dict[tuple[str, ...], list[Shard]] = {}
        for shard in shards:
            jobs.setdefault((*shard.key[:3], fingerprint(shard.parts)), []).append(shard)
        for members in jobs.values():
            measures = members[0].parts["settings"]["measures"]
            groups[measures] += _times(members) if measures == "time" else _peaks(members)
        titles = {"time": "Beyond bare passes, and beside a naive loop", "memory": "Peak memory"}
        return [
            summary_table(f"{cls.name()}_{name}", titles[name], pd.DataFrame(lines), MEANINGS, ".2f")
            for name, lines in groups.items()
            if lines
        ]


def _facts(shard: Shard) -> Row:
    """Return what a line says of the job of a shard."""
    facts = dict(zip(("dataset", "network", "experiment"), shard.key, strict=False))
    return facts | {"cells": len(shard.parts["settings"]["cells"]), "weights": shard.labels["weights"]}


def _times(shards: Sequence[Shard]) -> list[Row]:
    """Return the line of one job's times."""
    rows, parts = gathered(shards), shards[0].parts
    median = rows.groupby("contrast").seconds.median()
    line = _facts(shards[0]) | {"images": int(rows.images.iloc[0]), "repeats": parts["settings"]["repeats"]}
    line |= {key: parts[key] for key in ("batch_size", "threads")}
    for column, way in (("passes", "ours"), ("compared_with", "bare")):
        counts = rows[rows.contrast == way].iloc[0][PASSES].dropna()
        line[column] = ", ".join(f"{kind} {int(count)}" for kind, count in counts.items())
    line |= median[[way for way in WAYS if way in median]].to_dict()
    if "plain" in median:
        rounds = rows.pivot(index="index", columns="contrast", values="seconds")
        line |= {"ours / plain": (rounds.ours / rounds.plain).median(), "evaluation": parts["settings"]["evaluation"]}
    ratios = {"ours / bare": median["ours"] / median["bare"], "naive / ours": median["naive"] / median["ours"]}
    return [line | ratios]


def _peaks(shards: Sequence[Shard]) -> list[Row]:
    """Return the lines of one job's peaks of memory."""
    rows = gathered(shards)
    lines = rows.assign(ratio=rows.peak_mib / rows.peak_mib.iloc[0])[["images", "peak_mib", "ratio"]].to_dict("records")
    return [_facts(shards[0]) | line for line in lines]


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds of one call: of this process alone, if it has one thread on a CPU."""
    serial = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if serial else time.perf_counter
    start = clock()
    function()
    return clock() - start


def peak(open_job: Callable[[], Job], count: int) -> float:
    """Make the records of so many images; return the peak memory of this process, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        job = dataclasses.replace(open_job(), limit=count, results_dir=Path(folder))
        pipeline.run(job, quiet=True)
    return processes.mebibytes("VmHWM")
