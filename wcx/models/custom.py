"""One's own network: made by a function of one's own, its weights from a file, its class names from a text file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wcx.datasets import as_transform
from wcx.errors import WcxError
from wcx.models import IMAGENET_MEAN, IMAGENET_STD, IMAGENET_TRANSFORM, LoadedModel, Normalized, factories, precision
from wcx.models.class_names import read_classes
from wcx.models.devices import as_device
from wcx.models.state_dicts import fill, read_weights, weights_hash
from wcx.models.weights import located

log = logging.getLogger("wcx")


@torch.inference_mode(mode=False)
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
    weights_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> LoadedModel:
    """Build one's own classifier and load its weights.

    Args:
        factory: "package.module:function", in the current folder or wherever Python looks. Called as
            ``function(num_classes=<number of classes>)`` if it takes that, else without arguments (`wcx.factories`). It may
            return logits in a dict or a tuple (`wcx.models.logits_of`); its weights become float32.
        classes: a file of class names, in the order of the network's outputs, or those of several lines: see `read_classes`.
        weights: a file (.pth, .pt, .ckpt, .safetensors, ...) with a state dict in it, see `wcx.state_dicts`, or several with " + "
            between them, such as a backbone and its head; "random" for what the factory gives, `seed` set before.
        layer: the activation layer; methods look for it if None.
        mean, std: of the normalisation before the network, one value a channel, for pixels in [0, 1]: as many as the
            network takes channels. With one, images in colour are converted to grey.
        transform: fields of `datasets.base.Transform`: how a photograph becomes the network's input.
        name: what tables and files call the network.
        weights_dir: folder in which files of weights and classes are looked for that are not where their path says.
        device: where the result lives.
        seed: of random weights; the global generators are left alone.

    Raises:
        WcxError: one of the first three is None; a factory that cannot be imported or called, weights that are missing or
            do not fit, no class names, or a network that does not turn such images into one number per class, whatever their batch.
    """
    if factory is None or classes is None or weights is None:
        arguments = {"factory": factory, "weights": weights, "classes": classes}
        missing = ", ".join(f"model.{key}" for key, value in arguments.items() if value is None)
        raise WcxError(
            f"one's own network needs {missing}: model=custom model.factory=package.module:function "
            f"model.weights=<file or random> model.classes=<text file>."
        )
    device, count = as_device(device), channels(mean, std)
    classes = classes if "\n" in str(classes) else located(classes, weights_dir)
    names = read_classes(classes)
    net = factories.build(factory, len(names), seed).eval()
    loaded = LoadedModel(
        net=net,
        model=Normalized(net, mean, std).eval(),
        name=name,
        layer=layer,
        class_names=names,
        weights=f"random ({factory})",
        stand_in=False,
        weights_hash="",
        transform={**transform, "channels": count} if count != 3 else dict(transform),
    )
    shown = as_transform(transform)
    size = shown.size
    if shown.kind != "squash" and 2 * size < shown.resize:
        log.warning(
            "%s: of a photograph resized to %d it sees the central %dx%d; model.transform.resize=%d shows all",
            *(factory, shown.resize, size, size, size),
        )
    images = _two_images(count, size)
    if any(is_lazy(tensor) for tensor in [*net.parameters(), *net.buffers()]):
        log.info("%s: its lazy modules take their shapes from an image of %dx%d", factory, size, size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _logits(loaded, factory, images)
    if str(weights) != "random":
        paths = [located(file, weights_dir) for file in str(weights).split(" + ")]
        fill(net, reduce(or_, map(read_weights, paths)), " + ".join(map(str, paths)))
        loaded.weights = f"file: {' + '.join(path.name for path in paths)}"
    loaded.weights_hash = _hash(net, factory, mean, std)
    loaded.model.to(device)
    _try_out(loaded, factory, classes, images.to(device))
    if count == 1:
        log.info("%s takes one channel: images in colour are converted to grey (Pillow's L)", factory)
    return loaded


def channels(mean: Sequence[float], std: Sequence[float]) -> int:
    """Return the number of channels that a normalisation is for.

    Raises:
        WcxError: mean and std are no such lists of numbers.
    """
    for key, values in (("mean", mean), ("std", std)):
        if not isinstance(values, (list, tuple)) or not values or not all(map(_is_number, values)):
            raise WcxError(f"model.{key}={values}: give a list of numbers, one a channel, for pixels from 0 to 1.")
    if len(mean) != len(std):
        raise WcxError(
            f"model.mean={list(mean)} and model.std={list(std)}: give three numbers each, or as many as the network takes "
            f"channels, [0.5] for one."
        )
    if min(std) <= 0:
        raise WcxError(f"model.std={list(std)}: a standard deviation is positive.")
    return len(mean)


def _hash(net: nn.Module, factory: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """Return a SHA-256 (hex) over all that the network's numbers depend on, and that others have in their name."""
    parts = [weights_hash(net.state_dict()), factory, list(map(float, mean)), list(map(float, std))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _two_images(count: int, size: int) -> Tensor:
    """Return pixels (2, count, size, size) in [0, 1] of a bright image of noise and one that is nearly black."""
    pixels = torch.rand(2, count, size, size, generator=torch.Generator().manual_seed(0))
    pixels[1] *= 0.1
    return pixels


def check_side(loaded: LoadedModel, factory: str, size: int) -> None:
    """Send one image of a dataset's side through the network.

    Raises:
        WcxError: it takes no such images.
    """
    own = as_transform(loaded.transform).size
    if size != own:  # of its own side it has taken one
        pixels = _two_images(len(loaded.model.mean), size)[:1].to(loaded.model.mean.device)
        remedy = f"give the side it takes by dataset.transform.size, too (model.transform.size={own})."
        _logits(loaded, factory, pixels, remedy)


def _logits(loaded: LoadedModel, factory: str, pixels: Tensor, remedy: str = "") -> Tensor:
    """Return what the network makes of pixels (N, channels, H, W); a failure is one line."""
    try:
        with torch.no_grad(), precision.tf32(allowed=False):
            return loaded.model(pixels)
    except WcxError as error:
        raise WcxError(f"model.factory={factory}: {error}") from error
    except Exception as error:
        count, size = pixels.shape[1], pixels.shape[2]
        convolutions = (module for module in loaded.net.modules() if isinstance(module, nn.modules.conv._ConvNd))
        takes = getattr(next(convolutions, None), "in_channels", count)
        fix = remedy or "check model.transform.size, and model.transform.resize before the cut."
        if takes not in (0, count):
            numbers = f"[{', '.join(['0.5'] * min(takes, 3))}{', ...' * (takes > 3)}]"
            fix = f"its first convolution takes {takes} channel(s): give model.mean and model.std as many numbers, {numbers}."
        raise WcxError(
            f"model.factory={factory}: the network failed on {len(pixels)} image(s) of {size}x{size} in {count} channel(s) "
            f"({type(error).__name__}: {factories.one_line(error)}); {fix}"
        ) from error


def _try_out(loaded: LoadedModel, factory: str, classes: str | Path, images: Tensor) -> None:
    """Send two images through the network, alone and together: a mistake is told here, and not amid an experiment.

    Alone and together they may differ by float32's rounding, since convolutions then sum in another order: 4e-7 of the largest
    logit at most in twelve networks (nine of torchvision's untrained, three trained). 1e-4 is allowed; the statistics of a batch
    change logits by 0.2 and more.
    """
    outputs = len(loaded.class_names or [])
    alone = [_logits(loaded, factory, image[None]) for image in images]
    together = _logits(loaded, factory, images)
    for logits, count in ((alone[0], 1), (together, 2)):
        if tuple(logits.shape) != (count, outputs):
            raise WcxError(
                f"model.factory={factory}: the network returns {tuple(logits.shape)} for {('one image', 'two images')[count - 1]}, "
                f"expected ({count}, {outputs}): one logit for each of the {outputs} names in {classes}."
            )
    single = torch.cat(alone)
    if not bool(together.isfinite().all()):
        raise WcxError(f"model.factory={factory}: the network's logits hold NaN or infinite values; check its weights.")
    if not torch.allclose(single, together, rtol=0, atol=1e-4 * float(single.abs().max())):
        raise WcxError(
            f"model.factory={factory}: the logits of an image change by {float((single - together).abs().max()):.2g} with the "
            f"other images of its batch, or by chance (a BatchNorm without running statistics? dropout in eval mode?); "
            f"experiments send masked images in batches: make each image's logits its own."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
