"""What pandas alone reads of an export, against the records that wcx reads itself and effects by all orders of the parts."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from itertools import permutations
from math import log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("pyarrow")

from tests.report.shards import make
from wcx import datasets, records
from wcx.cli import main as command_line
from wcx.errors import WcxError
from wcx.report import sharing
from wcx.report.sharing import results

MASKING = [
    "dataset.size=48",
    "model.weights=random",
    "limit=6",
    "chunk_size=4",
    "threshold=0",
    "figure=0",
    "save_maps=true",
]
TWINS = [
    "experiment=twins",
    "dataset.size=48",
    "dataset.transform.size=48",
    "model.weights=random",
    "limit=5",
    "chunk_size=2",
]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["wcx", *arguments])
    command_line()


def head(folder: Path) -> dict:
    """The head of a data card, as hubs read it."""
    _, text, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(text)


def test_records_come_back_as_wcx_reads_them(tmp_path: Path) -> None:
    """Several sets, whose columns are not all the same."""
    make(tmp_path, "original", boxes=True, skipped=[4])
    make(tmp_path, "weighted", 12, seed=1)
    results.write(tmp_path, tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / "records" / "masking.parquet")
    shards = records.find(tmp_path)
    assert len(shards) == 2
    assert len(frame) == sum(len(shard.read()) for shard in shards)
    for shard in shards:
        rows = frame[frame["fingerprint"] == shard.path.name.rpartition("-")[2]]
        assert set(rows[["dataset", "model", "method", "contrast"]].itertuples(index=False, name=None)) == {shard.key}
        expected = shard.read()
        pd.testing.assert_frame_equal(
            rows[list(expected)].reset_index(drop=True), expected, check_dtype=False, check_exact=True
        )


def test_two_exports_into_one_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both once wrote into one part: the first to end took it from the other."""
    import pyarrow.parquet

    make(tmp_path, "original")
    write_table = pyarrow.parquet.ParquetWriter.write_table

    def meanwhile(writer: object, table: object) -> None:
        monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", write_table)
        results.write(tmp_path, tmp_path / "out")
        write_table(writer, table)

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", meanwhile)
    results.write(tmp_path, tmp_path / "out")
    [shard] = records.find(tmp_path)
    assert len(pd.read_parquet(tmp_path / "out" / "records" / "masking.parquet")) == len(shard.read())
    assert not list((tmp_path / "out").rglob("*.part"))


def test_an_export_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    pyarrow = sharing.pyarrow()
    table = pyarrow.table({"a": [1, 2]})
    sharing.write(tmp_path / "a.parquet", [table])

    def broken() -> Iterator[object]:
        yield pyarrow.table({"a": [3]})
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        sharing.write(tmp_path / "a.parquet", broken())
    assert pd.read_parquet(tmp_path / "a.parquet")["a"].tolist() == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert sharing.write(tmp_path / "empty.parquet", []) == 0
    assert not (tmp_path / "empty.parquet").exists()


def test_sets_tell_settings_and_manifest_and_no_folder_of_the_machine(tmp_path: Path) -> None:
    shard = make(tmp_path, "original", weights="stand-in: x.pth", seed=0)
    command = ["/home/me/wcx/run.py", "dataset=cub", "paths.data_dir=/secret", "model.checkpoint=~/secret.pth"]
    (shard.path / "manifest.json").write_text(json.dumps({"versions": {"wcx": "9.9"}, "command": command}))
    results.write(tmp_path, tmp_path / "out")
    [row] = pd.read_parquet(tmp_path / "out" / "sets.parquet").to_dict("records")
    assert json.loads(row["parts"]) == shard.parts
    assert json.loads(row["manifest"]) == {"versions": {"wcx": "9.9"}, "command": ["run.py", "dataset=cub"]}
    assert (row["images"], row["maps"], row["stand_in"], row["complete"]) == (30, 0, True, True)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "stand-in weights: stand-in: x.pth; subset: 2 of 200 classes, 30 of 5794 test images; n = 30 images" in card
    assert "secret" not in card
    assert '"baselines"' in card


def test_the_card_names_every_column_and_file(tmp_path: Path) -> None:
    make(tmp_path, "original", boxes=True)
    out = tmp_path / "out"
    results.write(tmp_path, out)
    files = {config["data_files"] for config in head(out)["configs"]}
    assert files == {"records/masking.parquet", "sets.parquet"}
    card = (out / "README.md").read_text(encoding="utf-8")
    for file in files:
        for column in pd.read_parquet(out / file):
            assert column in card or f"`{column.partition('/')[0]}/" in card
    assert "see wcx." not in card, "every column of masking has a meaning"


def test_damaged_records_are_left_out_and_named(tmp_path: Path) -> None:
    make(tmp_path, "original")
    damaged = make(tmp_path, "weighted")
    damaged.chunk_path(0).write_text("rubbish\n")
    refused: list[str] = []
    results.write(tmp_path, tmp_path / "out", refused=refused)
    assert len(refused) == 1
    assert set(pd.read_parquet(tmp_path / "out" / "records" / "masking.parquet")["contrast"]) == {"original"}
    assert "left out: cub vgg16 gradcam weighted" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_folder_without_records_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WcxError, match=r"holds no sound records of experiment twins; give paths.results_dir"):
        results.write(tmp_path, tmp_path / "out", "twins")


def test_kept_maps_come_back_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, *MASKING, f"paths.results_dir={tmp_path}")
    call(monkeypatch, "export", "experiment=masking", f"paths.results_dir={tmp_path}")
    frame = pd.read_parquet(tmp_path / "export" / "maps" / "masking.parquet")
    [shard] = records.find(tmp_path)
    count = 0
    for path in sorted(shard.path.glob("*.npz")):
        stored = np.load(path)
        for index, maps in zip(stored["index"], stored["maps"], strict=True):
            for target, phi in enumerate(maps):
                [row] = frame[(frame["index"] == index) & (frame["target"] == target)].to_dict("records")
                assert np.array_equal(row["values"].reshape(row["shape"]), phi)
                count += 1
    assert count == len(frame) > 0


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    with pytest.MonkeyPatch.context() as patch:
        call(patch, "export", *TWINS, f"to={folder}", f"paths.results_dir={folder}")
    return folder


def opened(picture: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture["bytes"])))


def test_images_twins_and_masks_are_those_that_are_drawn(birds: Path) -> None:
    drawn = datasets.load("parts", Path(), "test", families="factorial", size=48)
    frame = pd.read_parquet(birds / "images")
    assert len(frame) == 5
    for row in frame.to_dict("records"):
        i = row["index"]
        assert np.array_equal(opened(row["image"]), np.asarray(drawn.image(i)))
        assert (row["label"], row["class_name"]) == (drawn.labels[i], drawn.class_names[drawn.labels[i]])
        assert len(row["twins"]) == 7
        for twin in row["twins"]:
            image, label = drawn.twin(i, frozenset(twin["swapped"]))
            assert np.array_equal(opened(twin["image"]), np.asarray(image))
            assert twin["label"] == label
        masks = drawn.part_masks(i)
        assert [mask["part"] for mask in row["masks"]] == list(masks)
        for mask in row["masks"]:
            assert np.array_equal(opened(mask["mask"]), masks[mask["part"]])


def answer(logits: np.ndarray, target: int, foils: list[int]) -> float:
    """y_t - log of the sum of the foils' exponentials, one after the other."""
    foils = foils or [c for c in range(len(logits)) if c != target]
    largest = max(logits[c] for c in foils)
    return logits[target] - largest - log(sum(np.exp(logits[c] - largest) for c in foils))


def test_effects_are_the_mean_gain_over_all_orders_of_the_parts(birds: Path) -> None:
    images = pd.read_parquet(birds / "images").set_index("index")
    questions = pd.read_parquet(birds / "questions")
    assert {"q1", "q2", "q4_all"} <= set(questions["kind"])
    for row in questions.to_dict("records"):
        image, foils = images.loc[row["index"]], list(row["foils"])
        g = {frozenset(t["swapped"]): answer(t["logits"], row["target"], foils) for t in image["twins"]}
        g[frozenset()] = answer(image["logits"], row["target"], foils)
        gains = {part: [] for part in image["varying"]}
        for order in permutations(image["varying"]):
            for place, part in enumerate(order):
                gains[part].append(g[frozenset(order[:place])] - g[frozenset(order[: place + 1])])
        effects = {effect["part"]: effect["value"] for effect in row["effects"]}
        assert row["answer"] == pytest.approx(g[frozenset()], abs=1e-9)  # logits are float64 in the file
        for part, value in effects.items():
            assert value == pytest.approx(np.mean(gains[part]) if part in gains else 0.0, abs=1e-9)
        if row["kind"] in ("q1", "q2"):
            assert row["verified"] == (g[frozenset()] > 0 > g[frozenset(row["swapped"])])


def test_what_is_there_is_not_made_again_and_another_export_is_refused(
    birds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = birds / "questions" / "00001.parquet"
    before = {path: path.read_bytes() for path in birds.rglob("*.parquet")}
    times = {path: path.stat().st_mtime_ns for path in before}
    lost.unlink()
    call(monkeypatch, "export", *TWINS, f"to={birds}", f"paths.results_dir={birds}")
    assert {path: path.read_bytes() for path in birds.rglob("*.parquet")} == before
    kept = [path for path in before if "00001" not in path.name]
    assert [path.stat().st_mtime_ns for path in kept] == [times[path] for path in kept]
    with pytest.raises(SystemExit):
        call(monkeypatch, "export", *TWINS, "seed=1", f"to={birds}", f"paths.results_dir={birds}")
    assert "is of another export; give another folder: to=" in capsys.readouterr().err
    assert torch.is_grad_enabled()
