"""Fine-tuning: recipes, samples, the resumable loop, heads on precomputed features, and the script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from scripts import cli
from scripts import finetune as script
from wcx import models, training
from wcx.datasets.base import DataError, ImageDataset, Transform
from wcx.errors import WcxError
from wcx.training import features, samples, task
from wcx.training.recipe import Recipe, derive

RECIPES = Path(__file__).parents[1] / "conf" / "recipe"


class Drawn(ImageDataset):
    """Stripes whose direction is the class, under noise; `count` says how many images were asked for."""

    def __init__(self, split: str, size: int = 24, classes: int = 3, side: int = 16) -> None:
        ids = [f"{split}-{i}" for i in range(size)]
        names = ["rows", "columns", "checks"][:classes]
        labels = [i % classes for i in range(size)]
        super().__init__("drawn", split, None, ids, labels, class_names=names, transform=Transform("squash", side))
        self.count, self.broken = 0, None

    def image(self, i: int) -> Image.Image:
        self.count += 1
        if i == self.broken:
            raise DataError(f"cannot read image {self.ids[i]}: it is broken.")
        rows, columns = np.indices((16, 16)) // 4 % 2
        pattern = [rows, columns, rows ^ columns][self.labels[i]][:, :, None]
        noise = np.random.default_rng(derive(self.split, i) % 2**32).normal(0, 60, (16, 16, 3))
        return Image.fromarray((pattern * 120 + 60 + noise).clip(0, 255).astype(np.uint8))


class Tiny(nn.Module):
    """Convolution, BatchNorm, and a classifier with dropout: all that training must take care of."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(8 * 49, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).flatten(1))


def start(seed: int = 0) -> models.LoadedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Tiny(3).eval()
    return models.LoadedModel(
        net=net,
        model=models.Normalized(net).eval(),
        name="tiny",
        layer="features",
        class_names=None,
        weights="stand-in: tiny.pth",
        stand_in=True,
        weights_hash=models.weights_hash(net.state_dict()),
        transform={},
    )


ALL = Recipe("t", optimizer="adamw", lr=5e-3, epochs=3, batch_size=8, augment={"horizontal_flip": 0.5, "rotation": 5})
BEST = Recipe("b", lr=0.05, epochs=3, batch_size=8, select="best", schedule="one_cycle", holdout=0.3)
HEAD = Recipe("h", train="head", lr=0.05, epochs=3, batch_size=8, mirror=True)


def run(path: Path, recipe: Recipe, **options: object) -> models.LoadedModel:
    loaded = start()
    training.finetune(loaded, Drawn("train"), Drawn("test", 9), recipe, path, num_workers=0, **options)
    return loaded


# ------------------------------------------------------------------------------------------------------------ recipes


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
        ({"train": "head", "augment": {"horizontal_flip": 0.5}}, "mirror"),
        ({"epochs": 0}, "at least 1"),
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


# ------------------------------------------------------------------------------------------------------------ samples


def test_samples_depend_on_seed_epoch_and_index_alone() -> None:
    def of(seed: int, keys: list[tuple[int, int]], workers: int) -> torch.Tensor:
        pixels = samples.Pixels(Drawn("train"), cache_bytes=0 if workers else 2**20)
        recipe = Recipe("x", augment={"horizontal_flip": 0.5, "color_jitter": [0.5, 0.5, 0.5, 0.1]})
        data = samples.Augmented(pixels, recipe.augmentation(16), seed)
        return next(iter(DataLoader(data, batch_sampler=[keys], num_workers=workers)))[0]

    keys = [(0, 3), (0, 4), (1, 3), (7, 5)]
    images = of(0, keys, 0)
    assert torch.equal(images, of(0, keys, 1))
    assert torch.equal(images.flip(0), of(0, keys[::-1], 0))
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images, of(1, keys, 0))


def test_pixels_are_exactly_those_of_the_dataset() -> None:
    data = Drawn("train", 6)
    for cache in (0, 2**20):
        pixels = samples.Pixels(data, cache_bytes=cache)
        assert (pixels.cache is None) == (cache == 0)
        for i in range(len(data)):
            assert torch.equal(pixels[i][0].float() / 255, data[i][0])
            assert pixels[i][1] == data[i][1]


def test_batches_are_a_permutation_and_go_on_in_the_middle() -> None:
    batches = samples.Batches(range(10, 33), 5, seed=1)
    first = list(batches)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 3]
    assert sorted(i for batch in first for _, i in batch) == list(range(10, 33))
    batches.start = 2
    assert list(batches) == first[2:]
    assert len(batches) == 3
    batches.epoch, batches.start = 1, 0
    assert [i for _, i in next(iter(batches))] != [i for _, i in first[0]]
    assert {epoch for batch in batches for epoch, _ in batch} == {1}
    assert [len(batch) for batch in samples.Batches(range(21), 5, seed=0)] == [5] * 4, "no batch of one image"


def test_the_holdout_is_a_seeded_tenth_of_train() -> None:
    recipe = Recipe("x", select="best")
    kept, held = samples.choose_indices(660, recipe, seed=0)
    assert len(held) == 66
    assert sorted(kept + held) == list(range(660))
    assert (kept, held) == samples.choose_indices(660, recipe, seed=0) != samples.choose_indices(660, recipe, seed=1)
    assert samples.choose_indices(5, Recipe("x"), seed=0) == ([0, 1, 2, 3, 4], [])


# --------------------------------------------------------------------------------------------------------------- loop


@pytest.mark.parametrize("recipe", [ALL, BEST, HEAD], ids=["all", "best", "head"])
@pytest.mark.parametrize("when", [1, 4])
def test_resumed_training_is_byte_identical(
    recipe: Recipe, when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after `when` steps and again after one; states saved at every step (save_every=0), or at the ends of epochs."""
    whole = run(tmp_path / "whole.safetensors", recipe)
    fit = training.fit
    for save_every in (0.0, 1e9):
        path = tmp_path / f"killed{save_every}.safetensors"
        for left in (when, 1):
            optimizer = torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.AdamW
            step = optimizer.step
            counter = iter(range(left))

            def killed(self: torch.optim.Optimizer, *args: object) -> object:
                if next(counter, None) is None:  # noqa: B023
                    raise KeyboardInterrupt
                return step(self, *args)  # noqa: B023

            with monkeypatch.context() as patch:
                patch.setattr(task, "fit", lambda *a, **k: fit(*a, **k, save_every=save_every))  # noqa: B023
                patch.setattr(optimizer, "step", killed)
                with pytest.raises(KeyboardInterrupt):
                    run(path, recipe)
        resumed = run(path, recipe)
        assert models.weights_hash(resumed.net.state_dict()) == models.weights_hash(whole.net.state_dict())
        one, other = (pd.read_csv(p.with_suffix(".history.csv")) for p in (tmp_path / "whole.safetensors", path))
        pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))
        left_over = {p.name for p in path.parent.iterdir() if p.name.startswith("killed")}
        assert left_over == {
            p.with_suffix(s).name for p in [path] for s in (".safetensors", ".history.csv", ".curve.png")
        } | ({f"killed0.0{s}" for s in (".safetensors", ".history.csv", ".curve.png")})


def test_a_state_of_another_run_is_not_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = samples.Augmented(samples.Pixels(Drawn("train")), ALL.augmentation(16), 0)
    options = {"indices": range(24), "state_path": tmp_path / "s.state"}
    training.fit(start().model, data, ALL, identity={"a": 1}, **options)
    again, fresh = start(), start()
    training.fit(again.model, data, ALL, identity={"a": 2}, **options)
    assert "starting afresh" in caplog.text
    training.fit(fresh.model, data, ALL, indices=range(24))
    assert models.weights_hash(again.net.state_dict()) == models.weights_hash(fresh.net.state_dict())


def test_a_step_is_the_one_of_a_plain_loop() -> None:
    """One epoch of SGD without augmentation or dropout, against the loop that anybody would write."""
    recipe = Recipe(
        "x", lr=0.1, momentum=0.9, weight_decay=0.01, label_smoothing=0.1, batch_size=8, freeze_batchnorm=True
    )
    ours, theirs = start(), start()
    ours.net.classifier[0].p = theirs.net.classifier[0].p = 0.0
    data = samples.Augmented(samples.Pixels(Drawn("train")), recipe.augmentation(16), 0)
    history = training.fit(ours.model, data, recipe, indices=range(24))
    optimizer = torch.optim.SGD(theirs.net.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    losses = []
    theirs.model.to(memory_format=torch.channels_last)
    for batch in samples.Batches(range(24), 8, seed=0):
        images = torch.stack([Drawn("train")[i][0] for _, i in batch])
        labels = torch.tensor([Drawn("train").labels[i] for _, i in batch])
        loss = nn.functional.cross_entropy(theirs.model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert history[0]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for key, value in theirs.net.state_dict().items():
        torch.testing.assert_close(ours.net.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_batchnorm_keeps_its_statistics(freeze: bool) -> None:
    loaded, before = start(), start().net.features[1]
    data = samples.Augmented(samples.Pixels(Drawn("train")), ALL.augmentation(16), 0)
    training.fit(loaded.model, data, Recipe("x", lr=0.1, freeze_batchnorm=freeze), indices=range(24))
    after = loaded.net.features[1]
    assert torch.equal(after.running_mean, before.running_mean) == freeze
    assert torch.equal(after.running_var, before.running_var) == freeze
    assert not torch.equal(after.weight, before.weight)
    assert not loaded.net.training


def test_best_is_the_epoch_with_the_highest_held_out_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    loaded = run(path, BEST)
    history = pd.read_csv(path.with_suffix(".history.csv"))
    meta = models.read_meta(path)
    assert meta["validation_accuracy"] == history["validation_accuracy"].max()
    assert meta["epoch"] == history["validation_accuracy"].idxmax() + 1, "the first of equals"
    _, held = samples.choose_indices(24, BEST, seed=0)
    again = [int(loaded.model(Drawn("train")[i][0][None]).argmax() == Drawn("train").labels[i]) for i in held]
    assert np.mean(again) == pytest.approx(meta["validation_accuracy"])


@pytest.mark.parametrize("recipe", [ALL, BEST, HEAD], ids=["all", "best", "head"])
def test_the_test_images_are_not_looked_at_before_the_training_is_over(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test, fit = Drawn("test", 9), training.fit

    def fit_unseen(*args: object, **options: object) -> object:
        history = fit(*args, **options)
        assert test.count == 0
        return history

    monkeypatch.setattr(task, "fit", fit_unseen)
    training.finetune(start(), Drawn("train"), test, recipe, tmp_path / "c.safetensors", num_workers=0)
    assert test.count >= 9


def test_a_broken_image_is_one_line_with_and_without_workers(tmp_path: Path) -> None:
    train = Drawn("train")
    train.broken = 5
    for workers in (0, 1):
        for recipe, cache in ((ALL, 2), (HEAD, 0)) if workers else ((ALL, 2), (ALL, 0), (HEAD, 0)):
            with pytest.raises(DataError) as error:
                training.finetune(
                    start(),
                    train,
                    Drawn("test", 9),
                    recipe,
                    tmp_path / "c.safetensors",
                    num_workers=workers,
                    cache_gib=cache,
                )
            assert str(error.value) == "cannot read image train-5: it is broken."


# --------------------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v2", "resnet18", "squeezenet1_1"])
def test_the_heads_inputs_lead_to_the_networks_logits(name: str, tmp_path: Path) -> None:
    loaded = models.load(name, weights="random", num_classes=3)
    data = samples.Pixels(Drawn("train", 3, side=64))
    array = features.head_inputs(loaded.model, data, tmp_path / "f.npy", mirror=True, batch_size=2)
    head = loaded.net.get_submodule(models.head_name(loaded.net))
    images = torch.stack([data[i][0] for i in range(3)]).float() / 255
    with torch.inference_mode():
        for view, pixels in enumerate((images, images.flip(-1))):
            logits = head(torch.from_numpy(array[view].copy())).flatten(1)
            torch.testing.assert_close(logits, loaded.model(pixels), rtol=1e-4, atol=1e-5)


def test_features_go_on_where_they_stopped(tmp_path: Path) -> None:
    whole = features.head_inputs(start().model, samples.Pixels(Drawn("train")), tmp_path / "a.npy", mirror=True)
    data = Drawn("train")
    data.broken = 17
    pixels = samples.Pixels(data, cache_bytes=0)
    loaded = start()
    with pytest.raises(DataError):
        features.head_inputs(loaded.model, pixels, tmp_path / "b.npy", mirror=True, batch_size=4)
    assert isinstance(loaded.net.classifier, nn.Sequential), "the head is back, after an error as well"
    assert (tmp_path / "b.done").read_text() == "16"
    data.broken, data.count = None, 0
    array = features.head_inputs(loaded.model, pixels, tmp_path / "b.npy", mirror=True, batch_size=4)
    assert data.count <= 24 - 16 + 2
    np.testing.assert_allclose(array, whole, rtol=1e-5, atol=1e-6)


def test_training_the_head_leaves_the_rest_and_features_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    loaded = run(path, HEAD, keep_features=True)
    before = start().net.state_dict()
    for key, value in loaded.net.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("features."), key
    kept = sorted(p.name for p in (tmp_path / "features").glob("*.npy"))
    assert [name.rsplit("-", 1)[0] for name in kept] == ["tiny-test", "tiny-train"]
    run(path, HEAD)
    assert not list((tmp_path / "features").iterdir())


# --------------------------------------------------------------------------------------------------------- checkpoint


@pytest.mark.parametrize("recipe", [ALL, HEAD], ids=["all", "head"])
def test_the_checkpoint_says_what_it_is_and_its_accuracy_is_true(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "drawn" / "tiny.safetensors"
    loaded = run(path, recipe, seed=4)
    state, meta = models.read_checkpoint(path)
    test = Drawn("test", 9)
    logits = torch.cat([loaded.model(test[i][0][None]) for i in range(9)])
    assert meta["accuracy"] == pytest.approx((logits.argmax(1) == torch.tensor(test.labels)).float().mean().item())
    assert models.weights_hash(state) == models.weights_hash(loaded.net.state_dict())
    expected = {
        "model": "tiny",
        "dataset": "drawn",
        "class_names": ["rows", "columns", "checks"],
        "seed": 4,
        "weights": "stand-in: tiny.pth",
        "stand_in": True,
        "transform": {"kind": "squash", "size": 16, "resize": 256},
        "train_images": 24,
        "test_images": 9,
    }
    assert {key: meta[key] for key in expected} == expected
    assert meta["recipe"]["name"] == recipe.name
    assert len(pd.read_csv(path.with_suffix(".history.csv"))) == recipe.epochs
    assert Image.open(path.with_suffix(".curve.png")).size[0] > 500
    assert "force=true" in training.finished(path, recipe)
    assert "another recipe (t)" in (training.finished(path, Recipe("z")) if recipe is ALL else "another recipe (t)")
    table = training.accuracies(tmp_path)
    assert table[["dataset", "model", "recipe", "seed"]].to_numpy().tolist() == [["drawn", "tiny", recipe.name, 4]]


def test_it_learns(tmp_path: Path) -> None:
    recipe = Recipe("x", optimizer="adamw", lr=5e-3, epochs=12, batch_size=8)
    meta = training.finetune(
        start(), Drawn("train", 60), Drawn("test", 30), recipe, tmp_path / "c.safetensors", num_workers=0
    )
    assert meta["accuracy"] >= 0.8


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WcxError, match="different classes"):
        training.finetune(start(), Drawn("train"), Drawn("test", classes=2), ALL, tmp_path / "c.safetensors")


# ------------------------------------------------------------------------------------------------------------- script


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        data = Drawn(split, 12)
        for i in range(12):
            path = tmp_path / "data" / "mine" / split / data.class_names[data.labels[i]] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            data.image(i).save(path)
    return tmp_path


def test_the_script_plans_trains_and_skips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*overrides: str) -> str:
        common = [
            f"dataset.root={folder / 'data' / 'mine'}",
            f"paths.checkpoints_dir={folder / 'checkpoints'}",
            "dataset.transform.size=64",
            "recipe.epochs=1",
            "model.weights=random",
            "device=cpu",
            "num_workers=0",
        ]
        script.run(
            cli.compose(["dataset=folder", "model=squeezenet1_1", "recipe=quick", *common, *overrides], "finetune")
        )
        return capsys.readouterr().out

    assert "12 to train on" in call("plan=true")
    assert not (folder / "checkpoints").exists(), "a plan writes nothing"
    assert "test accuracy" in call()
    path = models.checkpoint_path(
        folder / "checkpoints", "folder", "squeezenet1_1", sorted(["rows", "columns", "checks"])
    )
    written = path.stat().st_mtime_ns
    assert call().startswith("finished: ")
    assert path.stat().st_mtime_ns == written
    call("force=true")
    assert path.stat().st_mtime_ns > written
    assert models.load("squeezenet1_1", checkpoint=path).class_names == ["checks", "columns", "rows"]
    assert len(pd.read_csv(folder / "checkpoints" / "accuracies.csv")) == 1
