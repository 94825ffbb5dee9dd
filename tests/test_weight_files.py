"""Weight files as people have them: as they are, or by the one unwrapping that makes all names fit.

The oracle is the logits of the network whose weights the file holds, computed here without wcx.
"""

from __future__ import annotations

import argparse
import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from wcx import models
from wcx.errors import WcxError
from wcx.models import state_dicts

TINY = "squeezenet1_1"


class Net(nn.Module):
    """A body, a BatchNorm and a classifier."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Holder(nn.Module):
    """A network of one's own that keeps another in an attribute of any name."""

    def __init__(self, **inner: nn.Module) -> None:
        super().__init__()
        for name, module in inner.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return next(self.children())(x)


class Flat(nn.Module):
    """Parameters of its own, and no submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(3, 3)), nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.weight + self.bias


class Scaled(nn.Module):
    """A parameter of its own, and a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.net = nn.Parameter(torch.rand(1)), Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale


def trained(make: Callable[[], nn.Module] = Net, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    net = make().eval()
    for name, value in net.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 2)
    return net


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def inside(state: dict[str, Tensor], wrapper: str) -> dict[str, Tensor]:
    return {key.replace("features.", f"features.{wrapper}."): value for key, value in state.items()}


def loaded(path: Path, content: Any, make: Callable[[], nn.Module] = Net) -> nn.Module:
    """Write a file, load it into a fresh network, and return that."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    torch.manual_seed(2)
    net = make().eval()
    state_dicts.fill(net, state_dicts.read_weights(path), path.name)
    return net


def assert_same(net: nn.Module, oracle: nn.Module) -> None:
    x = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(net(x), oracle(x))


def message(call: Callable[[], object], *words: str) -> str:
    with pytest.raises(WcxError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    return str(caught.value)


STATE: dict[str, Tensor] = trained().state_dict()
OTHER: dict[str, Tensor] = trained(seed=7).state_dict()


def rounded(dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()}


FILES: dict[str, tuple[str, Any, str]] = {
    "as it is": ("w.pth", STATE, ""),
    "state_dict": ("w.pth", {"state_dict": STATE, "epoch": 3, "best_acc": 0.9}, "its entry 'state_dict'"),
    "model": ("w.pth", {"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}}}, "its entry 'model'"),
    "model_state_dict": ("w.tar", {"model_state_dict": STATE, "loss": 0.5}, "its entry 'model_state_dict'"),
    "net": ("w.t7", {"net": STATE, "acc": 93.1}, "its entry 'net'"),
    "state": ("w.pth", {"epoch": 3, "state": STATE}, "its entry 'state'"),
    "ema alone": ("w.pth", {"state_dict_ema": STATE}, "its entry 'state_dict_ema'"),
    "two levels": ("w.pth", {"checkpoint": {"params": STATE, "step": 4}}, "its entry 'checkpoint.params'"),
    "model and its equal ema": ("w.pth", {"model": STATE, "model_ema": dict(STATE)}, "its entry 'model'"),
    "Lightning": (
        "epoch=3-val_loss=0.25.ckpt",
        {
            "state_dict": prefixed(STATE, "model."),
            "epoch": 3,
            "pytorch-lightning_version": "2.4.0",
            "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(3)}}, "param_groups": []}],
            "hyper_parameters": {"lr": 0.1},
        },
        "its entry 'state_dict', without the prefix 'model.'",
    ),
    "Lightning with a loss that has weights": (
        "last.ckpt",
        {"state_dict": {**prefixed(STATE, "net."), "criterion.weight": torch.rand(3)}, "epoch": 3},
        "without the prefix 'net.'; not used: 'criterion.weight' (1 such)",
    ),
    "DataParallel": ("w.pth", prefixed(STATE, "module."), "without the prefix 'module.'"),
    "compiled": ("w.pth", prefixed(STATE, "_orig_mod."), "without the prefix '_orig_mod.'"),
    "DataParallel of compiled": ("w.pth", prefixed(STATE, "module._orig_mod."), "'module._orig_mod.'"),
    "Lightning, compiled": ("w.ckpt", {"state_dict": prefixed(STATE, "model._orig_mod.")}, "'model._orig_mod.'"),
    "backbone": ("w.bin", prefixed(STATE, "backbone."), "without the prefix 'backbone.'"),
    "any prefix": ("w.bin", prefixed(STATE, "student.encoder.net."), "without the prefix 'student.encoder.net.'"),
    "AveragedModel": ("w.pth", {"n_averaged": torch.tensor(9), **prefixed(STATE, "module.")}, "not used: 'n_averaged'"),
    "DataParallel of the body alone": ("w.pth", inside(STATE, "module"), "without the names of wrappers"),
    "body compiled": ("w.pth", prefixed(inside(STATE, "_orig_mod"), "model."), "without the names of wrappers"),
    "FSDP": ("w.pth", inside(STATE, "_fsdp_wrapped_module"), "without the names of wrappers"),
    "float16": ("w.pth", rounded(torch.float16), ""),
    "bfloat16": ("w.safetensors", rounded(torch.bfloat16), ""),
    "float8": ("w.pth", rounded(torch.float8_e4m3fn), ""),
    "float64": ("w.pth", rounded(torch.float64), ""),
    "parameters": ("w.pth", {key: nn.Parameter(v) if v.is_floating_point() else v for key, v in STATE.items()}, ""),
    "no counters": ("w.pth", {key: v for key, v in STATE.items() if "num_batches" not in key}, ""),
    "safetensors": ("w.safetensors", STATE, ""),
    "safetensors with a prefix": ("w.safetensors", prefixed(STATE, "model."), "without the prefix 'model.'"),
    "SAFETENSORS": ("w.SAFETENSORS", STATE, ""),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_as_people_have_it(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    caplog.set_level(logging.INFO, "wcx")
    name, content, words = FILES[kind]
    oracle = trained()
    if kind == "SAFETENSORS":
        path = tmp_path / name
        safetensors.torch.save_file(content, path)
        net = Net().eval()
        state_dicts.fill(net, state_dicts.read_weights(path), name)
    else:
        net = loaded(tmp_path / name, content)
    if "float" in kind:
        for key, value in oracle.state_dict().items():
            value.copy_(content[key].float())
    assert_same(net, oracle)
    told = [record.getMessage() for record in caplog.records if record.name == "wcx"]
    assert len(told) == bool(words)
    assert words in "".join(told)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "own submodule called module": lambda: Holder(module=Net()),
    "DataParallel": lambda: nn.DataParallel(Net()),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(Net()),
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "parameters of its own": Flat,
    "one layer": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)),
    "model": lambda: Holder(model=Net()),
    "parameters of its own beside a submodule": lambda: Holder(model=Scaled()),
    "module in module": lambda: Holder(module=Holder(module=Net())),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_state_dict_of_any_network_fits_that_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    oracle = trained(NETWORKS[kind])
    assert_same(loaded(tmp_path / "w.pth", oracle.state_dict(), NETWORKS[kind]), oracle)
    assert not [record for record in caplog.records if record.name == "wcx"], "as it is: nothing to be said"
    assert_same(loaded(tmp_path / "w.ckpt", {"state_dict": oracle.state_dict()}, NETWORKS[kind]), oracle)
    state = prefixed(oracle.state_dict(), "net.")
    assert_same(loaded(tmp_path / "w.bin", state, NETWORKS[kind]), oracle)


@pytest.mark.parametrize("kind", ["own submodule called module", "DataParallel", "compiled", "model", "AveragedModel"])
def test_the_file_of_the_inner_network_fits_its_wrapper(tmp_path: Path, kind: str) -> None:
    net = loaded(tmp_path / "w.pth", STATE, NETWORKS[kind])
    assert_same(net, trained())
    assert_same(loaded(tmp_path / "w.pth", {"state_dict": prefixed(STATE, "net.")}, NETWORKS[kind]), trained())


def test_half_of_a_network_is_no_network(tmp_path: Path) -> None:
    """Names that fit are not enough: shapes decide, and nothing is left as it was by chance."""
    wider = trained(lambda: Net(5)).state_dict()
    assert_same(loaded(tmp_path / "w.pth", {"old": wider, "new": STATE}), trained())
    text = message(
        lambda: loaded(tmp_path / "w.pth", {"state_dict": wider}), "its entry 'state_dict'", "(5, 4)", "(3, 4)"
    )
    assert "another shape at 'classifier.weight'" in text
    part = {key: value for key, value in STATE.items() if key != "features.1.running_var"}
    message(lambda: loaded(tmp_path / "w.pth", {"state_dict": part}), "lacks 'features.1.running_var' (1 such of 9)")
    more = prefixed({**STATE, "features.9.weight": torch.rand(3)}, "model.")
    message(lambda: loaded(tmp_path / "w.pth", more), "has the unknown 'features.9.weight' (1 such)", "prefix 'model.'")
    other = {"block.weight": torch.rand(3), **{key.replace("features", "body"): v for key, v in STATE.items()}}
    message(lambda: loaded(tmp_path / "w.pth", other), "lacks 'features.0.weight'", "has the unknown 'block.weight'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, ["'state_dict'", "'state_dict_ema'"]),
        ({"model": STATE, "model_ema": prefixed(OTHER, "module.")}, ["'model'", "'model_ema', without the prefix"]),
        ({**prefixed(STATE, "student."), **prefixed(OTHER, "teacher.")}, ["'student.'", "'teacher.'"]),
    ],
)
def test_several_that_fit_are_refused(tmp_path: Path, content: Any, words: list[str]) -> None:
    message(lambda: loaded(tmp_path / "w.pth", content), "2 different sets of weights", "save the one", *words)


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"hyper_parameters": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"best": np.float64(0.9)}, "numpy"),
        ({"history": np.ones(3)}, "numpy"),
        ({"callback": Boom()}, "pytest"),
    ],
)
def test_what_is_no_plain_tensor_is_never_unpickled(tmp_path: Path, extra: dict[str, object], word: str) -> None:
    message(
        lambda: loaded(tmp_path / "w.ckpt", {"state_dict": STATE, **extra}),
        "more than plain tensors",
        word,
        "torch.save(torch.load('w.ckpt', weights_only=False)['state_dict'], 'weights.pth')",
    )


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [STATE], torch.rand(3), {"losses": {"train": [0.1]}}, 3])
def test_a_file_without_named_tensors(tmp_path: Path, content: Any) -> None:
    message(lambda: loaded(tmp_path / "w.pth", content), "not a state dict")


@pytest.mark.filterwarnings("ignore:.*deprecated.*")  # torch's own, of tracing
def test_files_of_other_kinds(tmp_path: Path) -> None:
    torch.jit.trace(Net().eval(), torch.rand(1, 3, 9, 9)).save(tmp_path / "script.pt")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    np.savez(tmp_path / "arrays.npz", weight=np.ones(3))
    words = {
        "script.pt": "TorchScript",
        "text.pth": "cannot be read",
        "empty.ckpt": "cannot be read",
        "arrays.npz": "read",
    }
    for name, word in words.items():
        message(lambda name=name: state_dicts.read_weights(tmp_path / name), name, word)
    message(lambda: state_dicts.read_weights(tmp_path), "not found")
    message(lambda: models.load(TINY, weights="gone.ckpt", weights_dir=tmp_path), "not found: gone.ckpt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", ["pth", "ckpt", "safetensors"])
def test_torchvisions_own_models(tmp_path: Path, prefix: str, suffix: str) -> None:
    torch.manual_seed(3)
    oracle = torchvision.models.get_model(TINY, weights=None).eval()
    path = tmp_path / f"mine.{suffix}"
    state = prefixed(oracle.state_dict(), prefix)
    if suffix == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 1} if suffix == "ckpt" else state, path)
    net = models.load(TINY, weights=path)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net.net(x), oracle(x))
    assert net.weights == f"file: mine.{suffix}"
    assert net.weights_hash == models.weights_hash(oracle.state_dict())


def test_the_examples_of_pytorch_wrap_the_body_alone(tmp_path: Path) -> None:
    """examples/imagenet/main.py saves alexnet and vgg so: {"state_dict": ...} with only `features` in DataParallel."""
    oracle = models.build(TINY, 2)
    state = OrderedDict((k.replace("features.", "features.module."), v) for k, v in oracle.state_dict().items())
    torch.save({"epoch": 90, "arch": TINY, "state_dict": state, "best_acc1": torch.tensor(56.5)}, tmp_path / "w.tar")
    net = models.build(TINY, 2, seed=5)
    state_dicts.fill(net, state_dicts.read_weights(tmp_path / "w.tar"), "w.tar")
    assert models.weights_hash(net.state_dict()) == models.weights_hash(oracle.state_dict())


def test_fine_tuning_starts_from_a_wrapped_file(tmp_path: Path) -> None:
    """Other classes, and a file with the convolutional part only: both behind an entry and a prefix."""
    torch.manual_seed(3)
    oracle = torchvision.models.get_model(TINY, weights=None)
    whole, body = prefixed(oracle.state_dict(), "module."), oracle.features.state_dict(prefix="module.features.")
    for state in (whole, body):
        torch.save({"state_dict": state}, tmp_path / "w.pth")
        start = models.load(TINY, weights=tmp_path / "w.pth", num_classes=5)
        torch.testing.assert_close(start.net.features.state_dict(), oracle.features.state_dict(), rtol=0, atol=0)
        assert start.net.classifier[1].out_channels == 5
    message(lambda: models.load(TINY, weights=tmp_path / "w.pth"), "convolutional part only", "wcx finetune")


def test_extra_states_and_half_networks(tmp_path: Path) -> None:
    class Extra(Net):
        def get_extra_state(self) -> object:
            return {"version": 2}

        def set_extra_state(self, state: object) -> None:
            assert state == {"version": 2}

    oracle = trained(Extra)
    assert_same(loaded(tmp_path / "w.pth", oracle.state_dict(), Extra), oracle)
    assert_same(loaded(tmp_path / "w.pth", STATE, Extra), trained())
    assert models.weights_hash(oracle.state_dict()) == models.weights_hash(STATE)
    half = copy.deepcopy(trained()).bfloat16()
    net = loaded(tmp_path / "w.pth", half.state_dict(), lambda: Net().bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), half.parameters(), strict=True))
