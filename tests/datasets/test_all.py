"""What holds for every dataset, found by itself."""

import inspect
import pkgutil
from pathlib import Path

import pytest
import yaml

from tests.datasets import trees
from wcx import datasets
from wcx.errors import DataError, WcxError

HELPERS = {"anatomy", "base", "cache", "download", "listing", "twins"}
COMMON = {
    "name",
    "label",
    "labels",
    "folder",
    "root",
    "transform",
    "download",
}  # keys that are not options of a module's load


def module(name):
    return __import__(f"wcx.datasets.{name}", fromlist=["load"])


@pytest.fixture(params=datasets.names())
def name(request):
    return request.param


@pytest.fixture
def config(root, name):
    return yaml.safe_load((root / f"conf/dataset/{name}.yaml").read_text())


def test_every_module_is_a_dataset_or_a_helper():
    found = {m.name for m in pkgutil.iter_modules(datasets.__path__) if not m.name.startswith("_")}
    assert found == set(datasets.names()) | HELPERS


def test_every_yaml_has_its_dataset(root):
    assert {path.stem for path in (root / "conf/dataset").glob("*.yaml")} == set(datasets.names())


def test_yaml_fits_the_module(name, config):
    keys = config["dataset"]
    assert keys["name"] == name
    assert {key for default in config["defaults"] for key in default} == {"override /model", "override /experiment"}
    options = inspect.signature(module(name).load).parameters
    assert set(keys) - COMMON <= set(options)
    if hasattr(module(name), "OFFICIAL"):  # Python users get the same label as users of the command line
        assert keys["official"] == module(name).OFFICIAL == options["official"].default
    if keys.get("transform"):
        assert datasets.Transform(**keys["transform"])


@pytest.mark.parametrize("name", sorted(set(datasets.names()) & set(dir(trees))))
def test_yaml_has_the_modules_own_transform(tmp_path, name, config):
    getattr(trees, name)(tmp_path)
    assert datasets.load(name, tmp_path).transform == datasets.Transform(**config["dataset"]["transform"])


def test_signature(name):
    signature = inspect.signature(module(name).load)
    root, split, *options = signature.parameters.values()
    assert (root.name, split.name) == ("root", "split")
    assert all(option.kind is option.KEYWORD_ONLY and option.default is not option.empty for option in options)
    assert signature.return_annotation == "ImageDataset"
    if hasattr(module(name), "download"):
        assert list(inspect.signature(module(name).download).parameters) == ["root"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_root_is_one_line(tmp_path, name, split):
    absent = tmp_path / "absent"
    if name == "parts":
        assert datasets.load(name, absent, split).root is None  # drawn, not stored
        return
    with pytest.raises(DataError) as caught:
        datasets.load(name, absent, split)
    assert "\n" not in str(caught.value)
    assert str(absent) in str(caught.value) or (name, split) == ("imagenet", "train")
    assert not absent.exists()


def test_wrong_names_are_one_line_with_choices(tmp_path):
    with pytest.raises(WcxError, match=r"unknown dataset 'cup'\. Did you mean 'cub'\? Choose one of: cars, cub, "):
        datasets.load("cup", tmp_path)
    with pytest.raises(WcxError, match=r"unknown split 'val'.*test, train"):
        datasets.load("cub", tmp_path, "val")
    with pytest.raises(WcxError, match=r"unknown option of dataset cub 'alow_partial'\. Did you mean 'allow_partial'"):
        datasets.load("cub", tmp_path, alow_partial=True)


def test_transform_may_be_a_mapping(tmp_path):
    trees.cub(tmp_path)
    dataset = datasets.load("cub", tmp_path, transform={"kind": "crop", "size": 8, "resize": 10})
    assert dataset.transform == datasets.Transform("crop", 8, 10)
    assert dataset[0][0].shape == (3, 8, 8)
    with pytest.raises(WcxError, match="unknown argument of transform 'sise'"):
        datasets.load("cub", tmp_path, transform={"sise": 8})


def test_root_may_be_text_with_a_tilde(tmp_path, monkeypatch):
    trees.cub(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert datasets.load("cub", f"~/{tmp_path.name}").root == Path(tmp_path)
