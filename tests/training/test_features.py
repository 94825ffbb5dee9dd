"""Heads on precomputed features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.tiny import HEAD, Drawn, run, start
from wcx import models
from wcx.errors import DataError
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


@pytest.mark.parametrize(
    ("damage", "count"),
    [
        (lambda path: np.load(path, mmap_mode="r+").__setitem__((0, 3, 2), 7), 1),
        (lambda path: np.load(path, mmap_mode="r+").__setitem__((1, slice(20, 23)), 0), 3),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), 24),
        (lambda path: path.write_bytes(b""), 24),
        (lambda path: np.save(path, np.zeros((2, 23, 392), np.float32)), 24),
        (lambda path: np.load(path.with_suffix(".sums"), mmap_mode="r+").__setitem__(5, 1), 1),
        (lambda path: path.with_suffix(".sums").write_bytes(b"x"), 24),
        (lambda path: path.with_suffix(".done").write_text("x"), 0),
        (lambda path: path.with_suffix(".done").write_text("24000"), 0),
    ],
)
def test_damaged_features_are_computed_again(tmp_path: Path, damage, count: int, caplog) -> None:
    path, data = tmp_path / "a.npy", Drawn("train")
    pixels = samples.Pixels(data, cache_bytes=0)
    whole = np.array(features.head_inputs(start().model, pixels, path, mirror=True))
    damage(path)
    data.count = 0
    array = features.head_inputs(start().model, pixels, path, mirror=True)
    np.testing.assert_allclose(array, whole, rtol=1e-5, atol=1e-6)  # a batch of another size rounds another way
    assert data.count == count + 1, "one image shows the shape"
    assert bool(caplog.messages) == bool(count)
    assert np.array_equal(features.head_inputs(start().model, pixels, path, mirror=True), array)


def test_features_from_before_sums_were_kept_are_unchecked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, data = tmp_path / "a.npy", Drawn("train")
    pixels = samples.Pixels(data, cache_bytes=0)
    whole = np.array(features.head_inputs(start().model, pixels, path, mirror=False))
    path.with_suffix(".sums").unlink()
    path.with_suffix(".done").write_text("16")
    data.count = 0
    array = features.head_inputs(start().model, pixels, path, mirror=False)
    assert data.count == 8 + 1
    np.testing.assert_allclose(array, whole, rtol=1e-5, atol=1e-6)
    assert caplog.messages == [f"{path} was begun before sums were kept: its first 16 images are unchecked"]


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
