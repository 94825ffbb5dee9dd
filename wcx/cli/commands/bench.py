"""What an experiment costs beyond the network passes that it needs, as ratios measured in one run.

wcx bench                                            the embedded default, no data needed
wcx bench datasets=[cub] models=[alexnet] images=32  on real images (random weights will do)
wcx bench experiment=sign_perturbation               Fig. 3's experiment; also the hours for 50,000 images
wcx bench memory=[100,500] parts=[memory]            parts=[time], of Fig. 3's parts=[estimate] likewise
wcx bench parts=[peers] images=16 methods=[gradcam]  beside captum, grad-cam, torch-cam, zennit: wcx[peers]

What is compared, and how: wcx/checks/bench.py, peers.py. A round is a record: what is there is not measured again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain

from omegaconf import DictConfig

from wcx.checks import flops
from wcx.checks.bench import MEASURES, Bench, BenchRequest
from wcx.checks.libraries import METHODS, missing
from wcx.checks.peers import Peers
from wcx.checks.workloads import WORKLOADS
from wcx.cli import allocator, grid, opening
from wcx.cli.commands.verify import filled, show
from wcx.cli.grid import Grid
from wcx.errors import WcxError, choose
from wcx.experiments import sign_perturbation
from wcx.pipeline import Job

RUNNERS = {"masking": "table1", "sign_perturbation": "fig3"}  # the configuration whose lists are an experiment's


def open_job(asked: Grid, pair: Sequence[str]) -> Job:
    """Return the job of one (dataset, model), in this process or in one of its own."""
    allocator.keep_freed_memory()
    return opening.job(asked.cells(pair))


def run(cfg: DictConfig) -> None:
    """Measure what is missing, and print; or print the plan."""
    work = WORKLOADS[choose("experiment to measure", cfg.experiment, WORKLOADS)]
    parts = [choose("part", part, work.parts) for part in opening.plain(cfg.parts) or work.parts]
    for key, counts in (("images", [cfg.images]), ("repeats", [cfg.repeats]), ("memory", opening.plain(cfg.memory))):
        if not all(type(count) is int and count >= 1 for count in counts):
            raise WcxError(f"{key} = {opening.plain(cfg[key])!r}: give whole numbers of at least 1.")
    runner, asked = grid.settings(RUNNERS[cfg.experiment]), Grid.of(cfg)
    lists = {key: opening.plain(cfg[key]) or runner[key] for key in ("methods", "contrasts")}
    asked = dataclasses.replace(asked, lists={**asked.lists, **lists})
    if "estimate" in parts and not cfg.plan:
        protocol = opening.settings(cfg, sign_perturbation.Settings)
        print(flops.text(flops.estimate(runner["models"], protocol, len(lists["contrasts"]))))
    if "peers" in parts and opening.plain(cfg.parts):
        for method in opening.plain(cfg.methods):
            choose("method of peers", method, METHODS)
    elif "peers" in parts and (line := missing() or _incomparable(opening.plain(cfg.methods))):
        print(line)
        parts.remove("peers")
    timed: dict[type[Bench | Peers], Collection[str]] = {Bench: MEASURES.keys(), Peers: {"peers"}}
    for check, measured in timed.items():
        named = [part for part in parts if part in measured]
        jobs = chain.from_iterable(check.jobs(wanted(cfg, asked, block.pair, named)) for block in asked.blocks())
        if shards := filled(check, jobs if named else (), cfg):
            show(check, shards, cfg)


def wanted(cfg: DictConfig, asked: Grid, pair: Sequence[str], parts: Sequence[str]) -> BenchRequest:
    """Return what is asked for one (dataset, model)."""
    return BenchRequest(
        partial(open_job, asked, pair),
        parts,
        cfg.images,
        cfg.repeats,
        tuple(opening.plain(cfg.memory)),
        [method for method in opening.plain(cfg.methods) if method in METHODS],
    )


def _incomparable(names: Sequence[str]) -> str:
    """Return a line if methods are named and the libraries have none of them; else ""."""
    if not names or set(names) & METHODS.keys():
        return ""
    return f"peers: the libraries have none of {', '.join(names)}; left out. They are compared by {', '.join(METHODS)}."
