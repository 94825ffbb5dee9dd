"""The inputs of a cut, computed before."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.tiny import HEAD, TAIL, Drawn, run, start
from wcx import files, training
from wcx.errors import DataError, WcxError
from wcx.training import features, samples
from wcx.training.tail import Tail


def kept(path: Path, data: Drawn | None = None, name: str = "tiny", **options: object) -> np.ndarray:
    """Return the inputs of Tiny's features.2 for the training images and their mirror images."""
    model = start().model
    views = samples.Views(samples.Pixels(data or Drawn("train"), cache_bytes=0), HEAD)
    tail = Tail(model, "features.2", torch.zeros(3, 16, 16))
    return features.keep(tail, views, path, {"network": name, "cut": tail.cut}, **options)


def test_features_go_on_where_they_stopped(tmp_path: Path) -> None:
    whole = kept(tmp_path / "a.npy")
    data = Drawn("train")
    data.broken = 17
    with pytest.raises(DataError):
        kept(tmp_path / "b.npy", data, batch_size=4)
    data.broken, data.count = None, 0
    array = kept(tmp_path / "b.npy", data, batch_size=4)
    assert data.count == 24 - 16 + 2, "one image shows the images' size, and one the features' shape"
    np.testing.assert_allclose(array, whole, rtol=1e-5, atol=1e-6)  # a batch of another size rounds another way


@pytest.mark.parametrize(
    ("damage", "count"),
    [
        (lambda path: np.load(path, mmap_mode="r+").__setitem__((0, 3, 2, 1, 1), 7), 1),
        (lambda path: np.load(path, mmap_mode="r+").__setitem__((1, slice(20, 23)), 0), 3),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), 24),
        (lambda path: path.write_bytes(b""), 24),
        (lambda path: np.save(path, np.zeros((2, 23, 8, 7, 7), np.float32)), 24),
        (lambda path: np.load(path.with_suffix(".sums"), mmap_mode="r+").__setitem__(5, 1), 1),
        (lambda path: path.with_suffix(".sums").write_bytes(b"x"), 24),
        (lambda path: None, 0),
    ],
)
def test_damaged_features_are_computed_again(tmp_path: Path, damage, count: int, caplog) -> None:
    path, data = tmp_path / "a.npy", Drawn("train")
    whole = np.array(kept(path))
    damage(path)
    array = kept(path, data)
    np.testing.assert_allclose(array, whole, rtol=1e-5, atol=1e-6)  # a batch of another size rounds another way
    assert data.count == count + 2
    assert bool(caplog.messages) == bool(count)
    assert np.array_equal(kept(path), array)


def test_another_process_that_computes_them_is_waited_for_and_keeps_them(tmp_path: Path, caplog) -> None:
    """Two seeds at once made one file: "No such file or directory" of its part, or both computed all of it."""
    path = tmp_path / "a.npy"
    other = threading.Thread(target=kept, args=(path,))
    with files.locked(tmp_path / ".a.lock"):
        path.touch()
        features.remove(path)
        other.start()
        while "waiting for another process that computes" not in caplog.text:
            assert other.is_alive()
            time.sleep(0.01)
        assert path.stat().st_size == 0
        path.unlink()
    other.join()
    assert np.array_equal(np.load(path), kept(tmp_path / "b.npy"))


@pytest.mark.parametrize("damaged", [False, True])
def test_features_of_another_network_are_set_aside_and_kept(damaged: bool, tmp_path: Path, caplog) -> None:
    path, data = tmp_path / "a.npy", Drawn("train")
    other = np.array(kept(path, name="other"))
    if damaged:
        path.with_suffix(".json").write_text("{")
    kept(path, data)
    assert data.count == 24 + 2
    assert np.array_equal(np.load(tmp_path / "a.npy.damaged-1"), other), "nothing is lost"
    what = "an unknown network" if damaged else "another network"
    assert caplog.messages == [f"{path} holds features of {what}: computing these anew; set aside as a.npy.damaged-1"]


@pytest.mark.parametrize("change", ["weights", "mean", "listing", "transform", "views", "cut", "type", "nothing"])
def test_features_are_computed_again_for_whatever_they_depend_on_and_nothing_else(change: str, tmp_path: Path) -> None:
    recipe = {
        "views": replace(TAIL, mirror=False),
        "cut": replace(TAIL, cut="features.2"),
        "type": replace(TAIL, kept="float32"),
    }
    run(tmp_path / "a.safetensors", TAIL, keep_features=True)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").glob("[!.]*")}
    loaded = start(seed=1 if change == "weights" else 0)
    if change == "mean":
        loaded.model.mean += 0.1
    train = Drawn("train", 21 if change == "listing" else 24, side=20 if change == "transform" else 16)
    test = Drawn("test", 9, side=train.transform.size)
    options = {"num_workers": 0, "keep_features": True, "seed": 5}
    if change == "transform":
        loaded.net.classifier[1] = nn.Linear(8 * 81, 16)
    training.finetune(
        loaded, train, test, recipe.get(change, replace(TAIL, lr=0.01)), tmp_path / "b.safetensors", **options
    )
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").glob("[!.]*")}
    assert {name: after[name] for name in before} == before, "what was there is as it was"
    new = {name for name in after.keys() - before.keys() if name.endswith(".npy")}
    assert len(new) == {"nothing": 0, "listing": 1, "views": 1}.get(change, 2)


def test_a_value_that_float16_does_not_hold_is_one_line(tmp_path: Path) -> None:
    loaded = start()
    loaded.net.features[0].bias.data += 1e5
    tail = Tail(loaded.model, "features.1", torch.zeros(3, 16, 16))
    views = samples.Views(samples.Pixels(Drawn("train"), cache_bytes=0), HEAD)
    with pytest.raises(WcxError, match=r"^float16 does not hold all inputs of features\.1; give recipe\.kept=float32$"):
        features.keep(tail, views, tmp_path / "a.npy", {}, dtype="float16")
    assert np.isfinite(features.keep(tail, views, tmp_path / "b.npy", {})).all()


def test_views_are_the_image_its_variants_and_the_mirror_images_of_all() -> None:
    pixels = samples.Pixels(Drawn("train"))
    recipe = replace(TAIL, variants=3)
    views, label = samples.Views(pixels, recipe)[4]
    assert label == pixels[4][1]
    assert views.shape == (8, 3, 16, 16)
    assert torch.equal(views[0], pixels[4][0])
    assert torch.equal(views[4:], views[:4].flip(-1))
    assert len({view.numpy().tobytes() for view in views}) == 8
    assert torch.equal(samples.Views(pixels, recipe)[4][0], views), "the same at every call"
    assert torch.equal(samples.Views(pixels, replace(recipe, variants=1))[4][0][1], views[1])


def test_training_the_head_leaves_the_rest_and_features_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    loaded = run(path, HEAD, keep_features=True)
    before = start().net.state_dict()
    for key, value in loaded.net.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("features."), key
    names = sorted(p.name for p in (tmp_path / "features").glob("*.npy"))
    assert [name.rsplit("-", 1)[0] for name in names] == ["tiny-classifier-test", "tiny-classifier-train"]
    run(path, HEAD)
    assert not list((tmp_path / "features").glob("[!.]*"))
