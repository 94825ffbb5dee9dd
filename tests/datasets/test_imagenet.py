"""ImageNet: sorted by wnid, or flat with the devkit."""

import pytest
from torchvision.models import AlexNet_Weights

from tests.datasets import trees
from wcx.datasets import Transform, load
from wcx.datasets._imagenet_wnids import WNIDS
from wcx.errors import DataError

SAMPLE = "sample: 3 images, not the official validation set, likely from the training split"
CHOSEN = ["n01440764", "n02012849", "n15075141"]  # tench, crane (bird), toilet tissue: index 0, 134, 999


def test_wnids():
    assert len(set(WNIDS)) == 1000
    assert sorted(WNIDS) == WNIDS
    assert [WNIDS.index(wnid) for wnid in CHOSEN] == [0, 134, 999]


def test_by_folder_is_never_renumbered(tmp_path):
    for wnid in CHOSEN:
        trees.picture(tmp_path / "val" / wnid / f"{wnid}_10026.JPEG")
    (tmp_path / "val/.DS_Store").write_text("")
    (tmp_path / "val/.cache").mkdir()
    dataset = load("imagenet", tmp_path)
    assert dataset.labels == [0, 134, 999]
    assert dataset.class_names == AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    assert [dataset.class_names[label] for label in dataset.labels] == ["tench", "crane bird", "toilet tissue"]
    assert dataset.transform == Transform("crop", 224, 256)
    assert dataset[0][0].shape == (3, 224, 224)
    assert dataset.subset == SAMPLE
    assert not dataset.official_split


def test_official_names_by_folder_are_a_subset(tmp_path):
    for i, wnid in enumerate(CHOSEN, 1):
        trees.picture(tmp_path / "val" / wnid / f"ILSVRC2012_val_{i:08d}.JPEG")
    dataset = load("imagenet", tmp_path)
    assert dataset.official_split
    assert dataset.subset == "subset: 3 of 1000 classes, 3 of 50000 test images"


def flat(root, order, truth):
    trees.imagenet_devkit(root, order, truth)
    for i in range(1, len(truth) + 1):
        trees.picture(root / f"val/ILSVRC2012_val_{i:08d}.JPEG", i)


def test_flat_with_devkit(tmp_path):
    order = ["n15075141", "n01440764", "n02012849"]  # ILSVRC2012_ID does not follow the rank of the wnid
    flat(tmp_path, order, [2, 1, 1, 3])
    dataset = load("imagenet", tmp_path)
    assert dataset.ids == [f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3, 4)]
    assert dataset.labels == [0, 999, 999, 134]
    assert dataset.official_split
    (tmp_path / "val/ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(DataError, match="1 of 4 images"):
        load("imagenet", tmp_path)
    partial = load("imagenet", tmp_path, allow_partial=True)
    assert partial.labels == [0, 999, 134]
    assert len(partial.class_names) == 1000


def test_complete_flat_says_nothing(tmp_path):
    flat(tmp_path, CHOSEN, [1, 2, 3])
    assert load("imagenet", tmp_path, official={"classes": 3, "train": 0, "test": 3}).subset == ""


def test_devkit_reads_as_in_torchvision(tmp_path):
    """The same numbers through torchvision's reading of meta.mat: by position and without inner nodes."""
    import scipy.io

    flat(tmp_path, [*reversed(CHOSEN)], [3, 3, 1])
    meta = scipy.io.loadmat(tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat", squeeze_me=True)["synsets"]
    leaves = [list(synset) for synset in meta if list(synset)[4] == 0]
    wnid = {int(number): str(wnid) for number, wnid, *_ in leaves}
    assert [WNIDS[label] for label in load("imagenet", tmp_path).labels] == [wnid[i] for i in (3, 3, 1)]


@pytest.mark.parametrize("download", [False, True])
def test_missing(tmp_path, download):
    with pytest.raises(DataError, match=r"val.*ILSVRC2012_img_val\.tar") as caught:
        load("imagenet", tmp_path, download=download)
    assert str(tmp_path / "val") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_are_named(tmp_path):
    trees.picture(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"meta\.mat not found"):
        load("imagenet", tmp_path)
    with pytest.raises(DataError, match="'train' is not supported"):
        load("imagenet", tmp_path, "train")
    trees.picture(tmp_path / "val/n00000001/x.JPEG")
    with pytest.raises(DataError, match="n00000001 is none of the 1000 wnids"):
        load("imagenet", tmp_path)


def test_ground_truth_of_another_devkit(tmp_path):
    flat(tmp_path, CHOSEN, [1, 4])
    with pytest.raises(DataError, match="not the devkit's"):
        load("imagenet", tmp_path)


def test_shared_sample(shared):
    dataset = load("imagenet", shared / "data/imagenet")
    assert dataset.labels == list(range(1000))
    assert dataset.subset == SAMPLE.replace("3 images", "1000 images")
    for i in range(1000):  # the files are called <wnid>_<name>.JPEG
        name = dataset.ids[i].split("_", 1)[1].removesuffix(".JPEG").replace("_", " ")
        assert dataset.class_names[i].lower().startswith(name.lower())  # torchvision's "crane bird" is theirs "crane"
