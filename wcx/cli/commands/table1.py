"""Table 1: the masking experiment for datasets x models x methods x contrasts, one table from all records.

python scripts/table1.py datasets=[cub,cars] models=[vgg16] methods=[gradcam] contrasts=[original,weighted] limit=100
python scripts/table1.py datasets=[cub] masks=[sign,equal] seeds=[0,1,2]     two protocols, three trained networks
python scripts/table1.py collect=only                                       the tables of all records there are
python scripts/table1.py collect=only threshold=0.3                         of their images with p_t2 above 0.3

A network that has no checkpoint is fine-tuned first. executor=ray computes on all GPUs and machines that there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from wcx import pipeline
from wcx.cli import application, blocks, grid, opening
from wcx.cli.blocks import Block, Results
from wcx.cli.commands import finetune
from wcx.cli.grid import Grid
from wcx.errors import WcxError, choose
from wcx.pipeline import Job
from wcx.records import Shard


def jobs(asked: Grid, block: Block) -> Iterator[tuple[Job, str]]:
    """Yield the jobs of a block, a protocol and seed each, and their configurations as text; fine-tune what is missing."""
    for variant in asked.variants():
        cfgs = asked.cells(block.pair, variant)
        seed = [text for text in variant if text.startswith("seed=")]
        if not finetune.prepare(asked, block, cfgs[0], seed):
            # a plan: passes are timed with random weights, which tell nothing about the threshold
            for cfg in cfgs:
                cfg.model.weights, cfg.select = "random", "all"
        yield opening.job(cfgs), OmegaConf.to_yaml(cfgs[0], resolve=True)


def draw(job: Job, shards: list[Shard], count: int) -> list[str]:
    """Draw the first selected images of a job under every contrast, a figure for each method."""
    from wcx.report.pictures import selected

    lines = []
    mask, seed = job.settings.mask, job.loaded.meta.get("seed")
    variant = (f"-{mask}" if mask != "sign" else "") + (f"-seed{seed}" if seed else "")
    for method in dict.fromkeys(cell.method for cell in job.cells):
        path = job.results_dir / "figures" / f"{job.dataset.name}-{job.loaded.name}-{method}{variant}.png"
        if shown := selected.selected(job, [shard for shard in shards if shard.key[2] == method], count):
            name = f"{job.dataset.name} {job.loaded.name} {method}"
            title = selected.title_of(name, len(shown), job.settings.threshold)
            lines.append(f"figure: {selected.write_selected(shown, path, title, shards[0].labels)}")
            facts = {key: shards[0].labels[key] for key in ("dataset", "weights", "stand_in", "subset")}
            selected.write_frames(shown, path.with_suffix(""), title, model=job.loaded.name, method=method, **facts)
    return lines


def tables(cfg: DictConfig, shards: list[Shard], refused: list[str], threshold: float | None = None) -> list[str]:
    """Write the tables, for images above another `threshold` than the records' own if given; return the lines for the screen.

    Damaged records are left out, with a line each in `refused`.
    """
    from wcx.report import sections

    results = Path(cfg.paths.results_dir)
    fitting, notes = sections.collect("masking", results, shards, refused if cfg.collect else [])
    excess = len(fitting) - len(shards)
    if cfg.collect:
        shards, notes = fitting, [*sections.outdated(fitting), *notes]
    else:
        notes = [f"{excess} other sets of records in {results}: collect=true makes tables of all"] if excess else []
    if not shards:
        nothing = f"no complete records in {results}; make some: python scripts/table1.py datasets=[...]"
        raise WcxError(refused[0] if refused else nothing)
    section = sections.of("masking", shards, refused, threshold=threshold)
    if refused and not section.filled:
        raise WcxError(f"no table: none of the {len(shards)} sets of records is what was written. {refused[0]}")
    files = ", ".join(map(str, section.write(results)))
    return [section.to_text(), f"tables: {files}", *notes, f"records: {results / 'records'}"]


def run(cfg: DictConfig) -> None:
    """Run every block; one that fails is reported at the end, and the others finish."""
    asked = Grid.of(cfg, "table1")
    choose("collect", str(cfg.collect).lower(), ["false", "true", "only"])
    shards: list[Shard] = []
    figures: list[str] = []
    refused: list[str] = []

    def opened(block: Block) -> Iterator[tuple[Job, str]]:
        for job, config in jobs(asked, block):
            if cfg.plan:
                print("; ".join(f"{key}: {value}" for key, value in pipeline.plan(job, executor=executor).items()))
            else:
                yield job, config

    def finished(block: Block, job: Job, results: Results) -> None:
        computed, passes = results
        print(f"{block.name}: passes (images) {dict(passes) or 'none, all records were there'}", flush=True)
        shards.extend(computed)
        if cfg.report:
            figures.extend(draw(job, computed, cfg.figure))

    failed: dict[str, str] = {}
    if cfg.collect != "only":
        with blocks.executor(cfg) as executor:
            failed = blocks.run(asked.blocks(), opened, executor, finished)
    if cfg.report and not cfg.plan and (shards or cfg.collect):
        typed = cfg.collect == "only" and any(text.startswith("threshold=") for text in asked.overrides)
        threshold = cfg.threshold if typed else None  # None: that of the records
        print(*tables(cfg, shards, refused, threshold), *figures, sep="\n")
    grid.fail(failed, refused)


def main() -> None:
    """Run the command line."""
    application.main(run, "table1", lambda arguments: grid.complete(arguments, "table1"))
