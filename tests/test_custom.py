"""One's own network: any function that makes one, any weights that fit, and one clear line for what does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import nn

from wcx.errors import WcxError
from wcx.models import custom

NAMES = ["Laysan Albatross", "Möwe", "crow's nest"]
CODE = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

def sized(num_classes=10, width=4):
    net = plain()
    net[4] = nn.Linear(16, num_classes)
    return net

def needy(path):
    return plain()

def text():
    return "a network"

def of_48():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 46 * 46, 3))

NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of factories and a list of classes, the current one."""
    (tmp_path / "my_nets.py").write_text(CODE)
    (tmp_path / "broken_nets.py").write_text("import no_such_library")
    (tmp_path / "labels.txt").write_text("\n".join(NAMES) + "\n\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_nets", None)


def net(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes))


@pytest.mark.parametrize("factory", ["my_nets:plain", "my_nets:sized"])
@pytest.mark.parametrize("kind", ["pth", "safetensors", "parallel.pt"])
def test_loads_ones_own_network(folder: Path, factory: str, kind: str) -> None:
    mine, file = net(), folder / f"mine.{kind}"
    state = mine.state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        prefix = "module." if kind.startswith("parallel") else ""
        torch.save({prefix + key: value for key, value in state.items()}, file)
    loaded = custom.load(factory, "labels.txt", file, mean=(0.1, 0.2, 0.3), std=(1, 2, 4), transform={"size": 32})
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([1.0, 2, 4]).view(3, 1, 1)
    torch.testing.assert_close(loaded.model(pixels), mine((pixels - mean) / std))
    assert loaded.class_names == NAMES
    assert loaded.weights == f"file: mine.{kind}"
    assert not loaded.net.training


def test_weights_in_several_files_and_names_in_the_configuration(folder: Path) -> None:
    """A backbone and its head, as of vit_s14_cub22."""
    state = net().state_dict()
    for name, keys in {"backbone": ("0.",), "head": ("4.",)}.items():
        torch.save({key: value for key, value in state.items() if key.startswith(keys)}, folder / f"{name}.pth")
    loaded = custom.load("my_nets:plain", "\n".join(NAMES), "backbone.pth + head.pth", weights_dir=folder)
    assert (loaded.class_names, loaded.weights) == (NAMES, "file: backbone.pth + head.pth")
    assert all(torch.equal(value, state[key]) for key, value in loaded.net.state_dict().items())
    with pytest.raises(WcxError, match=r"backbone.pth .*(classifier would be random|lacks)"):
        custom.load("my_nets:plain", "labels.txt", "backbone.pth", weights_dir=folder)


def test_the_yaml_holds_what_load_takes(folder: Path, root: Path) -> None:
    config = OmegaConf.to_container(OmegaConf.load(root / "conf/model/custom.yaml"))
    config |= {"factory": "my_nets:plain", "classes": "labels.txt", "weights": "random"}
    assert custom.load(**config).transform == {"kind": "crop", "resize": 256, "size": 224}


def test_random_weights_follow_the_seed(folder: Path) -> None:
    one, same, other = (custom.load("my_nets:plain", "labels.txt", "random", seed=s) for s in (1, 1, 2))
    assert one.weights == "random (my_nets:plain)"
    assert one.weights_hash == same.weights_hash != other.weights_hash
    dark = custom.load("my_nets:plain", "labels.txt", "random", seed=1, mean=(0, 0, 0))
    assert dark.weights_hash != one.weights_hash, "records of another normalisation are other records"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factory": None}, r"needs model\.factory: model=custom"),
        ({"factory": "my_nets.plain"}, "give package.module:function"),
        ({"factory": "my_nets:plian"}, "unknown function of my_nets 'plian'. Did you mean 'plain'"),
        ({"factory": "no_such_module:f"}, r"cannot import no_such_module \(ModuleNotFoundError: .*PYTHONPATH"),
        ({"factory": "broken_nets:f"}, "cannot import broken_nets .*no_such_library"),
        ({"factory": "my_nets:NUMBER"}, "unknown function"),
        ({"factory": "my_nets:needy"}, r"needy\(\) failed \(TypeError: .*path"),
        ({"factory": "my_nets:text"}, r"returned a str, expected a torch\.nn\.Module"),
        (
            {"factory": "my_nets:of_48"},
            r"failed on 1 image\(s\) of 224x224 in 3 channel\(s\) \(RuntimeError: .*transform\.size, and model\.transform\.resize",
        ),
        ({"classes": "four.txt"}, r"returns \(1, 3\) for one image, expected \(1, 4\)"),
        ({"classes": "none.txt"}, "file of class names not found: none.txt"),
        ({"classes": "empty.txt"}, "no class names in empty.txt"),
        ({"classes": "gap.txt"}, "line 2 of gap.txt is blank"),
        ({"classes": "latin.txt"}, "expected UTF-8"),
        ({"weights": "gone.pth"}, r"weights file not found: gone\.pth; check model\.weights"),
        ({"weights": "other.pth"}, "other.pth does not fit Sequential: it has another shape at '4.weight'"),
        ({"weights": "pickled.pth"}, "pickled objects are never loaded"),
        ({"mean": (0.5,)}, "give three numbers"),
        ({"std": (1, 0, 1)}, "a standard deviation is positive"),
        ({"transform": {"sise": 32}}, "Did you mean 'size'"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, change: dict[str, object], message: str) -> None:
    texts = {"four": "a\nb\nc\nd", "empty": "\n", "gap": "a\n\nb"}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    (folder / "latin.txt").write_bytes("Möwe".encode("latin-1"))
    torch.save(net(7).state_dict(), folder / "other.pth")
    torch.save(net(), folder / "pickled.pth")
    arguments = {"factory": "my_nets:plain", "classes": "labels.txt", "weights": "random"} | change
    with pytest.raises(WcxError, match=message) as caught:
        custom.load(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("transform", "lines"), [({"resize": 256}, 1), ({"resize": 60}, 0), ({"kind": "squash"}, 0)])
def test_a_cut_that_leaves_little_of_a_photograph_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture, transform: dict[str, object], lines: int
) -> None:
    """The default cut is ImageNet's: a network of small images, told only its size, would see a stamp of the picture."""
    with caplog.at_level("WARNING", "wcx"):
        custom.load("my_nets:of_48", "labels.txt", "random", transform={"kind": "crop", "size": 48, **transform})
    told = (
        "my_nets:of_48: of a photograph resized to 256 it sees the central 48x48; model.transform.resize=48 shows all"
    )
    assert caplog.messages == [told] * lines
