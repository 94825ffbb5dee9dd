"""Fig. 3: gradient-sign perturbation of networks under contrasts; the figure, its tables, and all records behind them.

python scripts/fig3.py                                                            the paper's nine networks
python scripts/fig3.py models=[squeezenet1_1] contrasts=[original,weighted] limit=100 profile=authors_code
python scripts/fig3.py models=[alexnet] model.weights=random limit=8              to try the road out, without weights

Where there are several GPUs, each network goes to the next one that is free.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from scripts import cli, jobs, spread
from scripts.spread import Block
from wcx import pipeline
from wcx.records import Shard
from wcx.report import fig3

DEFAULTS = {
    "models": [
        *("vgg16", "alexnet", "resnet18", "densenet161", "googlenet"),
        *("mobilenet_v3_large", "mobilenet_v3_small", "mnasnet1_0", "efficientnet_b1"),
    ],
    "contrasts": ["original", "mean", "max", "weighted"],
    "methods": ["gradient"],
}
ON_GPU = ["batch_size=256", "chunk_size=256"]  # what the command line says wins


def blocks(lists: dict[str, list[str]], overrides: Sequence[str]) -> list[Block]:
    """Return a block for each network, as a command line of this script that makes its records."""
    rest = [f"{key}=[{','.join(values)}]" for key, values in lists.items() if key != "models"]
    return [Block(model, [__file__, f"models=[{model}]", *rest, *overrides]) for model in lists["models"]]


def compose(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration, on imagenet unless told otherwise; on a GPU with larger batches."""
    overrides = ["dataset=imagenet", "experiment=sign_perturbation", *overrides]
    named = {key: one for one in overrides for key in [one.partition("=")[0]]}  # the last of a name wins
    cfg = cli.compose(list(named.values()), "fig3")
    if cli.device(cfg).type != "cuda":
        return cfg
    return cli.compose([*(one for one in ON_GPU if one.partition("=")[0] not in named), *named.values()], "fig3")


def job(block: Block) -> tuple[pipeline.PerturbationJob, str]:
    """Return the job of a block, and its configuration as text."""
    lists, overrides = cli.split_lists(block.command[1:], DEFAULTS)
    cells = [(method, contrast) for method in lists["methods"] for contrast in lists["contrasts"]]
    shared = [f"model={block.name}", *overrides]
    cfgs = [compose([*shared, f"method={method}", f"contrast={contrast}"]) for method, contrast in cells]
    return jobs.perturbation_job(cfgs), OmegaConf.to_yaml(cfgs[0], resolve=True)


class Whole:
    """All networks: their jobs, opened and timed before the first begins, and one progress bar in expected seconds."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[pipeline.PerturbationJob, str]] = {}
        self.plans: dict[str, dict] = {}

    def prepare(self, block: Block) -> None:
        """Open and time a network: what is missing shows before hours have been spent on others."""
        self.jobs[block.name] = job(block)
        self.plans[block.name] = pipeline.plan(self.jobs[block.name][0])
        print("; ".join(f"{key}: {value}" for key, value in self.plans[block.name].items()), flush=True)

    @property
    def seconds(self) -> float:
        """Expected, on one device."""
        return sum(plan["seconds"] for plan in self.plans.values())

    def bar(self, hidden: bool) -> tqdm:
        """Return a bar that a network moves by its own pace."""
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        return tqdm(total=self.seconds or 1, bar_format=shape, smoothing=0.05, disable=hidden)


def main() -> None:
    """Run every network; one that fails is told at the end, and the others finish."""
    lists, overrides = cli.split_lists(sys.argv[1:], DEFAULTS)
    cli.check_overrides([f"{key[:-1]}={','.join(values)}" for key, values in lists.items()] + overrides)
    common = compose(overrides)
    todo, whole = blocks(lists, overrides), Whole()
    failed, refused = spread.in_turn(todo, whole.prepare), []
    todo = [block for block in todo if block.name not in failed]
    gpus = [] if common.plan else spread.devices(common.device)[: len(todo)]
    span = tqdm.format_interval(whole.seconds / max(1, len(gpus)))
    if todo:
        print(f"expected: {span} for {len(todo)} networks" + f" on {len(gpus)} GPUs" * (len(gpus) > 1), flush=True)
    if todo and not common.plan:
        shards, also = compute(todo, whole, gpus)
        failed |= also
        if common.report and shards:
            results = Path(common.paths.results_dir)
            print(*fig3.write_all(shards, results, refused), f"records: {results / 'records'}", sep="\n")
    if failed or refused:
        print(*(f"failed: {name}: {error}" for name, error in failed.items()), *refused, sep="\n", file=sys.stderr)
        sys.exit(1)


def compute(todo: Sequence[Block], whole: Whole, gpus: Sequence[str]) -> tuple[list[Shard], dict[str, str]]:
    """Return the records of all networks, and the failed ones' names and errors."""
    shards: list[Shard] = []
    if len(gpus) > 1:
        whole.jobs.clear()  # their networks' memory is for the processes
        torch.cuda.empty_cache()
    with whole.bar(hidden=len(gpus) > 1) as bar:  # else each process shows its own

        def work(block: Block) -> None:
            one, config = whole.jobs.pop(block.name, None) or job(block)
            plan = whole.plans[block.name]
            pace = plan["seconds"] / max(1, plan["images_left"])
            bar.set_description(block.name)
            made, passes = pipeline.run(
                one, config, progress=lambda images: bar.update(min(images * pace, bar.total - bar.n))
            )
            bar.write(f"{block.name}: passes (images) {dict(passes) or 'none, all records were there'}")
            shards.extend(made)

        apart = [Block(block.name, [*block.command, "report=false"]) for block in todo]
        failed = spread.run(apart, work, gpus)
    return shards, failed


if __name__ == "__main__":
    cli.guarded(main)
