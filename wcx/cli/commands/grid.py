"""Any experiment over lists: wcx <experiment> datasets=[...] models=[...] methods=[...] contrasts=[...] limit=100.

What is left out is the dataset's default network and the experiment's default method; contrasts are original and weighted.
The records lie where those of run.py lie; the tables are <results>/<experiment>.csv and, with
every fact, <results>/tables/<experiment>_full.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from wcx import pipeline
from wcx.cli import application, grid, opening, spread
from wcx.cli.grid import Grid
from wcx.cli.spread import Block
from wcx.records import Shard


def run(cfg: DictConfig) -> None:
    """Run every block; one that fails is told at the end, and the others finish."""
    asked = Grid.of(cfg, cfg.experiment, "grid")
    shards: list[Shard] = []

    def work(block: Block) -> None:
        for variant in asked.variants():
            cfgs = asked.cells(block.pair, [f"experiment={cfg.experiment}", *variant])
            job = opening.job(cfgs)
            if cfg.plan:
                print("; ".join(f"{key}: {value}" for key, value in pipeline.plan(job).items()))
                continue
            computed, passes = pipeline.run(job, OmegaConf.to_yaml(cfgs[0], resolve=True))
            print(f"{block.name}: passes (images) {dict(passes) or 'none, all records were there'}", flush=True)
            shards.extend(computed)

    failed = spread.run(asked.blocks(), work, [] if cfg.plan else spread.devices(cfg.device))
    if shards and cfg.report:
        from wcx.report import sections

        results = Path(cfg.paths.results_dir)
        section = sections.of(cfg.experiment, shards)
        files = section.write(results)
        print(section.to_text(), f"tables: {', '.join(map(str, files))}", f"records: {results / 'records'}", sep="\n")
    grid.fail(failed)


def main(experiment: str | None = None) -> None:
    """Run the command line for an experiment."""
    if experiment is not None:
        sys.argv.insert(1, f"experiment={experiment}")
    application.main(run, "grid", lambda arguments: grid.complete(arguments, "grid"))
