"""Recipes: the files in conf/, mistakes, schedules, seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from wcx.errors import WcxError
from wcx.training.recipe import Recipe, derive

RECIPES = Path(__file__).parents[2] / "conf" / "recipe"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_one(path: Path) -> None:
    recipe = Recipe.of(yaml.safe_load(path.read_text()))
    assert recipe.name == path.stem
    assert recipe.augmentation(64)(Image.new("RGB", (64, 64))).size == (64, 64)


def test_the_papers_recipe_is_the_authors() -> None:
    """errata_and_protocols.md, row fine-tuning."""
    recipe = Recipe.of(yaml.safe_load((RECIPES / "paper.yaml").read_text()))
    assert (recipe.train, recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == (
        "all", "sgd", 1e-3, 0.9, 5e-4,
    )  # fmt: skip
    assert (recipe.batch_size, recipe.epochs, recipe.select, recipe.schedule) == (128, 200, "last", "constant")
    expected = [
        v2.RandomHorizontalFlip(0.5),
        v2.RandomVerticalFlip(0.5),
        v2.RandomRotation(30),
        v2.ColorJitter(0.2, 0.2, 0.2, 0.1),
        v2.RandomAffine(0, translate=(0.1, 0.1)),
        v2.RandomResizedCrop(224, scale=(0.7, 1.0)),
        v2.RandomPerspective(0.2, p=0.5),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(3, sigma=(0.1, 2.0))], p=0.2),
    ]
    assert [repr(t) for t in recipe.augmentation(224).transforms] == [repr(t) for t in expected]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"optimiser": "sgd"}, "Did you mean 'optimizer'"),
        ({"optimizer": "adam"}, "adamw"),
        ({"select": "first"}, "best, last"),
        ({"augment": {"flip": 1}}, "horizontal_flip"),
        ({"train": "head", "augment": {"horizontal_flip": 0.5}}, "recipe.variants"),
        ({"train": "tail", "variants": 2}, "recipe.augment"),
        ({"train": "tail", "variants": -1, "augment": {"horizontal_flip": 0.5}}, "from 0 on"),
        ({"train": "all", "mirror": True}, "use augment"),
        ({"train": "head", "cut": "features.24"}, "recipe.train=tail"),
        ({"train": "tail", "kept": "bfloat16"}, "float16, float32, float64"),
        ({"epochs": 0}, "at least 1"),
        ({"augment": {"random_resized_crop": [1.0, 0.3]}}, "recipe.augment.random_resized_crop = [1.0, 0.3]"),
        ({"augment": {"rotation": [10, -10]}}, "[10, -10] is no range; give [lowest, highest]"),
        ({"augment": {"color_jitter": [[1.2, 0.8], 0.1]}}, "[1.2, 0.8] is no range"),
        ({"augment": {"blur": {"kernel": 3, "sigma": [2, 0.1], "p": 0.5}}}, "[2, 0.1] is no range"),
    ],
)
def test_mistakes_in_a_recipe_have_one_line(options: dict[str, object], part: str) -> None:
    with pytest.raises(WcxError) as error:
        Recipe.of({"name": "x", **options})
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [2, 7, 100])
def test_schedules_are_torchs(schedule: str, steps: int) -> None:
    recipe = Recipe("x", lr=0.3, schedule=schedule)
    optimizer = recipe.build_optimizer([nn.Parameter(torch.zeros(1))])
    scheduler = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, steps, cycle_momentum=False),
    }[schedule]()
    for step in range(steps):
        assert recipe.lr_at(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_derived_seeds_are_distinct_and_stable() -> None:
    seeds = {
        derive(a, what, b, c) for a in range(3) for what in ("sample", "step") for b in range(20) for c in range(20)
    }
    assert len(seeds) == 2400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "sample", 1, 2) == derive(0, "sample", 1, 2) != derive(0, "sample", 2, 1)
