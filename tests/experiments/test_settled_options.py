"""What a network takes in the place of what was asked for stands in its records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from tests.methods import transformers
from tests.report import shards
from wcx import datasets, experiments, methods, models, pipeline
from wcx.experiments import Cell
from wcx.experiments.masking import Settings
from wcx.records import Shard
from wcx.report import compare, sections
from wcx.report.masking import cells as opened
from wcx.report.masking import main, paper

pytestmark = pytest.mark.usefixtures("one_thread")


def test_records_of_a_transformer_state_the_rules_that_ran(tmp_path: Path) -> None:
    """The default composite has none for it: fingerprint, manifest and table say attnlrp."""
    loaded, vit = models.load("small_cnn", weights="random", num_classes=16), transformers.vit(image_size=32)
    nn.init.normal_(vit.heads[0].weight)  # torchvision begins with zeros
    loaded = replace(loaded, model=nn.Sequential(vit, nn.Linear(nets.CLASSES, 16)), layer=None)
    drawn = datasets.load("parts", tmp_path / "data", "test", test_per_class=1, size=32)
    asked = {"lrp": {"composite": "epsilon_plus", "epsilon": 1e-6}}
    cells = [Cell("lrp", "original"), Cell("gradcam", "original")]
    job = pipeline.Job(
        experiments.get("masking"), drawn, loaded, cells, Settings(threshold=0.0), asked, results_dir=tmp_path, limit=4
    )
    (shard, other), _ = pipeline.run(job, quiet=True)
    assert shard.parts["method"] == {"composite": "attnlrp", "epsilon": 1e-6}
    assert other.parts["method"] == {}
    assert job.subject(cells).methods["lrp"].composite == "attnlrp"
    manifest = json.loads((shard.path / "manifest.json").read_text())
    assert manifest["method"] == {"composite": "attnlrp", "epsilon": 1e-6}
    frame = main.frame(opened.read([shard, other]))
    assert dict(zip(frame["method"], frame["options"], strict=True)) == {"lrp": "composite=attnlrp", "gradcam": ""}
    [table] = main.tables(paper.beside(frame), "the protocol")
    assert "lrp: composite=attnlrp" in table.to_text()


def test_a_network_without_attention_takes_what_was_asked_for() -> None:
    asked = {"composite": "epsilon_plus", "relu": True}
    assert methods.settled("lrp", asked, nets.bias_free(), nets.images(1)) == asked
    assert methods.differing("lrp", asked) == {"relu": True}
    assert methods.differing("no method any more", asked) == {}


def test_records_that_do_not_tell_the_rules_that_ran_say_unchecked(tmp_path: Path) -> None:
    """Made before they were told: a transformer's say epsilon_plus where attnlrp was taken. They give way to newer ones."""
    asked = {"composite": "epsilon_plus", "epsilon": 1e-6}

    def make(model: str, contrast: str = "weighted", composite: str = "epsilon_plus", **options: int) -> Shard:
        return shards.make(
            tmp_path, contrast, model=model, method="lrp", parts={"method": asked | {"composite": composite}}, **options
        )

    old, convolutional, foreign = make("vit_b_16"), make("vgg16"), make("deit_tiny_patch16_224")
    frame = main.frame(opened.read([old, convolutional, foreign]))
    assert dict(zip(frame["model"], frame["options"], strict=True)) == {
        "vit_b_16": "composite=unchecked",
        "vgg16": "",
        "deit_tiny_patch16_224": "composite=unchecked",
    }
    notes = sections.of("masking", [old, convolutional, foreign]).notes
    assert any("composite unchecked: 2 of 3 sets of records" in note for note in notes)
    new = make("vit_b_16", composite="attnlrp", n=6)  # fewer images
    new.describe({"method": asked | {"composite": "attnlrp"}})
    found, left_out = sections.collect("masking", tmp_path)
    assert {shard.path for shard in found} == {new.path, convolutional.path, foreign.path}
    assert left_out == [
        f"left out: {old.path}: {new.path} is the same line of the table, and tells the composite of lrp"
    ]
    told = make("vit_b_16", "max")
    told.describe({"method": asked})
    assert main.frame(opened.read([told]))["options"].tolist() == [""] * 8
    assert compare.facts(old)["method.composite"] == "unchecked"
    assert compare.facts(new)["method.composite"] == "attnlrp"


class Viewed(nn.Module):
    """A network that takes no empty batch: view(0, -1) is ambiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().view(len(x), -1))


@pytest.mark.parametrize(
    ("net", "composite", "passed"),
    [
        (lambda: transformers.vit(image_size=32), "attnlrp", 0),
        (nets.conv_batchnorm, "epsilon_plus", 0),
        (Viewed, "epsilon_plus", 1),
    ],
    ids=["vit", "convolutions", "no empty batch"],
)
def test_the_rules_are_known_without_a_pass_of_an_image(
    net: Callable[[], nn.Module], composite: str, passed: int
) -> None:
    model, images = net().eval(), torch.rand(2, 3, *2 * [32 if composite == "attnlrp" else 16])
    counts: Counter[str] = Counter()
    model.register_forward_hook(lambda _module, args, _output: counts.update(images=len(args[0])))
    assert methods.settled("lrp", {}, model, images) == {"composite": composite}
    assert counts["images"] == passed
    assert wcx.Explainer(model, "lrp")(images).composite == composite
