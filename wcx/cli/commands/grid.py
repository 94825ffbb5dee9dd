"""Any experiment over lists: wcx <experiment> datasets=[...] models=[...] methods=[...] contrasts=[...] limit=100.

What is left out is the dataset's default network and the experiment's default method; contrasts are original and weighted. A
network that has no checkpoint is fine-tuned first (finetune=false refuses).
The records lie where those of run.py lie; the tables are <results>/<experiment>.csv and, with
every fact, <results>/tables/<experiment>_full.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from wcx import pipeline
from wcx.cli import application, blocks, grid, opening
from wcx.cli.blocks import Block, Results
from wcx.cli.commands import finetune
from wcx.cli.grid import Grid
from wcx.pipeline import Job
from wcx.records import Shard


def run(cfg: DictConfig) -> None:
    """Run every block; one that fails is told at the end, and the others finish."""
    asked = Grid.of(cfg, "grid")
    shards: list[Shard] = []
    figures: list[Path] = []

    def jobs(block: Block) -> Iterator[tuple[Job, str]]:
        for variant in asked.variants():
            extra = [f"experiment={cfg.experiment}", *variant]
            cfgs = asked.cells(block.pair, extra)
            if not finetune.prepare(asked, block, cfgs[0], extra):  # a plan: passes are timed with random weights
                for cell in cfgs:
                    cell.model.weights = "random"
            job = opening.job(cfgs)
            if cfg.plan:
                print("; ".join(f"{key}: {value}" for key, value in pipeline.plan(job, executor=executor).items()))
            else:
                yield job, OmegaConf.to_yaml(cfgs[0], resolve=True)

    def finished(block: Block, job: Job, results: Results) -> None:
        print(f"{block.name}: passes (images) {dict(results[1]) or 'none, all records were there'}", flush=True)
        shards.extend(results[0])
        if cfg.report and cfg.figure and job.experiment.needs_twins:
            from wcx.report.pictures import twins

            figures.extend(twins.write(job, results[0]))

    with blocks.executor(cfg) as executor:
        failed = blocks.run(asked.blocks(), jobs, executor, finished)
    if shards and cfg.report:
        from wcx.report import sections

        results = Path(cfg.paths.results_dir)
        section = sections.of(cfg.experiment, shards)
        files = section.write(results)
        print(section.to_text(), f"tables: {', '.join(map(str, files))}", f"records: {results / 'records'}", sep="\n")
        print(*(f"figure: {figure}" for figure in figures), sep="\n")
    grid.fail(failed)


def main(experiment: str | None = None) -> None:
    """Run the command line for an experiment."""
    if experiment is not None:
        sys.argv.insert(1, f"experiment={experiment}")
    application.main(run, "grid", lambda arguments: grid.complete(arguments, "grid"))
