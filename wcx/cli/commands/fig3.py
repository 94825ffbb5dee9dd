"""Fig. 3: gradient-sign perturbation of networks under contrasts; the figure, its tables, and all records behind them.

wcx fig3                                                            the paper's nine networks
wcx fig3 models=[squeezenet1_1] contrasts=[original,weighted] limit=100 profile=authors_code
wcx fig3 models=[alexnet] model.weights=random limit=8              to try the road out, without weights

executor=ray computes on all GPUs and machines that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from wcx import pipeline
from wcx.cli import blocks, grid, opening
from wcx.cli.blocks import Block, Results
from wcx.cli.grid import Grid
from wcx.pipeline import Executor, Job
from wcx.records import Shard

ON_GPU = ("batch_size", "chunk_size")  # 256 there, unless the command line says otherwise


def job(asked: Grid, block: Block, on_gpu: bool | None = None) -> tuple[Job, str]:
    """Return the job of a network, and its configuration as text; `on_gpu`: see `Executor`."""
    cfgs = asked.cells(block.pair)
    if opening.device(cfgs[0]).type == "cuda" if on_gpu is None else on_gpu:
        typed = {text.partition("=")[0] for text in asked.overrides}
        for cfg in cfgs:
            cfg.update({key: 256 for key in ON_GPU if key not in typed})
    return opening.job(cfgs), OmegaConf.to_yaml(cfgs[0], resolve=True)


class PreparedNetworks:
    """All networks: their jobs, opened and timed before the first begins, and one progress bar in expected seconds."""

    def __init__(self, asked: Grid, executor: Executor) -> None:
        self.asked, self.executor = asked, executor
        self.jobs: dict[str, tuple[Job, str]] = {}
        self.plans: dict[str, dict[str, Any]] = {}
        self.shards: list[Shard] = []

    def prepare(self, block: Block) -> None:
        """Open and time a network: what is missing shows before hours have been spent on others."""
        self.jobs[block.name] = job(self.asked, block, self.executor.on_gpu)
        self.plans[block.name] = pipeline.plan(self.jobs[block.name][0], executor=self.executor)
        print("; ".join(f"{key}: {value}" for key, value in self.plans[block.name].items()), flush=True)

    @property
    def seconds(self) -> float:
        """Expected, of all workers together."""
        return float(sum(plan["seconds"] for plan in self.plans.values())) / self.executor.workers

    def compute(self, prepared: Sequence[Block]) -> dict[str, str]:
        """Make the records of all networks; return the failed ones' names and errors."""
        total = self.seconds or 1.0
        with tqdm(
            total=total, bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}", smoothing=0.05
        ) as bar:

            def progress(block: Block) -> Callable[[int], object]:
                plan = self.plans[block.name]
                pace = plan["seconds"] / max(1, plan["images_left"]) / self.executor.workers
                bar.set_description(block.name)
                return lambda images: bar.update(min(images * pace, total - bar.n))

            def finished(block: Block, _job: Job, results: Results) -> None:
                shards, passes = results
                bar.write(f"{block.name}: passes (images) {dict(passes) or 'none, all records were there'}")
                self.shards.extend(shards)

            return blocks.run(prepared, lambda block: [self.jobs.pop(block.name)], self.executor, finished, progress)


def run(cfg: DictConfig) -> None:
    """Run every network; one that fails is told at the end, and the others finish."""
    refused: list[str] = []
    with blocks.executor(cfg) as executor:
        networks = PreparedNetworks(Grid.of(cfg), executor)
        asked = networks.asked.blocks()
        failed = blocks.in_turn(asked, networks.prepare)
        prepared = [block for block in asked if block.name not in failed]
        if prepared:
            workers = f" on {executor.workers} workers" * (executor.workers > 1)
            span = tqdm.format_interval(networks.seconds)
            print(f"expected: {span} for {len(prepared)} networks{workers}", flush=True)
        if prepared and not cfg.plan:
            failed |= networks.compute(prepared)
    if cfg.report and networks.shards:
        from wcx.report import sections

        results = Path(cfg.paths.results_dir)
        section = sections.of("sign_perturbation", networks.shards, refused)
        files = ", ".join(map(str, section.write(results, opening.plain(cfg.formats))))
        print(section.to_text(), f"Fig. 3: {files}", f"records: {results / 'records'}", sep="\n")
    grid.fail(failed, refused)
