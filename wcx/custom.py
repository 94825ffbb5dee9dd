"""One's own network: made by a function of one's own, its weights from a file, its class names from a text file."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wcx.datasets import as_transform
from wcx.errors import WcxError, choose
from wcx.models import IMAGENET_MEAN, IMAGENET_STD, IMAGENET_TRANSFORM, LoadedModel, Normalized
from wcx.weights import fill, read_state_dict, weights_hash


def load(
    factory: str | None,
    classes: str | Path | None,
    weights: str | Path | None,
    *,
    layer: str | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    transform: Mapping[str, Any] = IMAGENET_TRANSFORM,
    name: str = "custom",
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> LoadedModel:
    """Build one's own classifier and load its weights.

    Args:
        factory: "package.module:function", importable from here or from the current folder. Called as
            ``function(num_classes=<number of classes>)`` if it takes that, else without arguments.
        classes: a text file (UTF-8), one class name a line, in the order of the network's outputs.
        weights: a state dict (.pth, .pt, .safetensors), the prefix "module." of DataParallel left out; "random" for what
            the factory gives, `seed` set before.
        layer: the activation layer; methods look for it if None.
        mean, std: of the normalisation before the network, one value a channel, for pixels in [0, 1].
        transform: fields of `datasets.base.Transform`: how a photograph becomes the network's input.
        name: what tables and files call the network.
        device: where the result lives.
        seed: of random weights; the global generators are left alone.

    Raises:
        WcxError: one of the first three is None; a factory that cannot be imported or called, weights that are missing or
            do not fit, no class names, or a network that does not turn such images into one number per class.
    """
    if factory is None or classes is None or weights is None:
        given = {"factory": factory, "weights": weights, "classes": classes}
        missing = ", ".join(f"model.{key}" for key, value in given.items() if value is None)
        raise WcxError(
            f"one's own network needs {missing}: model=custom model.factory=package.module:function "
            f"model.weights=<file or random> model.classes=<text file>."
        )
    names = read_classes(classes)
    net = _build(factory, len(names), seed).eval()
    label = f"random ({factory})"
    if str(weights) != "random":
        label = f"file: {Path(weights).name}"
        state = {key.removeprefix("module."): value for key, value in read_state_dict(weights).items()}
        fill(net, state, str(weights))
    loaded = LoadedModel(
        net=net.to(device),
        model=_normalised(net, mean, std).to(device).eval(),
        name=name,
        layer=layer,
        class_names=names,
        weights=label,
        stand_in=False,
        weights_hash=_hash(net, factory, mean, std),
        transform=dict(transform),
    )
    _try_out(loaded, factory, classes, torch.device(device))
    return loaded


def read_classes(path: str | Path) -> list[str]:
    """Return the class names of a text file, one a line; blank lines at its end are left out.

    Raises:
        WcxError: the file is missing, not UTF-8, or empty; a line is blank, or a name comes twice.
    """
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except FileNotFoundError as error:
        raise WcxError(f"file of class names not found: {path}; check model.classes.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WcxError(f"cannot read the class names in {path}: {error}; expected UTF-8, one name a line.") from error
    if not names:
        raise WcxError(f"no class names in {path}; expected one a line, in the order of the network's outputs.")
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            what = f"repeats {name!r}" if name else "is blank"
            raise WcxError(f"line {number} of {path} {what}; expected one class name a line, each once.")
    return names


def _build(factory: str, num_classes: int, seed: int) -> nn.Module:
    """Import the factory and call it."""
    function = _import(factory)
    try:
        takes_classes = "num_classes" in inspect.signature(function).parameters
    except ValueError:  # some functions written in C have no signature
        takes_classes = False
    arguments = {"num_classes": num_classes} if takes_classes else {}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = function(**arguments)
    except Exception as error:  # whatever a stranger's function raises
        called = f"{factory.partition(':')[2]}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
        raise WcxError(
            f"model.factory={factory}: {called} failed ({type(error).__name__}: {_one_line(error)}); it must work without "
            f"arguments, or with num_classes."
        ) from error
    if not isinstance(net, nn.Module):
        raise WcxError(f"model.factory={factory} returned a {type(net).__name__}, expected a torch.nn.Module.")
    return net


def _import(factory: str) -> Callable[..., Any]:
    module_name, colon, function_name = str(factory).partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise WcxError(f"model.factory={factory} is not understood; give package.module:function.")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, but last: nothing is hidden by files that lie there
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise WcxError(
            f"model.factory={factory}: cannot import {module_name} ({type(error).__name__}: {_one_line(error)}); run from "
            f"the folder that holds it, or put that on PYTHONPATH."
        ) from error
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    return getattr(module, choose(f"function of {module_name}", function_name, functions))


def _normalised(net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Normalized:
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(isinstance(value, (int, float)) for value in values):
            raise WcxError(f"model.{key}={list(values)}: give three numbers, one a channel, for pixels from 0 to 1.")
    if min(std) <= 0:
        raise WcxError(f"model.std={list(std)}: a standard deviation is positive.")
    return Normalized(net, mean, std)


def _hash(net: nn.Module, factory: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """Return a SHA-256 (hex) over all that the network's numbers depend on, and that others have in their name."""
    parts = [weights_hash(net.state_dict()), factory, [float(m) for m in mean], [float(s) for s in std]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _try_out(loaded: LoadedModel, factory: str, classes: str | Path, device: torch.device) -> None:
    """Send a grey image through the network: a mistake is told here, once, and not in the midst of an experiment."""
    size = as_transform(loaded.transform).size
    try:
        with torch.inference_mode():
            logits = loaded.model(torch.full((1, 3, size, size), 0.5, device=device))
        shape = tuple(logits.shape)
    except Exception as error:
        raise WcxError(
            f"model.factory={factory}: the network failed on an image of {size}x{size} ({type(error).__name__}: "
            f"{_one_line(error)}); check model.transform.size."
        ) from error
    outputs = len(loaded.class_names or [])
    if shape != (1, outputs):
        raise WcxError(
            f"model.factory={factory}: the network returns {shape} for one image, expected (1, {outputs}): one logit for each of "
            f"the {outputs} names in {classes}."
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
