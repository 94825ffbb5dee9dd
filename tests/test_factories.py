"""Factories as people have them: whatever makes a network, from whatever module, and whatever the network returns.

The oracle is the plain torch network, its logits computed here without wcx.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wcx
from wcx.errors import WcxError
from wcx.models import custom

NAMES = ["cat", "dog", "eel"]
CODE = '''
import functools
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
import torch
from torch import nn

class Net(nn.Module):
    """Three layers; the images' channels and the number of classes are its own."""
    def __init__(self, num_classes=10, channels=3, wrap=lambda logits: logits):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, num_classes)
        self.wrap = wrap
    def forward(self, x):
        return self.wrap(self.head(self.features(x).mean((2, 3))))
    @classmethod
    def small(cls, num_classes):
        return cls(num_classes)

class Keywords(Net):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

class Maker:
    def __call__(self, num_classes):
        return Net(num_classes)

def create_model(name="net", pretrained=False, **kwargs):
    assert name == "net" and not pretrained
    return Net(**kwargs)

def decorated(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner

@decorated
def wrapped(num_classes):
    return Net(num_classes)

def unnamed(*args, **kwargs):
    return Net(*args, **kwargs)

def fixed():
    return Net(3)

def refusing(**kwargs):
    return (lambda width=4: Net(3))(**kwargs)

def itself(**kwargs):
    torch.rand(1)  # a first attempt may draw before it fails
    return Net(num_classes=3, **kwargs)

def ignoring(**kwargs):
    return Net(3)

def positional(num_classes=3, /):
    return Net(num_classes)

def broken(**kwargs):
    raise TypeError("an integer is required")

def broken_by_name(num_classes):
    return (lambda: Net())(num_classes=num_classes)

def needy(model_name, **kwargs):
    return Net(**kwargs)

def leaving():
    raise SystemExit(2)

def a_pair(num_classes):
    return Net(num_classes), "preprocess"

keyword_only = functools.partial(create_model, "net")
bound = functools.partial(Net, num_classes=7)
short = lambda num_classes: Net(num_classes)
maker = Maker()
classmethod_of = Net.small
ready = Net(3)
_private = fixed

class ModelOutput(OrderedDict):
    """As transformers has it: keys and attributes."""

@dataclass
class Plain:
    loss: float
    logits: torch.Tensor

Named = namedtuple("Named", "logits aux")

RETURNED = {
    "dict": lambda y: {"features": y * 2, "logits": y},
    "out": lambda y: {"aux": y * 2, "out": y},
    "model_output": lambda y: ModelOutput(loss=None, logits=y, hidden_states=(y,)),
    "dataclass": lambda y: Plain(0.0, y),
    "tuple": lambda y: (y, y * 2),
    "list": lambda y: [y],
    "namedtuple": lambda y: Named(y, y * 2),
    "no_logits": lambda y: {"scores": y},
    "nothing": lambda y: None,
    "empty": lambda y: (),
}
for name, wrap in RETURNED.items():
    globals()["returns_" + name] = functools.partial(Net, wrap=wrap)

def grey(num_classes):
    return Net(num_classes, channels=1)

def half():
    return Net(3).half()

def bfloat16():
    return Net(3).bfloat16()

def float64():
    return Net(3).double()

def mixed():
    net = Net(3)
    net.features.half()
    return net

def lazy(num_classes):
    layers = [nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.LazyLinear(num_classes))

def quantised():
    return torch.ao.quantization.quantize_dynamic(Net(3), {nn.Linear}, dtype=torch.qint8)

def meta():
    with torch.device("meta"):
        return Net(3)

def without_numbers():
    net = Net(3)
    net.head.bias.data[0] = float("nan")
    return net

def script(num_classes):
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))

def to_be_quantised(num_classes):
    net = Net(num_classes)
    net.add = torch.ao.nn.quantized.FloatFunctional()
    return net

class Volume(nn.Module):
    """Images as films of one picture."""
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 4, (1, 3, 3)), nn.Linear(4, num_classes)
    def forward(self, x):
        return self.head(self.conv(x[:, :, None]).mean((2, 3, 4)))

@torch.inference_mode()
def inference():
    return Net(3)

class Mixing(Net):
    """Its logits depend on the batch."""
    def __init__(self, how):
        super().__init__(3)
        self.how = how
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
    def forward(self, x):
        if self.how == "late":
            return super().forward(x) - super().forward(x).mean(0)
        features = self.features(x - x.mean(0) if self.how == "centred" else x)
        if self.how == "norm":
            features = self.norm(features)
        if self.how == "dropout":
            features = nn.functional.dropout(features, 0.5)
        if self.how == "one":
            return self.head(features.mean((2, 3)).view(-1, 4)[:1])
        return self.head(nn.functional.relu(features).mean((2, 3)))

for how in ("norm", "late", "centred", "dropout", "one"):
    globals()["mixing_" + how] = functools.partial(Mixing, how)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of factories and a list of classes."""
    (tmp_path / "zoo.py").write_text(CODE)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(sys.modules)
    yield tmp_path
    for name in [name for name in sys.modules if name not in before]:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def load(factory: str, weights: Any = "random", size: int = 32, **options: Any) -> Any:
    return custom.load(factory, "labels.txt", weights, transform={"size": size, "kind": "squash"}, **options)


def refused(factory: str, *words: str, **options: Any) -> None:
    with pytest.raises(WcxError) as caught:
        load(factory, **options)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in (factory, *words)), str(caught.value)


def zoo() -> Any:
    return sys.modules["zoo"]


def assert_same(loaded: Any, oracle: nn.Module, channels: int = 3, mean: float = 0.5, std: float = 0.25) -> None:
    x = torch.rand(2, channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), oracle.eval()((x - mean) / std))


HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
TAKES_CLASSES = [
    "Net",
    "Keywords",
    "create_model",
    "wrapped",
    "keyword_only",
    "bound",
    "short",
    "maker",
    "classmethod_of",
]
TAKES_NONE = ["fixed", "refusing", "itself", "ignoring", "positional", "ready", "_private"]


@pytest.mark.parametrize("name", [*TAKES_CLASSES, *TAKES_NONE, "unnamed"])
def test_the_number_of_classes_reaches_whoever_takes_it(folder: Path, name: str) -> None:
    loaded, oracle = loaded_and_oracle(name)
    assert_same(loaded, oracle)
    assert zoo().ready is not loaded.net


@pytest.mark.parametrize("name", ["Net", "refusing", "itself"])
def test_random_weights_are_those_of_the_seed(folder: Path, name: str) -> None:
    """However often the factory had to be called; and the generator of others is left alone."""
    before = torch.random.get_rng_state()
    loaded = load(f"zoo:{name}", seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(3)
    if name == "itself":
        torch.rand(1)
    oracle = zoo().Net(3)
    torch.testing.assert_close(loaded.net.state_dict(), oracle.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_torchvisions_functions_take_it_through_their_keywords(folder: Path, name: str) -> None:
    """Also though the current folder has a folder of torchvision's name, such as the data of a download."""
    (folder / "torchvision").mkdir()
    loaded = load(f"torchvision.models:{name}", size=64)
    assert loaded.model(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", ["broken(num_classes=3) failed (TypeError: an integer is required)"]),
        ("broken_by_name", ["broken_by_name(num_classes=3) failed", "unexpected keyword argument 'num_classes'"]),
        ("needy", ["needy(num_classes=3) failed (TypeError: ", "'model_name'"]),
        ("leaving", ["leaving() failed (SystemExit: 2)"]),
        ("a_pair", ["returned a tuple", "expected a torch.nn.Module"]),
        ("RETURNED", ["unknown function of zoo 'RETURNED'"]),
        ("gone", ["unknown function of zoo 'gone'"]),
    ],
)
def test_an_error_of_the_factory_is_told_as_its_own(folder: Path, name: str, words: list[str]) -> None:
    text = f"model.factory=zoo:{name}"
    with pytest.raises(WcxError) as caught:
        load(f"zoo:{name}")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert text in str(caught.value) or "unknown function" in str(caught.value)


@pytest.mark.parametrize("kind", ["dict", "out", "model_output", "dataclass", "tuple", "list", "namedtuple"])
def test_logits_are_found_in_what_a_network_returns(folder: Path, kind: str) -> None:
    loaded, oracle = loaded_and_oracle(f"returns_{kind}")
    assert_same(loaded, oracle)
    x = torch.rand(2, 3, 32, 32)
    plain = wcx.explain(oracle, (x - 0.5) / 0.25, 1, "gradient") / 0.25
    torch.testing.assert_close(wcx.explain(loaded.model, x, 1, "gradient"), plain)
    torch.testing.assert_close(wcx.explain(loaded.model, x, 1), wcx.explain(oracle, (x - 0.5) / 0.25, 1))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no_logits", ["returns a dict with 'scores'", "'logits'"]),
        ("nothing", ["returns a NoneType"]),
        ("empty", ["returns a tuple"]),
    ],
)
def test_what_holds_no_logits_is_one_line(folder: Path, kind: str, words: list[str]) -> None:
    refused(f"zoo:returns_{kind}", *words)


@pytest.mark.parametrize("kind", ["half", "bfloat16", "float64", "mixed"])
def test_a_network_in_another_precision_becomes_float32(
    folder: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.INFO, "wcx")
    loaded, oracle = loaded_and_oracle(kind)
    assert {parameter.dtype for parameter in loaded.net.parameters()} == {torch.float32}
    assert_same(loaded, oracle)
    dtype = {"half": "float16", "mixed": "float16"}.get(kind, kind)
    assert f"weights in {dtype} become float32" in caplog.text
    assert load("zoo:half").weights_hash == load("zoo:half").weights_hash


def test_lazy_modules_take_their_shapes_from_the_images(folder: Path) -> None:
    oracle = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    )
    torch.save(oracle.state_dict(), "w.pth")
    assert_same(load("zoo:lazy", "w.pth", **HALF), oracle)
    assert load("zoo:lazy", mean=(0.5,), std=(0.5,)).net[0].in_channels == 1
    one, same, other = (load("zoo:lazy", seed=seed).weights_hash for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("quantised", ["quantised network (its 'head')", "before it was quantised"]),
        ("inference", ["torch.inference_mode"]),
        ("meta", ["on the meta device"]),
        ("without_numbers", ["NaN"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated.*")  # torch's own, of quantising
def test_what_cannot_be_explained_is_one_line(folder: Path, kind: str, words: list[str]) -> None:
    refused(f"zoo:{kind}", *words)


@pytest.mark.parametrize("name", ["to_be_quantised", "Volume", "script"])
@pytest.mark.filterwarnings("ignore:.*deprecated.*")  # torch's own, of scripting
def test_networks_that_look_odd_and_are_not(folder: Path, name: str) -> None:
    loaded = load(f"zoo:{name}").to_channels_last()
    assert loaded.channels_last == (name != "Volume")
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    logits = loaded.net((x - loaded.model.mean) / loaded.model.std)
    [expected] = torch.autograd.grad(logits[0, 1], x)
    torch.testing.assert_close(wcx.explain(loaded.model, x.detach(), 1, "gradient", contrast="original"), expected)


def test_a_network_loaded_under_inference_mode_is_a_network(folder: Path) -> None:
    with torch.inference_mode():
        loaded = load("zoo:Net")
    assert not any(parameter.is_inference() for parameter in loaded.net.parameters())
    assert wcx.explain(loaded.model, torch.rand(1, 3, 32, 32), 0).shape == (1, 30, 30)


@pytest.mark.parametrize("how", ["norm", "late", "centred", "dropout"])
def test_logits_that_depend_on_the_batch_are_told(folder: Path, how: str) -> None:
    refused(f"zoo:mixing_{how}", "logits of an image change by", "masked images in batches")


def test_a_network_of_one_image_is_told(folder: Path) -> None:
    refused("zoo:mixing_one", "returns (1, 3) for two images, expected (2, 3)")


@pytest.mark.parametrize("seed", range(3))
def test_deep_networks_round_and_are_not_refused(folder: Path, seed: int) -> None:
    for name in ("shufflenet_v2_x0_5", "mobilenet_v3_small"):
        assert load(f"torchvision.models:{name}", size=64, seed=seed).class_names == NAMES


HIDDEN = {
    "scripts": "a package of ours",
    "tests": "another",
    "run": "a script of ours",
}
NETS = """
from torch import nn
def make(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


@pytest.mark.parametrize("is_package", [True, False])
@pytest.mark.parametrize("top", ["scripts", "tests", "models", "datasets", "zoo_of_mine"])
def test_a_package_of_ones_own_is_found_whatever_its_name(folder: Path, top: str, is_package: bool) -> None:
    """With __init__.py or without; its relative imports, and those of others of its packages, work."""
    ours = {name: sys.modules.get(name) for name in ("scripts", "scripts.cli", "tests", "wcx", "wcx.models")}
    (folder / top).mkdir()
    (folder / "utils").mkdir()
    if is_package:
        (folder / top / "__init__.py").write_text("")
    (folder / top / "blocks.py").write_text(NETS)
    (folder / "utils/more.py").write_text(f"from {top}.blocks import make as inner\n")
    (folder / top / "nets.py").write_text(
        "from utils.more import inner\nfrom .blocks import make as same\nassert inner is same\n"
        f"def make(num_classes):\n    from {top} import blocks\n    return blocks.make(num_classes)\n"
    )
    assert load(f"{top}.nets:make").model(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    assert {name: sys.modules.get(name) for name in ours if ours[name]} == {k: v for k, v in ours.items() if v}


@pytest.mark.parametrize("top", ["scripts", "tests"])
def test_a_package_of_ones_own_may_be_anywhere_on_pythons_path(folder: Path, top: str) -> None:
    (folder / "elsewhere" / top).mkdir(parents=True)
    (folder / "elsewhere" / top / "mine.py").write_text(NETS)
    sys.path.append(str(folder / "elsewhere"))
    assert load(f"{top}.mine:make").model(torch.rand(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("top", ["scripts", "tests"])
def test_a_module_may_import_a_hidden_package(folder: Path, top: str) -> None:
    (folder / top).mkdir()
    (folder / top / "blocks.py").write_text(NETS)
    (folder / "mine.py").write_text(f"from {top}.blocks import make\n")
    assert load("mine:make").model(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_the_current_folder_hides_no_library(folder: Path) -> None:
    """A script that lies there under a library's name, or a module of the folder before, is nobody's concern."""
    (folder / "PIL").mkdir()
    (folder / "random.py").write_text("raise RuntimeError('not the one that was meant')")
    (folder / "mine.py").write_text(f"import random, PIL.Image\nassert random.random() < 1\n{NETS}")
    load("mine:make")
    other = folder / "other"
    other.mkdir()
    (other / "mine.py").write_text(NETS.replace("4", "5"))
    (other / "labels.txt").write_text("\n".join(NAMES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        assert load("mine:make").net[0].out_channels == 5
    assert load("mine:make").net[0].out_channels == 4


def test_ones_own_scripts_from_the_command_line(folder: Path) -> None:
    """run.py stands on Python's path before the current folder, and has a package scripts beside it."""
    (folder / "scripts").mkdir()
    (folder / "scripts/nets.py").write_text(NETS)
    arguments = ["model=custom", "model.factory=scripts.nets:make", "model.weights=random", "model.classes=labels.txt"]
    arguments += ["model.transform.size=32", "model.transform.resize=32", "device=cpu", "image=photo.png"]
    from PIL import Image

    Image.effect_noise((40, 40), 80).save("photo.png")
    done = subprocess.run(
        [sys.executable, Path(wcx.__file__).parents[1] / "run.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Why " in done.stdout


def loaded_and_oracle(factory: str) -> tuple[Any, nn.Module]:
    """Return what is loaded from zoo:<factory> with a file's weights, and `zoo.Net(3)` with the same."""
    torch.manual_seed(4)
    layers = {"features.0": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 3)}
    state = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    torch.save(state, "w.pth")
    loaded = load(f"zoo:{factory}", "w.pth", **HALF)
    oracle = zoo().Net(3)
    oracle.load_state_dict(state)
    return loaded, oracle
