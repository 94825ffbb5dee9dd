"""Table 1: the masking experiment for datasets x models x methods x contrasts, one table from all records.

python scripts/table1.py datasets=[cub,cars] models=[vgg16] methods=[gradcam] contrasts=[original,weighted] limit=100
python scripts/table1.py datasets=[cub] masks=[sign,equal] seeds=[0,1,2]     two protocols, three trained networks
python scripts/table1.py collect=only                                       the tables of all records there are
python scripts/table1.py collect=only threshold=0.3                         of their images with p_t2 above 0.3

A network that has no checkpoint is fine-tuned first. With several GPUs, each (dataset, model) has a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

from omegaconf import DictConfig, OmegaConf

from scripts import cli, finetune, spread
from scripts.jobs import masking_job
from scripts.spread import Block
from wcx import models, pipeline
from wcx.errors import WcxError, choose
from wcx.records import Shard
from wcx.report import collected, frames, selected, table1

DEFAULTS = {
    "datasets": ["cub", "fgvc", "food101", "flowers102", "cars"],
    "models": ["vgg16"],
    "methods": ["linear_approximation", "gradcam"],
    "contrasts": ["original", "weighted"],
    "masks": [],  # those of the profile
    "seeds": [],  # the seed
}


def blocks(lists: dict[str, list[str]], overrides: Sequence[str]) -> list[Block]:
    """Return a block for each (dataset, model), as a command line of this script."""
    rest = [
        f"{key}=[{','.join(values)}]" for key, values in lists.items() if key not in ("datasets", "models") and values
    ]
    return [
        Block(f"{dataset} {model}", [__file__, f"datasets=[{dataset}]", f"models=[{model}]", *rest, *overrides])
        for dataset, model in product(lists["datasets"], lists["models"])
    ]


def cells(dataset: str, model: str, lists: dict[str, list[str]], overrides: Sequence[str]) -> list[DictConfig]:
    """Return the configuration of each (method, contrast) of one (dataset, model)."""
    shared = [f"dataset={dataset}", f"model={model}", "experiment=masking"]
    pairs = product(lists["methods"], lists["contrasts"])
    return [cli.compose([*shared, f"method={m}", f"contrast={c}", *overrides], "table1") for m, c in pairs]


def jobs(block: Block) -> Iterator[tuple[pipeline.MaskingJob, str]]:
    """Yield the jobs of a block, a protocol and seed each, and their configurations as text; fine-tune what is missing."""
    lists, overrides = cli.split_lists(block.command[1:], DEFAULTS)
    masks, seeds = ([f"{key}={value}" for value in lists[f"{key}s"]] for key in ("mask", "seed"))
    for own in product(seeds or [None], masks or [None]):
        cfgs = cells(*block.name.split(), lists, [*overrides, *(one for one in own if one)])
        trained = prepare(block, cfgs[0], [*overrides, *(one for one in own[:1] if one)])
        if not trained:  # a plan: passes are timed with random weights, which tell nothing about the threshold
            for cfg in cfgs:
                cfg.model.weights, cfg.select = "random", "all"
        yield masking_job(cfgs), OmegaConf.to_yaml(cfgs[0], resolve=True)


def prepare(block: Block, cfg: DictConfig, overrides: Sequence[str]) -> bool:
    """Fine-tune the network if it has no checkpoint yet; return whether it has one then: after a plan it has not."""
    own = cfg.model.get("checkpoint") is not None or cfg.model.get("weights") != "auto"  # weights of one's own choice
    if own or cfg.dataset.name == "imagenet" or not cfg.finetune:
        return True
    classes = cli.open_dataset(cfg, "test").class_names
    path = models.checkpoint_path(cfg.paths.checkpoints_dir, cfg.dataset.name, cfg.model.name, classes, cfg.seed)
    if path.exists():
        return True
    recipe = [] if any(one.startswith("recipe=") for one in overrides) else [f"recipe={cfg.model.recipe}"]
    dataset, model = block.name.split()
    training = cli.compose([f"dataset={dataset}", f"model={model}", *recipe, *overrides], "table1")
    print(
        f"{block.name}: no checkpoint {path}; fine-tuning comes first, recipe {training.recipe.name} (finetune=false refuses)"
    )
    finetune.run(training)
    return path.exists()


def draw(job: pipeline.MaskingJob, shards: list[Shard], count: int) -> list[str]:
    """Draw the first selected images of a job under every contrast, a figure for each method."""
    lines = []
    mask, seed = job.settings.mask, job.loaded.meta.get("seed")
    variant = (f"-{mask}" if mask != "sign" else "") + (f"-seed{seed}" if seed else "")
    for method in dict.fromkeys(cell.method for cell in job.cells):
        path = job.results_dir / "figures" / f"{job.dataset.name}-{job.loaded.name}-{method}{variant}.png"
        if samples := pipeline.samples(job, [shard for shard in shards if shard.key[2] == method], count):
            title = cli.figure_title(
                f"{job.dataset.name} {job.loaded.name} {method}", len(samples), job.settings.threshold
            )
            lines.append(f"figure: {selected.figure(samples, path, title)}")
            about = {key: shards[0].labels[key] for key in ("dataset", "weights", "subset")}
            frames.write(samples, path.with_suffix(""), title, model=job.loaded.name, method=method, **about)
    return lines


def tables(common: DictConfig, shards: list[Shard], refused: list[str], threshold: float | None = None) -> list[str]:
    """Write the tables, for images above another `threshold` than the records' own if given; return the lines for the screen.

    Damaged records are left out, with a line each in `refused`.
    """
    results = Path(common.paths.results_dir)
    whole, notes = collected.table1(results, shards, refused if common.collect else [])
    more = len(whole) - len(shards)
    if common.collect:
        shards = whole
    else:
        notes = [f"{more} other sets of records in {results}: collect=true makes tables of all"] if more else []
    if not shards:
        raise WcxError(
            refused[0]
            if refused
            else f"no complete records in {results}; make some: python scripts/table1.py datasets=[...]"
        )
    return [*table1.write_all(shards, results, threshold, refused=refused), *notes, f"records: {results / 'records'}"]


def main() -> None:
    """Run every block; one that fails is reported at the end, and the others finish."""
    lists, overrides = cli.split_lists(sys.argv[1:], DEFAULTS)
    cli.check_overrides([f"{key[:-1]}={','.join(values)}" for key, values in lists.items() if values] + overrides)
    # with a dataset, whose options may be among the overrides
    common = cli.compose([f"dataset={lists['datasets'][0]}", *overrides], "table1")
    choose("collect", str(common.collect).lower(), ["false", "true", "only"])
    shards: list[Shard] = []
    figures: list[str] = []
    refused: list[str] = []

    def work(block: Block) -> None:
        for job, config in jobs(block):
            if common.plan:
                print("; ".join(f"{key}: {value}" for key, value in pipeline.plan(job).items()))
                continue
            made, passes = pipeline.run(job, config)
            print(f"{block.name}: passes (images) {dict(passes) or 'none, all records were there'}", flush=True)
            shards.extend(made)
            if common.report:
                figures.extend(draw(job, made, common.figure))

    todo = blocks(lists, overrides) if common.collect != "only" else []
    apart = [Block(block.name, [*block.command, "report=false"]) for block in todo]
    failed = spread.run(apart, work, [] if common.plan else spread.devices(common.device))
    if common.report and not common.plan and (shards or common.collect):
        typed = common.collect == "only" and any(one.startswith("threshold=") for one in overrides)
        threshold = common.threshold if typed else None  # None: that of the records
        print(*tables(common, shards, refused, threshold), *figures, sep="\n")
    if failed or refused:
        print(*(f"failed: {name}: {error}" for name, error in failed.items()), *refused, sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.guarded(main)
