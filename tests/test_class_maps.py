"""A dataset's classes among a network's outputs: by name, by a file, or not at all; and what then becomes of images and labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from wcx import models
from wcx.cli import application, opening
from wcx.errors import WcxError
from wcx.models.class_names import read_map

OUTPUTS = ["Parus major (Great Tit)", "Phoebastria nigripes", "background"]
CUB = ["Black footed Albatross", "Laysan Albatross"]


def csv(folder: Path, text: str) -> Path:
    (folder / "map.csv").write_text(text)
    return folder / "map.csv"


@pytest.mark.parametrize(
    "text",
    [
        "class,output\nLaysan Albatross,\nBlack footed Albatross,1\n",
        "class,label\nBlack footed Albatross,Phoebastria nigripes\nLaysan Albatross,\nGreat Auk,\n",
        "cub_class_id,cub_class,inat_index,inat_label\n"
        '1,001.Black_footed_Albatross,1,"Phoebastria nigripes"\n2,002.Laysan_Albatross,,""\n',
    ],
)
def test_a_file_maps_by_number_by_name_or_by_both(tmp_path: Path, text: str) -> None:
    assert read_map(csv(tmp_path, text), CUB, OUTPUTS) == [1, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "class,output\nBlack footed Albatross,1\n",
            r"lacks 'Laysan Albatross' \(1 of the dataset's 2 classes\); add a line",
        ),
        (
            "class,label\nLaysan Albatross,Great Auk\n",
            r"line 2 of .*map.csv: 'Great Auk' is no class of the network.*'Parus",
        ),
        (
            "class,output\nLaysan Albatross,3\n",
            r"line 2 of .*map.csv: '3' is no output; the network has 3 \(0 to 2\)\.$",
        ),
        ("class,output\nLaysan Albatross,-1\n", r"'-1' is no output"),
        (
            "class,output,label\nLaysan Albatross,0,background\n",
            r"output 0 is 'Parus major \(Great Tit\)', not 'background'",
        ),
        ("class,output\nLaysan Albatross,1\n2.Laysan_Albatross,1\n", r"line 3 .* comes twice"),
        ("name,number\na,1\n", r"has the columns \['name', 'number'\]; expected class, and output or label"),
        ("", r"has the columns \[\]"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(WcxError, match=message) as error:
        read_map(csv(tmp_path, text), CUB, OUTPUTS)
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_three_ways() -> None:
    with pytest.raises(WcxError, match=r"cannot read the map of classes absent.csv: .*class_map=name, none or a CSV"):
        read_map("absent.csv", CUB, OUTPUTS)


def composed(shared: Path, results: Path, *overrides: str) -> list[str]:
    paths = {"data": shared / "data", "weights": shared / "weights", "results": results}
    return [*overrides, *(f"paths.{key}_dir={path}" for key, path in paths.items()), "device=cpu"]


def test_the_bird_network_explains_the_mapped_classes_of_cub(shared: Path, tmp_path: Path) -> None:
    """SOURCE.md: 170 of CUB's 200 classes, 16 of the 22 here, 454 of their test images; every mapped name is the species' own."""
    job = opening.job([application.compose(composed(shared, tmp_path, "dataset=cub", "model=mobilenet_v2_inat_birds"))])
    table = pd.read_csv(shared / "weights" / "cub_to_inat_birds.csv")
    assert table["inat_index"].notna().sum() == 170
    outputs, names = job.outputs, job.class_names()
    assert outputs is not None
    assert (len(names), len(outputs), outputs.count(None), len(job.among)) == (965, 22, 6, 454)
    for name, output in zip(job.dataset.class_names, outputs, strict=True):
        last_word = name.replace("_", " ").split()[-1]
        assert output is None or last_word in names[output], (name, names[output])
    assert "16 of 22 classes have an output: 454 of 571 images" in job.subset()
    items = job.read(job.chunks()[0][:16])
    with torch.no_grad():
        top = job.loaded.model(torch.stack([item.pixels for item in items if item.pixels is not None])).argmax(1)
    assert sum(int(t) == item.label for t, item in zip(top, items, strict=True)) >= 8, "chance is 1/965"


def test_a_map_is_part_of_the_fingerprint(shared: Path, tmp_path: Path) -> None:
    base = ["dataset=cub", "model=mobilenet_v2_inat_birds"]
    jobs = [
        opening.job([application.compose(composed(shared, tmp_path, *base, *extra))])
        for extra in ([], ["class_map=none"])
    ]
    mapped, without = jobs
    assert mapped.shards()[0].path != without.shards()[0].path
    assert len(without.among) == 571, "without labels no image is left out"
    assert {item.label for item in without.read([0, 570])} == {-1}


def test_imagenet_weights_see_any_dataset_without_labels(shared: Path, tmp_path: Path) -> None:
    base = ["dataset=cub", "model=squeezenet1_1", "class_map=none"]
    job = opening.job([application.compose(composed(shared, tmp_path, *base))])
    assert len(job.class_names()) == 1000
    assert "indigo bunting" in job.class_names()
    fig3 = opening.job(
        [application.compose(composed(shared, tmp_path, *base, "experiment=sign_perturbation", "method=gradient"))]
    )
    with pytest.raises(WcxError, match=r"images have no labels .*give target_rule=predicted"):
        fig3.opened(fig3.cells).rows(fig3.read([0]))


def test_without_labels_there_is_no_accuracy(shared: Path, tmp_path: Path) -> None:
    base = ["dataset=cub", "model=squeezenet1_1", "class_map=none", "experiment=sign_perturbation", "method=gradient"]
    job = opening.job(
        [application.compose(composed(shared, tmp_path, *base, "target_rule=predicted", "iterations=[1]"))]
    )
    [row] = job.opened(job.cells).rows(job.read([0]))[job.cells[0]]
    assert row["label"] == -1
    assert all(row[name] != row[name] for name in row if name.startswith("correct")), "NaN"


def test_labels_by_name_are_the_default() -> None:
    loaded = models.load("small_cnn", num_classes=3, weights="random")
    assert loaded.outputs(["a", "b", "c"]) is None, "the network names none: its outputs are the classes"
    loaded.class_names = ["b", "c", "a"]
    assert loaded.outputs(["a", "b"]) == [2, 0]
