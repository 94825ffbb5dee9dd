"""What a network takes in the place of what was asked for stands in its records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from tests import nets
from tests.methods import transformers
from wcx import datasets, experiments, methods, models, pipeline
from wcx.experiments import Cell
from wcx.experiments.masking import Settings
from wcx.report import commands
from wcx.report.masking import cells as opened
from wcx.report.masking import main, paper

pytestmark = pytest.mark.usefixtures("one_thread")


def test_records_of_a_transformer_state_the_rules_that_ran(tmp_path: Path) -> None:
    """The default composite has none for it: fingerprint, manifest, table and the command to make it again say attnlrp."""
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
    assert "method.composite=attnlrp" in commands.command(shard)
    frame = main.frame(opened.read([shard, other]))
    assert dict(zip(frame["method"], frame["options"], strict=True)) == {"lrp": "composite=attnlrp", "gradcam": ""}
    [table] = main.tables(paper.beside(frame), "the protocol")
    assert "lrp: composite=attnlrp" in table.to_text()


def test_a_network_without_attention_takes_what_was_asked_for() -> None:
    asked = {"composite": "epsilon_plus", "relu": True}
    assert methods.settled("lrp", asked, nets.bias_free(), nets.images(1)) == asked
    assert methods.differing("lrp", asked) == {"relu": True}
    assert methods.differing("no method any more", asked) == {}
