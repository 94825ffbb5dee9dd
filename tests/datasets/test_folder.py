"""One's own images, against torchvision's ImageFolder."""

import pytest
from torchvision.datasets import ImageFolder

from tests.datasets import trees
from wcx.datasets import load
from wcx.errors import DataError, WcxError


def grow(root, parts, classes=("b bird", "a_cat", "C")):
    for part in parts:
        for name in classes:
            for i in range(3):
                trees.picture(root / part / name / f"{i}.jpg", i)
            trees.picture(root / part / name / "deep" / "x.JPEG")


def same(dataset, root):
    reference = ImageFolder(root)
    assert [str(dataset.path(i)) for i in range(len(dataset))] == [path for path, _ in reference.samples]
    assert dataset.labels == reference.targets
    assert dataset.class_names == reference.classes


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_splits(tmp_path, held_out):
    grow(tmp_path, ["train", held_out])
    same(load("folder", tmp_path, "train"), tmp_path / "train")
    test = load("folder", tmp_path, "test")
    same(test, tmp_path / held_out)
    assert test.ids[0] == f"{held_out}/C/0.jpg"
    assert test.subset == ""


def test_flat_is_the_test_split_and_says_so(tmp_path):
    grow(tmp_path, ["."])
    dataset = load("folder", tmp_path)
    same(dataset, tmp_path)
    assert dataset.subset == "a flat folder: every image counts as a test image"
    with pytest.raises(DataError, match="no train images"):
        load("folder", tmp_path, "train")


def test_both_splits_share_their_classes(tmp_path):
    grow(tmp_path, ["train"], ["a", "c"])
    grow(tmp_path, ["test"], ["b", "c"])
    train, test = (load("folder", tmp_path, split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["a", "b", "c"]
    assert set(train.labels) == {0, 2}
    assert set(test.labels) == {1, 2}


def test_what_is_no_image_is_no_class(tmp_path):
    grow(tmp_path, ["train", "test"], ["a", "b"])
    (tmp_path / "test/empty").mkdir()
    (tmp_path / "test/.cache").mkdir()
    trees.picture(tmp_path / "test/.cache/x.jpg")
    (tmp_path / "test/a/notes.txt").write_text("")
    (tmp_path / "test/a/._0.jpg").write_bytes(b"what macOS leaves")
    (tmp_path / "test/readme.jpg").write_bytes(b"")
    dataset = load("folder", tmp_path)
    assert dataset.class_names == ["a", "b"]
    assert len(dataset) == 8


def test_nothing_there(tmp_path):
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match=str(root)) as caught:
            load("folder", root)
        assert "\n" not in str(caught.value)
    with pytest.raises(WcxError, match="nothing to download"):
        load("folder", tmp_path, download=True)


def test_corrupt_image_is_named_when_it_is_read(tmp_path):
    grow(tmp_path, ["train", "test"])
    path = tmp_path / "test/C/1.jpg"
    path.write_bytes(path.read_bytes()[:200])
    dataset = load("folder", tmp_path)
    with pytest.raises(DataError, match=r"test/C/1\.jpg"):
        dataset[1]
