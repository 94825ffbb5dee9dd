"""Folders as people have them: links that lead back or nowhere, splits by any usual name, and what else lies about.

What is right: torchvision's ImageFolder on a tree without the peculiarity, or the list written down here.
"""

import logging
import shutil

import pytest
from torchvision.datasets import ImageFolder

from tests.datasets import trees
from wcx.datasets import load
from wcx.errors import DataError


def grow(root, parts=("train", "test"), classes=("a", "b"), count=3):
    for part in parts:
        for name in classes:
            for i in range(count):
                trees.picture(root / part / name / f"{i}.jpg", i)


def names(root, split="test"):
    return load("folder", root, split).ids


def refused(root, *words, split="test"):
    with pytest.raises(DataError) as caught:
        load("folder", root, split)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


PLAIN = [f"test/{name}/{i}.jpg" for name in "ab" for i in range(3)]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("test/a/self", "../a"),
        ("test/a/self", "."),
        ("test/a/up", ".."),
        ("test/a/root", "../.."),
        ("test/a/above", "../../.."),
        ("test/a/other", "../b"),
        ("test/a/deep/er/back", "../../../a"),
        ("test/loop", "."),
        ("test/loop", ".."),
        ("loop", "."),
    ],
)
def test_a_link_that_leads_back_adds_nothing(tmp_path, caplog, link, target):
    root = tmp_path / "images"
    grow(root)
    trees.picture(tmp_path / "elsewhere/x.jpg")
    plain = load("folder", root).listing_hash()
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(target, target_is_directory=True)
    dataset = load("folder", root)
    assert dataset.ids == PLAIN
    assert dataset.class_names == ["a", "b"]
    assert dataset.listing_hash() == plain
    if link != "loop":
        assert f"left out {root / link}" in caplog.text


def test_two_links_that_lead_to_each_other(tmp_path):
    grow(tmp_path)
    (tmp_path / "test/a/x").mkdir()
    (tmp_path / "test/b/y").mkdir()
    (tmp_path / "test/a/x/to_y").symlink_to("../../b/y")
    (tmp_path / "test/b/y/to_x").symlink_to("../../a/x")
    assert names(tmp_path) == PLAIN


def test_a_flat_folder_with_a_link_to_itself(tmp_path):
    grow(tmp_path, ["."])
    (tmp_path / "all").symlink_to(".")
    assert load("folder", tmp_path).class_names == ["a", "b"]


def test_links_that_lead_elsewhere_are_followed(tmp_path):
    root, store = tmp_path / "images", tmp_path / "store"
    grow(store, ["."])
    trees.picture(tmp_path / "more/3.jpg")
    (root / "test").mkdir(parents=True)
    (root / "test/a").symlink_to(store / "a")
    (root / "test/b").mkdir()
    (root / "test/b/inside").symlink_to(store / "b")
    (root / "test/b/inside_again").symlink_to(store / "b")
    (root / "test/b/3.jpg").symlink_to(tmp_path / "more/3.jpg")
    assert names(root) == [f"test/a/{i}.jpg" for i in range(3)] + ["test/b/3.jpg"] + [
        f"test/b/inside/{i}.jpg" for i in range(3)
    ]


def test_a_split_that_is_a_link(tmp_path):
    grow(tmp_path / "store", ["held"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images/test").symlink_to(tmp_path / "store/held")
    (tmp_path / "store/held/a/back").symlink_to(tmp_path / "images")
    assert names(tmp_path / "images") == PLAIN


def test_a_folder_comes_before_the_link_to_it(tmp_path):
    grow(tmp_path)
    trees.picture(tmp_path / "test/a/z/x.jpg")
    (tmp_path / "test/a/link").symlink_to("z")
    assert [one for one in names(tmp_path) if one.endswith("x.jpg")] == ["test/a/z/x.jpg"]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("test/a/9.jpg", "gone.jpg"),
        ("test/a/more", "/gone"),
        ("test/c", "/gone"),
        ("test/001.Black_footed_Albatross", "/gone"),
        ("test/a/x.jpg", "x.jpg"),
        ("val", "/gone"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(tmp_path, link, target):
    grow(tmp_path)
    (tmp_path / link).symlink_to(target)
    refused(tmp_path, str(tmp_path / link), target, "mend or remove")


def test_a_link_of_notes_that_leads_nowhere_does_no_harm(tmp_path):
    grow(tmp_path)
    (tmp_path / "test/a/notes.txt").symlink_to("gone.txt")
    (tmp_path / "test/a/.#lock").symlink_to("gone")
    assert names(tmp_path) == PLAIN


def test_two_classes_that_are_one_folder(tmp_path):
    grow(tmp_path)
    (tmp_path / "test/0").symlink_to("a")
    refused(tmp_path, "classes a and 0", "are one folder")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training", "testing"),
        ("Training", "Validation"),
        ("training", "validation"),
        ("train", "valid"),
        ("train", "VAL"),
        ("Train", "dev"),
    ],
)
def test_splits_by_any_usual_name(tmp_path, caplog, train, test):
    caplog.set_level(logging.INFO, "wcx")
    grow(tmp_path, [train, test])
    for split, folder in (("train", train), ("test", test)):
        dataset, reference = load("folder", tmp_path, split), ImageFolder(tmp_path / folder)
        assert [str(dataset.path(i)) for i in range(len(dataset))] == [path for path, _ in reference.samples]
        assert (dataset.labels, dataset.class_names) == (reference.targets, reference.classes)
        assert dataset.subset == ""
    assert f"train = {tmp_path / train}, test = {tmp_path / test}" in caplog.text


def test_test_comes_before_validation_and_the_log_says_what_is_not_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, "wcx")
    grow(tmp_path, ["Train", "valid", "Test", "predictions"])
    assert names(tmp_path) == [one.replace("test", "Test") for one in PLAIN]
    assert "not read: predictions, valid" in caplog.text


def test_a_test_folder_without_classes_is_no_split(tmp_path):
    """As Kaggle gives it: train and val by class, and the images of test without any."""
    grow(tmp_path, ["train", "val"])
    for i in range(4):
        trees.picture(tmp_path / f"test/{i}.jpg", i)
    assert names(tmp_path) == [one.replace("test", "val") for one in PLAIN]
    shutil.rmtree(tmp_path / "val")
    refused(tmp_path, "no test images", "test/<class>/")


@pytest.mark.parametrize("pair", [("Train", "train"), ("train", "training"), ("test", "Testing"), ("val", "valid")])
def test_two_folders_for_one_split(tmp_path, pair):
    grow(tmp_path, pair)
    refused(tmp_path, f"{min(pair)} and {max(pair)}", "move one away")


def test_an_empty_folder_of_that_name_is_in_nobodys_way(tmp_path):
    grow(tmp_path, ["train", "test"])
    (tmp_path / "Test").mkdir()
    (tmp_path / "val/a").mkdir(parents=True)
    assert names(tmp_path) == PLAIN


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    grow(tmp_path, ["."], ["test", "cat", "dev"])
    dataset = load("folder", tmp_path)
    assert dataset.class_names == ["cat", "dev", "test"]
    assert dataset.subset == "a flat folder: every image counts as a test image"
    grow(tmp_path / "held", ["test"], ["test", "train"])
    assert load("folder", tmp_path / "held").class_names == ["test", "train"]


def test_images_of_splits_without_classes(tmp_path):
    grow(tmp_path, ["."], ["train", "test"])
    refused(tmp_path, "images in test, train", "in no folder of a class")
    refused(tmp_path / "test/0.jpg", "is no folder")


def test_what_lies_about_is_no_image(tmp_path):
    grow(tmp_path)
    for litter in (".DS_Store", "Thumbs.db", "readme.jpg", "test/.DS_Store", "test/a/Thumbs.db", "test/a/.hidden.jpg"):
        (tmp_path / litter).write_bytes(b"litter")
    for folder in ("test/empty", "train/a/empty", "test/.ipynb_checkpoints/a", "test/a/.ipynb_checkpoints", "__MACOSX"):
        (tmp_path / folder).mkdir(parents=True)
    trees.picture(tmp_path / "test/a/.ipynb_checkpoints/0-checkpoint.jpg")
    (tmp_path / "__MACOSX/._0.jpg").write_bytes(b"what macOS leaves")
    dataset = load("folder", tmp_path)
    assert (dataset.ids, dataset.class_names) == (PLAIN, ["a", "b"])


def test_the_listing_of_a_plain_tree_is_as_it_was(tmp_path):
    """Records of trees that were read right before are found again: the hash is the one of commit 54b9daa."""
    for split in ("train", "test"):
        for name in ("b bird", "a_cat"):
            (tmp_path / split / name / "deep").mkdir(parents=True)
            for i, file in enumerate(("0.jpg", "1.PNG", "deep/2.jpeg")):
                (tmp_path / split / name / file).write_bytes(b"x" * i)
    expected = {
        "train": "a59afee36542206ca9e4d4e7af920a04e0f994bfa2ab927209deb5c2a9d7dae4",
        "test": "79e43510a56d78abe5ae0e3302512b26ecbbb0c3dc2a38cd3677f42d2d3257fd",
    }
    assert {split: load("folder", tmp_path, split).listing_hash() for split in expected} == expected
