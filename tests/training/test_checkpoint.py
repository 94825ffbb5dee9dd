"""What fine-tuning leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.training.tiny import ALL, HEAD, Drawn, run, start
from wcx import models, training
from wcx.errors import WcxError
from wcx.training import loop, task
from wcx.training.recipe import Recipe


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
    with pytest.raises(WcxError, match=f"made by recipe {recipe.name}, not by z"):
        training.finished(path, Recipe("z"))
    table = training.accuracies(tmp_path)
    assert table[["dataset", "model", "recipe", "seed"]].to_numpy().tolist() == [["drawn", "tiny", recipe.name, 4]]


@pytest.mark.parametrize("place", [b"accuracy", b"columns", b"recipe", b'\\": 0', None])
def test_a_checkpoint_that_was_changed_is_refused(tmp_path: Path, place: bytes | None) -> None:
    """One bit of a weight, or a letter of what is said of it."""
    path = tmp_path / "tiny.safetensors"
    run(path, ALL)
    models.read_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[-5 if place is None else content.index(place) + len(place) - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WcxError, match=r"tiny.safetensors is damaged .* fine-tune again"):
        models.read_checkpoint(path)


def test_a_checkpoint_from_before_sums_were_kept_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    state, meta = start().net.state_dict(), {"class_names": ["a"]}
    safetensors.torch.save_file(dict(state), path, metadata={"wcx": json.dumps(meta)})
    read, about = models.read_checkpoint(path)
    assert about == meta
    assert models.weights_hash(read) == models.weights_hash(state)


@pytest.mark.parametrize("kind", ["checkpoint", "state"])
def test_two_that_save_at_once_have_a_part_each(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends while the first is half-way; a third fails, and leaves nothing."""
    net, path = start().net, tmp_path / ("a.safetensors" if kind == "checkpoint" else "a.state")
    owner, name = (safetensors.torch, "save_file") if kind == "checkpoint" else (torch, "save")
    write, parts = getattr(owner, name), []

    def save(number: int) -> None:
        if kind == "checkpoint":
            models.save_checkpoint(path, net.state_dict(), {"class_names": [str(number)]})
        else:
            optimizer, scaler = torch.optim.SGD(net.parameters()), torch.amp.GradScaler("cpu", enabled=False)
            loop._State(net, optimizer, scaler, str(number), path).save()

    def half_way(content: object, part: Path, **options: object) -> None:
        parts.append(part)
        part.write_bytes(b"half")
        if len(parts) == 1:
            save(2)
            assert part.read_bytes() == b"half"
        elif len(parts) == 3:
            raise OSError("no space left")
        write(content, part, **options)

    monkeypatch.setattr(owner, name, half_way)
    save(1)
    saved = models.read_meta(path)["class_names"][0] if kind == "checkpoint" else torch.load(path)["identity"]
    assert saved == "1"
    with pytest.raises(OSError, match="no space"):
        save(3)
    assert len(set(parts)) == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["a bit", "cut off", "empty", "not ours"])
def test_a_damaged_state_is_set_aside_and_training_starts_afresh(tmp_path: Path, kind: str, caplog) -> None:
    path = tmp_path / "a.safetensors"

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "write_history", stops)
        with pytest.raises(KeyboardInterrupt):
            run(path, ALL)
    state = path.with_suffix(".state")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 4
    changed = {
        "a bit": bytes(content),
        "cut off": bytes(content[:-700]),
        "empty": b"",
        "not ours": b"PK\x05\x06" + bytes(18),
    }
    state.write_bytes(changed[kind])
    run(path, ALL)
    assert (tmp_path / "a.state.damaged-1").read_bytes() == changed[kind]
    assert "starting afresh" in caplog.text
    run(tmp_path / "b.safetensors", ALL)
    first, second = (models.read_checkpoint(tmp_path / f"{name}.safetensors")[0] for name in "ab")
    assert models.weights_hash(first) == models.weights_hash(second)


def test_it_learns(tmp_path: Path) -> None:
    recipe = Recipe("x", optimizer="adamw", lr=5e-3, epochs=12, batch_size=8)
    meta = training.finetune(
        start(), Drawn("train", 60), Drawn("test", 30), recipe, tmp_path / "c.safetensors", num_workers=0
    )
    assert meta["accuracy"] >= 0.8


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WcxError, match="different classes"):
        training.finetune(start(), Drawn("train"), Drawn("test", classes=2), ALL, tmp_path / "c.safetensors")
