"""food101, fgvc, flowers102, cars: against torchvision's classes on the same small trees, and on the real subsets."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as reference

from tests.datasets import trees
from wcx.datasets import fgvc, flowers102, food101, load
from wcx.errors import DataError, WcxError

SMALL = {
    "food101": (trees.food101, reference.Food101),
    "fgvc": (trees.fgvc, lambda root, split: reference.FGVCAircraft(root, {"train": "trainval"}.get(split, split))),
    "cars": (trees.cars, reference.StanfordCars),
}


def files(dataset):
    return [str(dataset.path(i)) for i in range(len(dataset))]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", SMALL)
def test_equals_torchvision(tmp_path, name, split):
    make, oracle = SMALL[name]
    make(tmp_path)
    ours, theirs = load(name, tmp_path, split), oracle(tmp_path, split)
    samples = theirs._samples if name == "cars" else list(zip(theirs._image_files, theirs._labels, strict=True))
    assert files(ours) == [str(path) for path, _ in samples]
    assert ours.labels == [int(label) for _, label in samples]
    assert ours.class_names == [label.replace("_", " ") for label in theirs.classes]
    np.testing.assert_array_equal(ours.image(0), theirs[0][0])


LEVELS = pytest.mark.parametrize(("level", "count"), [("variant", 100), ("family", 70), ("manufacturer", 30)])


@LEVELS
@pytest.mark.parametrize("split", ["train", "test"])
def test_aircraft_of_every_level_equal_torchvisions(tmp_path, level, count, split):
    trees.fgvc(tmp_path)
    ours = load("fgvc", tmp_path, split, level=level)
    theirs = reference.FGVCAircraft(tmp_path, {"train": "trainval"}.get(split, split), annotation_level=level)
    assert files(ours) == [str(path) for path in theirs._image_files]
    assert (ours.labels, ours.class_names) == (theirs._labels, theirs.classes)
    assert ours.official["classes"] == count


@LEVELS
@pytest.mark.parametrize("split", ["train", "test"])
def test_aircraft_of_the_official_lists_equal_torchvisions(shared, level, count, split):
    """Complete lists, 23 images: torchvision's class reads the lists alone."""
    root = shared / "data/fgvc-aircraft"
    theirs = reference.FGVCAircraft(root, {"train": "trainval"}.get(split, split), annotation_level=level)
    there = [i for i, path in enumerate(theirs._image_files) if Path(path).is_file()]
    ours = load("fgvc", root, split, level=level, allow_partial=True)
    assert (len(theirs), len(theirs.classes)) == ({"train": 6667, "test": 3333}[split], count)
    assert (ours.official["classes"], ours.official[split]) == (count, len(theirs))
    assert files(ours) == [str(theirs._image_files[i]) for i in there]
    assert [ours.class_names[label] for label in ours.labels] == [theirs.classes[theirs._labels[i]] for i in there]
    assert len(ours) == {"train": 18, "test": 5}[split]
    for i in range(len(ours)):
        width, height = ours.image(i).size
        x, y, w, h = ours.boxes[i]
        assert x >= 0 <= y
        assert x + w <= width
        assert y + h <= height


def test_aircraft_that_are_absent_are_counted(shared, tmp_path):
    with pytest.raises(
        DataError, match=r"9977 of 10000 images named in its lists \(3328 of the test split\) are absent"
    ):
        load("fgvc", shared / "data/fgvc-aircraft")
    with pytest.raises(WcxError, match=r"unknown level of fgvc 'familly'\. Did you mean 'family'"):
        load("fgvc", tmp_path, level="familly")


def test_flowers_train_is_train_and_val(tmp_path, monkeypatch):
    trees.flowers102(tmp_path)
    md5 = {
        key: hashlib.md5((tmp_path / "flowers-102" / file).read_bytes()).hexdigest()
        for key, file in {"label": "imagelabels.mat", "setid": "setid.mat"}.items()
    }
    known = reference.Flowers102._file_dict
    monkeypatch.setattr(reference.Flowers102, "_file_dict", known | {k: (known[k][0], md5[k]) for k in md5})
    parts = {split: reference.Flowers102(tmp_path, split) for split in ("train", "val", "test")}
    train, test = (load("flowers102", tmp_path, split) for split in ("train", "test"))
    assert files(train) == [str(path) for part in ("train", "val") for path in parts[part]._image_files]
    assert files(test) == [str(path) for path in parts["test"]._image_files]
    names = ["pink primrose", "hard-leaved pocket orchid", "blackberry lily"]  # classes 1, 2 and 102
    assert train.class_names == test.class_names == names
    assert (train.labels, test.labels) == ([0, 2, 1, 1], [0, 2, 1])


def test_flower_names(shared):
    names = json.loads((shared / "data/flowers102/flowers-102/cat_to_name.json").read_text())
    ours = [name.strip() for name in flowers102.CLASS_NAMES.split(",")]
    assert ours == [names[str(i)] for i in range(1, 103)]


def test_checksums_are_torchvisions():
    assert food101.MD5 == reference.Food101._MD5
    assert fgvc.URL == reference.FGVCAircraft._URL
    assert reference.Flowers102._download_url_prefix == flowers102.URL + "/"
    assert dict(reference.Flowers102._file_dict.values()) == flowers102.MD5


def test_boxes_count_from_one_and_hold_both_corners(tmp_path):
    trees.fgvc(tmp_path)
    trees.cars(tmp_path)
    for name in ("fgvc", "cars"):  # x1 y1 x2 y2 = 3 2 12 9
        np.testing.assert_array_equal(load(name, tmp_path).boxes[0], [2, 1, 10, 8])


@pytest.mark.parametrize("name", SMALL)
def test_absent_images(tmp_path, name):
    SMALL[name][0](tmp_path)
    gone = load(name, tmp_path).path(0)
    gone.unlink()
    with pytest.raises(DataError, match=r"1 of \d+ images .*allow_partial") as caught:
        load(name, tmp_path)
    assert gone.name in str(caught.value)
    partial = load(name, tmp_path, allow_partial=True)
    assert str(gone) not in files(partial)


def test_held_out_cars_are_not_the_official_split(tmp_path):
    trees.cars(tmp_path, test_prefix="heldout_")
    dataset = load("cars", tmp_path)
    assert not dataset.official_split
    assert dataset.subset == "subset: 2 of 196 classes, 4 of 8041 test images, not the official split"


def test_cars_cannot_be_downloaded(tmp_path):
    for download in (False, True):
        with pytest.raises(DataError, match=r"page is gone.*cars_test_annos_withlabels\.mat into that") as caught:
            load("cars", tmp_path, download=download)
        assert str(tmp_path / "stanford_cars") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("food101", "food-101/meta/test.txt", "sushi/1\n"),
        ("food101", "food-101/meta/classes.txt", None),
        ("fgvc", "fgvc-aircraft-2013b/data/images_variant_test.txt", "0900 737-200\n"),
        ("fgvc", "fgvc-aircraft-2013b/data/images_box.txt", "0900 1 2 3\n"),
        ("fgvc", "fgvc-aircraft-2013b/data/images_box.txt", "0900 1 2 3 4\n"),
        ("cars", "stanford_cars/devkit/cars_meta.mat", "MATLAB 5.0"),
        ("cars", "stanford_cars/devkit/cars_meta.mat", None),
    ],
)
def test_damaged_lists_are_one_line(tmp_path, name, file, text):
    SMALL[name][0](tmp_path)
    (tmp_path / file).unlink()
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=file.rsplit("/", 1)[0]) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_wrong_mat_files(tmp_path):
    trees.cars(tmp_path)
    base = tmp_path / "stanford_cars"
    (base / "cars_test_annos_withlabels.mat").write_bytes((base / "devkit/cars_meta.mat").read_bytes())
    with pytest.raises(DataError, match="not the devkit's"):
        load("cars", tmp_path)
    trees.flowers102(tmp_path)
    base = tmp_path / "flowers-102"
    (base / "setid.mat").write_bytes((base / "imagelabels.mat").read_bytes())
    with pytest.raises(DataError, match="not the dataset's"):
        load("flowers102", tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "classes", "train", "test", "subset"),
    [
        ("food101", "food101", 10, 620, 370, "subset: 10 of 101 classes, 370 of 25250 test images"),
        ("flowers102", "flowers102", 40, 705, 480, "subset: 40 of 102 classes, 480 of 6149 test images"),
        ("cars", "stanford_cars", 27, 729, 391,
         "subset: 27 of 196 classes, 391 of 8041 test images, not the official split"),
    ],
)  # fmt: skip
def test_shared_subsets(shared, name, folder, classes, train, test, subset):
    of = {split: load(name, shared / "data" / folder, split, allow_partial=True) for split in ("train", "test")}
    assert (len(of["test"].class_names), len(of["train"]), len(of["test"])) == (classes, train, test)
    assert of["train"].class_names == of["test"].class_names
    assert set(of["train"].labels) == set(of["test"].labels) == set(range(classes))
    assert of["test"].subset == subset
    assert of["test"][0][0].shape == (3, 224, 224)


def test_shared_flowers_need_allow_partial(shared):
    with pytest.raises(DataError, match=r"7004 of 8189 images .*\(5669 of the test split\).*allow_partial=true"):
        load("flowers102", shared / "data/flowers102")
    dataset = load("flowers102", shared / "data/flowers102", allow_partial=True)
    with (shared / "data/flowers102/flowers-102/subset.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    for i, name in enumerate(dataset.ids):
        row = rows[name.rsplit("/", 1)[-1]]
        assert row["official_split"] == "test"
        assert row["class_name"] == dataset.class_names[dataset.labels[i]]
