"""CUB-200-2011: lists, splits, boxes, names, and what is said when something is missing."""

import numpy as np
import pytest

from tests.datasets import trees
from wcx.datasets import cub, load
from wcx.errors import DataError


@pytest.fixture
def tree(tmp_path):
    trees.cub(tmp_path)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_official_layout(tree):
    train, test = load("cub", tree, "train"), load("cub", tree, "test")
    assert (train.name, train.split, test.split) == ("cub", "train", "test")
    assert test.class_names == ["Black footed Albatross", "Laysan Albatross", "Parakeet Auklet"] == train.class_names
    assert (len(train), train.labels) == (6, [0, 0, 1, 1, 2, 2])
    assert (len(test), test.labels) == (3, [0, 1, 2])
    assert test.ids[0] == "CUB_200_2011/images/001.Black_footed_Albatross/Black_footed_Albatross_0002.jpg"
    np.testing.assert_array_equal(test.boxes, [[3, 2.5, 4, 5], [6, 2.5, 4, 5], [9, 2.5, 4, 5]])
    np.testing.assert_allclose(test.box(0), np.array([3, 2.5, 4, 5]) * np.tile([224 / 20, 224 / 14], 2))
    assert test.subset == "subset: 3 of 200 classes, 3 of 5794 test images"
    assert test[0][0].shape == (3, 224, 224)
    assert not set(train.ids) & set(test.ids)


def test_complete_and_official_says_nothing(tree):
    assert load("cub", tree, official={"classes": 3, "train": 6, "test": 3}).subset == ""
    assert load("cub", tree, official=None).subset == ""


def test_without_boxes(tree):
    (tree / "CUB_200_2011/bounding_boxes.txt").unlink()
    assert load("cub", tree).boxes is None


def test_missing_dataset_names_folder_and_command(tmp_path):
    with pytest.raises(DataError) as caught:
        load("cub", tmp_path)
    expected = "wcx dataset=cub dataset.download=true"
    assert str(caught.value) == f"dataset cub: {tmp_path}/CUB_200_2011 not found. Download it with: {expected}"


def test_missing_list_is_named(tree):
    (tree / "CUB_200_2011/train_test_split.txt").unlink()
    with pytest.raises(DataError, match=r"train_test_split\.txt not found\. The folder is incomplete: move it away"):
        load("cub", tree)


def test_absent_images_are_counted_or_left_out(tree):
    images = tree / "CUB_200_2011/images"
    for path in (images / "002.Laysan_Albatross").iterdir():
        path.unlink()
    (images / "007.Parakeet_Auklet/Parakeet_Auklet_0000.jpg").unlink()
    with pytest.raises(
        DataError, match=r"4 of 9 images .*\(1 of the test split\).*Laysan.*allow_partial=true"
    ) as caught:
        load("cub", tree)
    assert "\n" not in str(caught.value)
    train, test = (load("cub", tree, split, allow_partial=True) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["Black footed Albatross", "Parakeet Auklet"]
    assert (train.labels, test.labels) == ([0, 0, 1], [0, 1])
    np.testing.assert_array_equal(test.boxes[:, 0], [3, 9])
    assert test.subset == "subset: 2 of 200 classes, 2 of 5794 test images"


def test_a_class_of_one_split_only_keeps_its_place(tree):
    (tree / "CUB_200_2011/images/001.Black_footed_Albatross/Black_footed_Albatross_0002.jpg").unlink()
    train, test = (load("cub", tree, split, allow_partial=True) for split in ("train", "test"))
    assert train.class_names == test.class_names
    assert test.labels == [1, 2]
    assert test.subset == "subset: 2 of 200 classes, 2 of 5794 test images"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("images.txt", "3 001", "001", r"line 3 of .*images\.txt does not fit: expected 2 columns"),
        ("image_class_labels.txt", "4 2", "4 two", r"line 4 of .*image_class_labels\.txt"),
        ("image_class_labels.txt", "4 2", "4 5", "names classes that classes.txt lacks"),
        ("train_test_split.txt", "5 1\n", "", "do not name the same images"),
        ("bounding_boxes.txt", "9 9.0 2.5 4.0 5.0\n", "", "do not name the same images"),
        ("images.txt", "_0001.jpg", "_0000.jpg", "name an image twice"),
    ],
)
def test_contradictory_lists_are_one_line(tree, file, old, new, message):
    edit(tree / "CUB_200_2011" / file, old, new)
    with pytest.raises(DataError, match=message) as caught:
        load("cub", tree, "train")
    assert "\n" not in str(caught.value)


def test_download_option(tree, monkeypatch):
    asked = []
    monkeypatch.setattr(cub, "install", lambda *args, **options: asked.append((args, options)))
    assert len(load("cub", tree, download=False)) == 3
    assert asked == []
    assert len(load("cub", tree, download=True)) == 3
    assert asked == [((cub.URL, tree, "CUB_200_2011"), {"md5": cub.MD5, "size": cub.SIZE})]


def test_shared_subset(shared):
    train, test = (load("cub", shared / "data/cub", split) for split in ("train", "test"))
    assert (len(train), len(test), len(test.class_names)) == (660, 571, 22)
    assert np.bincount(train.labels).tolist() == [30] * 22
    assert test.class_names[0] == "Black footed Albatross"
    assert test.subset == "subset: 22 of 200 classes, 571 of 5794 test images"
    for i in (0, 570):
        width, height = test.image(i).size
        x, y, w, h = test.boxes[i]
        assert 0 <= x < x + w <= width + 1
        assert 0 <= y < y + h <= height + 1
