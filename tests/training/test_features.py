"""Heads on precomputed features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.tiny import HEAD, Drawn, run, start
from wcx import models
from wcx.datasets.base import DataError
from wcx.training import features, samples


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
