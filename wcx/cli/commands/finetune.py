"""Fine-tune a model on a dataset by a recipe; finished ones are skipped, an interrupted one goes on where it was.

wcx finetune dataset=cub model=mobilenet_v2 recipe=quick
wcx finetune -m dataset=cub,cars model=alexnet,vgg16 recipe=head
wcx finetune dataset=cub model=vgg16 recipe=tail recipe.cut=features.24
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from wcx import files, models, training
from wcx.cli import application, opening
from wcx.cli.blocks import Block
from wcx.cli.grid import Grid
from wcx.datasets import ImageDataset


def run(cfg: DictConfig) -> None:
    """Make the checkpoint of one (dataset, model, seed), or print the plan."""
    recipe = training.Recipe.of(opening.plain(cfg.recipe))
    train, test = opening.open_dataset(cfg, "train"), opening.open_dataset(cfg, "test")
    place = cfg.paths.checkpoints_dir, train.name, cfg.model.name, train.class_names, cfg.seed
    path = Path(
        cfg.model.get("checkpoint") or models.checkpoint_path(*place, recipe.name, cfg.model.get("recipe", "quick"))
    )
    if cfg.plan or (not cfg.force and path.is_file()):  # nothing is written
        _make(cfg, recipe, train, test, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    waits = partial(print, f"{path} is being trained by another process; waiting for it", flush=True)
    with files.locked(path.with_name(f".{path.stem}.lock"), waits):
        _make(cfg, recipe, train, test, path)


def _make(cfg: DictConfig, recipe: training.Recipe, train: ImageDataset, test: ImageDataset, path: Path) -> None:
    """Train what is not there yet, or print the plan."""
    if not cfg.force and (line := training.finished(path, recipe)):
        print(line)
        return
    arguments = opening.plain(cfg.model) | {"checkpoint": None}
    folder, name = Path(cfg.paths.checkpoints_dir), arguments["name"]
    start = models.load(
        **arguments, num_classes=len(train.class_names), weights_dir=cfg.paths.weights_dir, seed=cfg.seed
    )
    if cfg.plan:
        plan = training.plan(start, train, test, recipe, path, opening.device(cfg))
        print(*(f"{key}: {value}" for key, value in plan.items()), sep="\n")
        return
    options = {key: cfg[key] for key in ("seed", "num_workers", "cache_gib", "keep_features", "amp")}
    meta = training.finetune(start, train, test, recipe, path, device=opening.device(cfg), **options)
    print(
        f"{train.name} {name} {recipe.name}: test accuracy {meta['accuracy']:.3f} on {len(test)} images {test.subset}"
    )
    print(f"checkpoint {path}, beside it .history.csv and .curve.png; all: {training.write_accuracies(folder)}")


def prepare(asked: Grid, block: Block, cfgs: Sequence[DictConfig], extra: Sequence[str]) -> bool:
    """Fine-tune a block's network if it has no checkpoint yet; return whether it has one then: after a plan it has not.

    Args:
        asked: the runner's grid, whose configuration says `finetune`.
        extra: further overrides, such as the seed.
    """
    cfg = cfgs[0]
    chosen = cfg.model.get("checkpoint") is not None or cfg.model.get("weights") != "auto"  # the user's weights
    if chosen or cfg.dataset.name == "imagenet" or not cfg.finetune:
        return True
    classes = opening.open_dataset(cfg, "test").class_names
    if opening.knows(cfg, classes):
        return True
    path = opening.checkpoint_path(cfg, cfg.dataset.name, classes)
    typed = [text.partition("=")[0].lstrip("+") for text in asked.overrides if re.match(r"\+*recipe[.=]", text)]
    if path.exists() and not typed:
        return True
    recipe = [] if "recipe" in typed else [f"recipe={cfg.checkpoint_recipe or cfg.model.recipe}"]
    dataset, model = block.pair
    cell = [f"method={cfg.method.name}", f"contrast={cfg.contrast.name}"]  # whose options may be among the overrides
    composed = application.compose(
        [f"dataset={dataset}", f"model={model}", *cell, *recipe, *asked.overrides, *extra], asked.config
    )
    if not cfg.force and training.finished(path, training.Recipe.of(opening.plain(composed.recipe))):
        return True
    opening.check(cfgs)  # before hours of training
    print(
        f"{block.name}: no checkpoint {path}; fine-tuning comes first, recipe {composed.recipe.name} (finetune=false refuses)"
    )
    run(composed)
    return path.exists()
