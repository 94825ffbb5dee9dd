"""Fig. 3: gradient-sign perturbation of networks under contrasts; the figure, its tables, and all records behind them.

python scripts/fig3.py                                                            the paper's nine networks
python scripts/fig3.py models=[squeezenet1_1] contrasts=[original,weighted] limit=100 profile=authors_code
python scripts/fig3.py models=[alexnet] model.weights=random limit=8              to try the road out, without weights

Where there are several GPUs, each network goes to the next one that is free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from wcx import pipeline
from wcx.cli import application, grid, opening, spread
from wcx.cli.grid import Grid
from wcx.cli.spread import Block
from wcx.pipeline import Job
from wcx.records import Shard

ON_GPU = ("batch_size", "chunk_size")  # 256 there, unless the command line says otherwise


def job(asked: Grid, block: Block) -> tuple[Job, str]:
    """Return the job of a network, and its configuration as text."""
    cfgs = asked.cells(block.pair)
    if opening.device(cfgs[0]).type == "cuda":
        typed = {text.partition("=")[0] for text in asked.overrides}
        for cfg in cfgs:
            cfg.update({key: 256 for key in ON_GPU if key not in typed})
    return opening.job(cfgs), OmegaConf.to_yaml(cfgs[0], resolve=True)


class Networks:
    """All networks: their jobs, opened and timed before the first begins, and one progress bar in expected seconds."""

    def __init__(self, asked: Grid) -> None:
        self.asked = asked
        self.jobs: dict[str, tuple[Job, str]] = {}
        self.plans: dict[str, dict[str, Any]] = {}
        self.shards: list[Shard] = []

    def prepare(self, block: Block) -> None:
        """Open and time a network: what is missing shows before hours have been spent on others."""
        self.jobs[block.name] = job(self.asked, block)
        self.plans[block.name] = pipeline.plan(self.jobs[block.name][0])
        print("; ".join(f"{key}: {value}" for key, value in self.plans[block.name].items()), flush=True)

    @property
    def seconds(self) -> float:
        """Expected, on one device."""
        return float(sum(plan["seconds"] for plan in self.plans.values()))

    def compute(self, blocks: list[Block], gpus: list[str]) -> dict[str, str]:
        """Make the records of all networks; return the failed ones' names and errors."""
        if len(gpus) > 1:
            self.jobs.clear()  # their networks' memory is for the processes
        shape, hidden = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}", len(gpus) > 1  # each shows its own
        total = self.seconds or 1.0
        with tqdm(total=total, bar_format=shape, smoothing=0.05, disable=hidden) as bar:

            def work(block: Block) -> None:
                network, config = self.jobs.pop(block.name) if block.name in self.jobs else job(self.asked, block)
                plan = self.plans[block.name]
                pace = plan["seconds"] / max(1, plan["images_left"])
                bar.set_description(block.name)
                shards, passes = pipeline.run(
                    network, config, progress=lambda images: bar.update(min(images * pace, total - bar.n))
                )
                bar.write(f"{block.name}: passes (images) {dict(passes) or 'none, all records were there'}")
                self.shards.extend(shards)

            return spread.run(blocks, work, gpus)


def run(cfg: DictConfig) -> None:
    """Run every network; one that fails is told at the end, and the others finish."""
    networks = Networks(Grid.of(cfg, "fig3", "fig3"))
    blocks = networks.asked.blocks()
    failed = spread.in_turn(blocks, networks.prepare)
    blocks = [block for block in blocks if block.name not in failed]
    gpus = [] if cfg.plan else spread.devices(cfg.device)[: len(blocks)]
    refused: list[str] = []
    span = tqdm.format_interval(networks.seconds / max(1, len(gpus)))
    if blocks:
        print(f"expected: {span} for {len(blocks)} networks" + f" on {len(gpus)} GPUs" * (len(gpus) > 1), flush=True)
    if blocks and not cfg.plan:
        failed |= networks.compute(blocks, gpus)
        if cfg.report and networks.shards:
            from wcx.report import sections

            results = Path(cfg.paths.results_dir)
            section = sections.of("sign_perturbation", networks.shards, refused)
            files = ", ".join(map(str, section.write(results)))
            print(section.to_text(), f"Fig. 3: {files}", f"records: {results / 'records'}", sep="\n")
    grid.fail(failed, refused)


def main() -> None:
    """Run the command line."""
    application.main(run, "fig3", lambda arguments: grid.complete(arguments, "fig3"))
