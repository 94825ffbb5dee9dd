"""Any experiment over lists: wcx <experiment> datasets=[...] models=[...] methods=[...] contrasts=[...] limit=100.

What is left out is the dataset's default network and the experiment's default method; contrasts are original and weighted. A
network that has no checkpoint is fine-tuned first (finetune=false refuses).
The records lie where those of run.py lie; the tables are <results>/<experiment>.csv and, with every fact,
<results>/tables/<experiment>_full.csv: of this command's records, or of all that fit (collect=true; collect=only computes none).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from wcx import pipeline
from wcx.cli import blocks, grid, opening
from wcx.cli.blocks import Block, Results
from wcx.cli.commands import finetune
from wcx.cli.grid import Grid
from wcx.errors import WcxError, choose
from wcx.pipeline import Job
from wcx.records import Shard


def run(cfg: DictConfig) -> None:
    """Run every block; one that fails is told at the end, and the others finish."""
    asked = Grid.of(cfg)
    choose("collect", str(cfg.collect).lower(), ["false", "true", "only"])
    shards: list[Shard] = []
    figures: list[Path] = []
    refused: list[str] = []

    def jobs(block: Block) -> Iterator[tuple[Job, str]]:
        for variant in asked.variants():
            cfgs = asked.cells(block.pair, variant)
            if not finetune.prepare(asked, block, cfgs, variant):
                for cell in cfgs:  # a plan: passes are timed with random weights, which tell nothing about a threshold
                    cell.update({"select": "all"} if "select" in cell else {})
                    cell.model.weights = "random"
            job = opening.job(cfgs)
            if cfg.plan:
                print("; ".join(f"{key}: {value}" for key, value in pipeline.plan(job, executor=executor).items()))
            else:
                yield job, OmegaConf.to_yaml(cfgs[0], resolve=True)

    def finished(block: Block, job: Job, results: Results) -> None:
        computed, passes = results
        print(f"{block.name}: passes (images) {dict(passes) or 'none, all records were there'}", flush=True)
        shards.extend(computed)
        if cfg.report:
            from wcx.report import sections  # pandas and matplotlib are slow to import

            figures.extend(sections.pictures(job, computed, cfg.figure, opening.plain(cfg.formats), cfg.style))

    failed: dict[str, str] = {}
    if cfg.collect != "only":
        with blocks.executor(cfg) as executor:
            failed = blocks.run(asked.blocks(), jobs, executor, finished)
    if cfg.report and not cfg.plan and (shards or cfg.collect):
        typed = cfg.collect == "only" and any(text.startswith("threshold=") for text in asked.overrides)
        options = {"threshold": cfg.threshold} if typed else {}  # else that of the records
        report(cfg, shards, refused, **options)
        print(*(f"figure: {figure}" for figure in figures), sep="\n", end="\n" if figures else "")
    grid.fail(failed, refused)


def report(cfg: DictConfig, shards: Sequence[Shard], refused: list[str], **options: float) -> None:
    """Write tables and drawings of records, and print them; those of another `threshold` than the records' own, if given.

    Damaged records are left out, with a line each in `refused`.
    """
    from wcx.report import sections

    results = Path(cfg.paths.results_dir)
    fitting, notes = sections.collect(cfg.experiment, results, shards, refused if cfg.collect else [])
    excess = len(fitting) - len(shards)
    if cfg.collect:
        shards, notes = fitting, [*sections.outdated(fitting), *notes]
    else:
        notes = [f"{excess} other sets of records in {results}: collect=true makes tables of all"] if excess else []
    if not shards:
        nothing = f"no complete records in {results}; make some: leave collect=only out."
        raise WcxError(refused[0] if refused else nothing)
    section = sections.of(cfg.experiment, shards, refused, **options)
    if refused and not section.filled:
        raise WcxError(f"no table: none of the {len(shards)} sets of records is what was written. {refused[0]}")
    files = ", ".join(map(str, section.write(results, opening.plain(cfg.formats))))
    print(section.to_text(), f"tables: {files}", *notes, f"records: {results / 'records'}", sep="\n")
