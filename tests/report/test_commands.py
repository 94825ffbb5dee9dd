"""The commands that fine-tune a record's network again; defaults that stand in code and in conf/, compared."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.report import shards
from wcx import contrasts, datasets, methods, models
from wcx.cli import application, opening
from wcx.records import Shard
from wcx.report import commands
from wcx.report.page import provenance

OPTIONS = {
    "method": {name: methods.get(name) for name in methods.names()},
    "contrast": {name: contrasts.get(name).function for name in contrasts.names()},
}


def test_a_network_is_fine_tuned_with_its_seed(tmp_path: Path) -> None:
    """By the facts in the labels; nothing is guessed from what older records say of their weights."""
    labels = [{"recipe": "head", "seed": 2}, {"recipe": "head", "seed": 0}, {}]
    networks = [shards.make(tmp_path, "weighted", model=f"net{i}", labels=each) for i, each in enumerate(labels)]
    networks += [shards.make(tmp_path, "mean", model="net0", labels=labels[0])]
    networks[0].describe({}, "model: {choice: torchvision model.name=net0}")
    networks += [shards.make(tmp_path, "weighted", dataset="flowers102", labels=labels[1])]
    networks[-1].describe({}, "dataset: {root: /data/f, allow_partial: true}")
    root = shlex.quote("dataset.root='/data/f'")
    assert provenance.finetuning(networks) == [
        "wcx finetune dataset=cub model=torchvision model.name=net0 recipe=head seed=2",
        "wcx finetune dataset=cub model=net1 recipe=head",
        "wcx finetune dataset=cub model=net0 recipe=head seed=2",
        f"wcx finetune dataset=flowers102 {root} dataset.allow_partial=true model=vgg16 recipe=head",
    ]


@pytest.mark.parametrize("value", ["a=b, [c] 'd'", "a\\b", "ends\\", "${x}", "Möwen & #1~", "null", "1", "", "x\\'y"])
def test_any_file_name_comes_back(value: str, tmp_path: Path) -> None:
    before = Shard(tmp_path, ("folder", "vgg16", "gradcam", "weighted"), "masking", {}, {})
    cfg = application.compose(["dataset=folder"])
    cfg.dataset.root = value.replace("${", "\\${")  # OmegaConf's own escape
    before.describe({}, OmegaConf.to_yaml(cfg, resolve=True))
    assert application.compose(commands.dataset(before)).dataset.root == value


def test_transforms_are_those_of_the_yaml_files() -> None:
    """Each stands twice, and here is where they are compared."""
    for name in datasets.names():
        own = opening.plain(application.compose([f"dataset={name}"]).dataset)
        stated = getattr(__import__(f"wcx.datasets.{name}", fromlist=[""]), "TRANSFORM", datasets.Transform())
        assert datasets.Transform(**own["transform"]) == stated


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, room in OPTIONS.items() for n in room])
def test_a_functions_defaults_are_its_yamls(group: str, name: str) -> None:
    """Under the default profile, with the paper's values."""
    parameters = inspect.signature(OPTIONS[group][name]).parameters.values()
    stated = opening.options(application.compose([f"{group}={name}"])[group])
    assert stated == {option.name: option.default for option in parameters if option.default is not option.empty}


def test_ones_own_networks_are_normalised_as_imagenets_unless_told_otherwise() -> None:
    stated = OmegaConf.load(application.CONF / "model" / "custom.yaml")
    assert (list(stated.mean), list(stated.std)) == (list(models.IMAGENET_MEAN), list(models.IMAGENET_STD))
