"""Kind J: "How to reproduce". A record's command, composed again, gives the record's own parts, for every experiment."""

from __future__ import annotations

import inspect
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.report import shards
from wcx import contrasts, datasets, methods, models
from wcx.cli import application, opening
from wcx.images import Preset
from wcx.records import Shard
from wcx.report import commands
from wcx.report.page import provenance
from wcx.report.page.contents import RecordSet

FIG3 = ["experiment=sign_perturbation", "method=gradient"]
CASES = {
    "nothing": [],
    "seed": ["seed=7"],
    "seed and limit": ["seed=7", "limit=12"],
    "limit_selected": ["limit_selected=5", "limit=40", "seed=3"],
    "authors_code": ["profile=authors_code", "method=linear_approximation"],
    "protocol": ["targets=3", "select=all", "mask=fraction", "fraction=0.25", "baselines=[zeros,mean]", "foils=[1,2]"],
    "shared": ["batch_size=8", "chunk_size=16", "on_error=skip", "channels_last=false", "foils=2"],
    "contrast": ["contrast=finer", "contrast.gamma=1.0", "contrast.k=2"],
    "layer": ["model.layer=features.0"],
    "no layer": ["model.layer=null"],
    "transform": ["dataset.transform.size=64"],
    "crop": ["dataset.transform.kind=crop", "dataset.transform.size=64", "++dataset.transform.resize=80"],
    "Fig. 3": FIG3,
    "Fig. 3, seed": [*FIG3, "seed=7"],
    "Fig. 3, limit": [*FIG3, "limit=9", "seed=1", "batch_size=256", "chunk_size=256"],
    "Fig. 3, epsilon": [*FIG3, "epsilon=0.003"],
    "Fig. 3, all": [
        *FIG3,
        "epsilon=1e-5",
        "iterations=[1,5]",
        "precision=float64",
        "target_rule=predicted",
        "foils=[4]",
    ],
    "Fig. 3, path": [*FIG3[:1], "method=integrated_gradients", "method.steps=4", "method.rule=gauss-legendre"],
    "Fig. 3, smooth": [*FIG3, "method.samples=3", "method.noise=0.1", "contrast=probability"],
    "Fig. 3, box": [*FIG3[:1], "method=lrp", "method.composite=epsilon_gamma_box", "method.low=[0.0,0.1,0.2]"],
}
BESIDE = {  # only the configuration beside the records tells these
    "dataset's options": ["dataset.seed=3", "dataset.test_per_class=2"],
    "another of torchvision's": ["model=torchvision", "model.name=shufflenet_v2_x0_5", "model.layer=conv5"],
    "one's own": ["model=custom", "model.factory=command_nets:net", "model.classes=labels.txt", "model.name=mine"],
    "one's own normalisation": [
        *("model=custom", "model.factory=command_nets:net", "model.classes=labels.txt"),
        *("model.mean=[0.1,0.2,0.3]", "model.transform.size=64", "++model.layer=0"),
    ],
}
OPTIONS = {
    "method": {name: methods.get(name) for name in methods.names()},
    "contrast": {name: contrasts.get(name).function for name in contrasts.names()},
}
NETS = """
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


def shard(overrides: list[str], root: Path | None = None) -> Shard:
    """The first shard that a command line of run.py makes; with `root`, described there, its configuration with it."""
    cfg = application.compose(overrides)
    one = opening.job([cfg]).shards()[0]
    if root is None:
        return one
    described = Shard(root, one.key, one.experiment, one.parts, one.labels)
    described.describe({}, OmegaConf.to_yaml(cfg, resolve=True))
    return described


def command(of: Shard) -> list[str]:
    """What "How to reproduce" says of records that no runner of ours has made, without `python run.py`."""
    python, script, *overrides = shlex.split(RecordSet(of, {"command": ["/usr/bin/pytest"]}).command)
    assert (python, script) == ("python", "run.py")
    application.check_overrides(overrides)
    return overrides


def assert_same(again: Shard, before: Shard) -> None:
    assert again.parts == before.parts
    assert (again.key, again.experiment, again.path.name) == (before.key, before.experiment, before.path.name)


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_the_command_composed_again_gives_the_same_fingerprint(overrides: list[str]) -> None:
    before = shard([*overrides, "model.weights=random"])
    assert_same(shard(command(before)), before)


@pytest.mark.parametrize("overrides", BESIDE.values(), ids=BESIDE)
def test_what_the_parts_cannot_tell_is_in_the_configuration(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "command_nets.py").write_text(NETS)
    (tmp_path / "labels.txt").write_text("\n".join(datasets.load("parts", "").class_names), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = shard([*overrides, "model.weights=random"], tmp_path)
    assert_same(shard(command(before)), before)
    sys.modules.pop("command_nets", None)


def test_fig3s_seed_is_no_limit() -> None:
    """The issue's own: parts["limit"] is [limit, seed] in Fig. 3, [limit, limit_selected, seed] in masking."""
    fig3 = command(shard([*FIG3, "model.weights=random", "seed=7", "epsilon=0.003", "precision=float64"]))
    assert {"seed=7", "epsilon=0.003", "precision=float64"} <= set(fig3)
    assert not any(one.startswith("limit") for one in fig3)
    assert {"limit_selected=7", "seed=5"} <= set(command(shard(["model.weights=random", "limit_selected=7", "seed=5"])))
    plain = command(shard(["model.weights=random"]))
    names = ["experiment=masking", "dataset=parts", "model=small_cnn", "method=gradcam", "contrast=weighted"]
    assert plain == [*names, "model.layer=features.4", "model.weights=random"]


def test_records_of_an_older_or_unknown_kind_have_a_command(tmp_path: Path) -> None:
    """Parts that are missing are left out; settings that are gone, too; of an unknown experiment all are said."""
    old = shards.make(tmp_path, "weighted")
    old.parts["settings"] |= {"gone": 1, "threshold": 0.3, "seed": 4}
    assert "gone=1" not in command(old)
    assert {"threshold=0.3", "seed=4"} <= set(command(old))
    old.describe({}, "[1\n")
    assert "threshold=0.3" in command(old)
    parts = {"settings": {"levels": [1, 2], "rule": "a b's", "on": None}, "limit": [5, 7], "method": {"x": 1}}
    other = Shard(tmp_path, ("mine", "net", "method", "contrast"), "triplets", parts, {})
    said = RecordSet(other, {}).command
    expected = ["levels=[1,2]", r"rule='a b\'s'", "on=null", "limit=5", "seed=7", "method.x=1"]
    assert shlex.split(said)[2:] == [
        *("experiment=triplets", "dataset=mine", "model=net", "method=method", "contrast=contrast"),
        *expected,
    ]


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
        "python scripts/finetune.py dataset=cub model=torchvision model.name=net0 recipe=head seed=2",
        "python scripts/finetune.py dataset=cub model=net1 recipe=head",
        "python scripts/finetune.py dataset=cub model=net0 recipe=head seed=2",
        f"python scripts/finetune.py dataset=flowers102 {root} dataset.allow_partial=true model=vgg16 recipe=head",
    ]


@pytest.mark.parametrize("value", ["a=b, [c] 'd'", "a\\b", "ends\\", "${x}", "Möwen & #1~", "null", "1", "", "x\\'y"])
def test_any_file_name_comes_back(value: str, tmp_path: Path) -> None:
    before = Shard(tmp_path, ("folder", "vgg16", "gradcam", "weighted"), "masking", {}, {})
    cfg = application.compose(["dataset=folder"])
    cfg.dataset.root = cfg.model.weights = value.replace("${", "\\${")  # OmegaConf's own escape
    before.describe({}, OmegaConf.to_yaml(cfg, resolve=True))
    again = application.compose(command(before))
    assert (again.dataset.root, again.model.weights) == (value, value)


def test_imagenets_transform_and_weights(tmp_path: Path) -> None:
    """Its own is the crop; another is given back field by field, torchvision's by name; pinned weights go without saying."""

    def of(transform: datasets.Transform, weights: str) -> list[str]:
        parts = {"transform": {one.name: getattr(transform, one.name) for one in fields(transform)}}
        key = ("imagenet", "efficientnet_b1", "gradient", "max")
        return command(Shard(tmp_path, key, "sign_perturbation", parts, {"weights": weights}))[5:]

    assert of(datasets.Transform("crop"), "IMAGENET1K_V1") == []
    assert of(datasets.Transform("squash"), "stand-in: x.pth") == ["dataset.transform.kind=squash"]
    assert of(Preset("crop", 240, 255), "IMAGENET1K_V2") == ["dataset.transform=own", "model.weights=IMAGENET1K_V2"]
    other = application.compose(["dataset=imagenet", *of(datasets.Transform("crop", 240, 260), "random")])
    assert dict(other.dataset.transform) == {"kind": "crop", "resize": 260, "size": 240}
    assert other.model.weights == "random"


def test_defaults_are_those_of_the_yaml_files() -> None:
    """The commands leave them out; each of these stands twice, and here is where they are compared."""
    cfg = application.compose([])
    assert {key: cfg[key] for key in commands.SHARED} == commands.SHARED
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


def test_a_models_defaults_are_its_yamls() -> None:
    for file in sorted(application.CONF.glob("model/*.yaml")):
        stated = OmegaConf.to_container(OmegaConf.load(file))
        keys = ("weights", "checkpoint") if "library" in stated else ("weights", "checkpoint", "pinned")
        pairs = [(key, stated[key]) for key in keys if "factory" not in stated]
        if file.stem == "custom":
            assert stated["mean"] == list(models.IMAGENET_MEAN)
            assert stated["std"] == list(models.IMAGENET_STD)
        assert all(value == commands._MODEL[key] or (file.stem, key) == ("small_cnn", "pinned") for key, value in pairs)
