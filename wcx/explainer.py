"""The public calls: `Explainer` (forward passes once, any number of cotangents) and `explain` (all in one)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from wcx import contrasts, methods
from wcx.contrasts import Foils, Target
from wcx.errors import WcxError
from wcx.methods import Method, Run
from wcx.methods._state import check_model, evaluated
from wcx.methods._undo import undone
from wcx.methods.base import Cotangent, say


class Explainer:
    """A model and a method, ready for images.

    Args:
        model: any module that maps images (N, channels, H, W) to logits (N, C). It comes back as it was: no hook left, no
            gradient written, no flag or buffer changed, train or eval mode restored, also after an exception. Threads that
            explain one model take turns.
        method: a name (`wcx.methods.names()`), or a `wcx.methods.Method`.
        layer: activation methods only: the layer, by name or module, which returns a map an image, channels first or last; found if
            left out.
        **options: of the method.

    Raises:
        WcxError: the model is no module; unknown method, option or layer; a layer for a method that explains the input.

    Example:
        >>> import torch, wcx
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> run = wcx.Explainer(model, "gradcam")(torch.rand(2, 3, 8, 8))
        >>> run.logits.shape, run.layer
        (torch.Size([2, 5]), '0')
        >>> run.explain(lambda logits: wcx.cotangent(logits, logits.argmax(1))).shape
        torch.Size([2, 6, 6])
    """

    def __init__(
        self, model: nn.Module, method: str | Method = "gradcam", layer: str | nn.Module | None = None, **options: Any
    ) -> None:
        check_model(model)
        self.model = model
        self.method = methods.create(method, **options) if isinstance(method, str) else method
        if not isinstance(self.method, Method):
            called = "its class; call it" if isinstance(method, type) else type(method).__name__
            raise WcxError(f"method is {called}: give a name ({', '.join(methods.names())}), or a wcx.methods.Method.")
        if options and not isinstance(method, str):
            raise WcxError(
                f"options {', '.join(options)} beside a method that is made already; give them to it, or its name."
            )
        name = method if isinstance(method, str) else type(method).__name__
        if layer is not None and self.method.space == "input":
            layered = ", ".join(name for name in methods.names() if methods.get(name).space == "activation")
            raise WcxError(
                f"{name} explains the input, at no layer, got layer={layer!r}; leave it out, or use {layered}."
            )
        if layer is not None and self.method.transformers:  # no error: checks hand one layer to all methods of a space
            say(f"{name} reads the attention of all blocks: the layer that is named plays no part.")
        self.layer = layer

    @undone
    def __call__(self, images: Tensor) -> Run:
        """Do the forward passes for images (N, channels, H, W) in the model's input space.

        Returns:
            run: `run.logits` (N, C), `run.layer`, and `run.explain(v)`: one backward pass per cotangent, v (N, C), (K, N, C) or a
            function of the logits.

        Raises:
            WcxError: images that the model does not take; a model that cannot be explained; what the method says of its own.
        """
        run = self.method.run(self.model, images, self.layer)
        if kind := _softmax(run.logits):
            say(f"the model's outputs are {kind}, not logits: contrasts are defined on logits; leave the softmax out.")
        self.layer = self.layer if run.layer is None else run.layer
        return run


NEAR = 1e-2  # to 1, as sums of rounded probabilities are


def _softmax(outputs: Tensor) -> str:
    """Return what outputs (N, C) look like if not like logits: "probabilities", "log-probabilities", or ""."""
    lowest, highest = torch.stack(outputs[0].aminmax()).tolist()
    if outputs.shape[1] == 1 or lowest < 0 < highest:  # as those of logits are nearly always
        return ""
    y = outputs.double()
    total, log_total = torch.stack([(y.sum(1) - 1).abs().amax(), y.logsumexp(1).abs().amax()]).tolist()
    if total < NEAR and lowest >= 0:
        return "probabilities"
    return "log-probabilities" if log_total < NEAR else ""


@undone
def explain(
    model: nn.Module,
    images: Tensor,
    target: Target,
    method: str | Method = "gradcam",
    contrast: str | Sequence[str] = "weighted",
    foils: Foils = None,
    layer: str | nn.Module | None = None,
    contrast_options: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """Return the explanation of "why the target, but not the foils?": one forward pass, one backward per target and contrast.

    Args:
        model: any module that maps images to logits (N, C); left as it was.
        images: (N, channels, H, W), floating, in the model's input space.
        target: an int, (N,), or (T, N) for T targets an image.
        method: a name (`wcx.methods.names()`), or a `wcx.methods.Method`.
        contrast: a name (`wcx.contrasts.names()`), or a list of names. `original` explains the logit alone.
        foils: None (every other class), a list of class ids, an (N, K) tensor, or an int k: the k most probable others.
        layer: activation methods only; found if left out.
        contrast_options: options of the contrast, e.g. ``{"gamma": 0.6}`` for finer.
        **options: options of the method.

    Returns:
        Signed attributions: (N, h, w) at the layer's own resolution for activation methods (see `wcx.upsample`), and for input
        methods (N, channels, H, W). T targets and a list of contrasts each add a leading axis: (contrast, target, N, ...).

    Raises:
        WcxError: an argument that does not fit; the message says what was expected.

    Example:
        >>> import torch, wcx
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> wcx.explain(model, images, target=1, contrast="weighted").shape
        torch.Size([2, 6, 6])
        >>> wcx.explain(model, images, target=1, method="gradient", contrast=["original", "max"], foils=[0, 3]).shape
        torch.Size([2, 2, 3, 8, 8])
    """
    names = contrasts.as_names(contrast)
    split = contrasts.split_options(names, contrast_options or {})
    explainer = Explainer(model, method, layer, **options)
    with evaluated(model, once=True):
        run = explainer(images)
        targets = contrasts.as_targets(target, run.logits)

        # "The k most probable" foils are a set of classes of interest: chosen once, at the clean input.
        masks = contrasts.foil_masks(run.logits, targets, foils)

        maps = run.explain(cotangents(names, run.logits, targets, masks, split))
    maps = maps.reshape(len(names), *targets.shape[:-1], *maps.shape[1:])
    return maps[0] if isinstance(contrast, str) else maps


def cotangents(
    names: Sequence[str], logits: Tensor, targets: Tensor, masks: Tensor, options: Mapping[str, Mapping[str, Any]]
) -> Cotangent:
    """Return what `Run.explain` takes to explain under contrasts `names`, the contrast the outer axis.

    Args:
        names: of the contrasts.
        logits: (N, C) at the image itself, where all but path-dependent contrasts are frozen.
        targets: (N,) or (T, N).
        masks: foils, (N, C) or (T, N, C).
        options: for each contrast by name.

    Returns:
        (K, N, C) or (K T, N, C); a function of the logits where one of the contrasts depends on the path.
    """

    def of(name: str, logits: Tensor) -> Tensor:
        return contrasts.evaluate(name, logits, targets, masks, **options.get(name, {})).reshape(-1, *logits.shape)

    frozen = {name: of(name, logits) for name in names if not contrasts.get(name).path_dependent}

    def at(logits: Tensor) -> Tensor:
        return torch.cat([frozen[name] if name in frozen else of(name, logits) for name in names])

    return at(logits) if len(frozen) == len(set(names)) else at


def upsample(maps: Tensor, size: int | tuple[int, int], align_corners: bool = False) -> Tensor:
    """Return maps (..., h, w) bilinearly resized to (..., H, W); (N, h, w) gives (N, H, W).

    Args:
        maps: attributions at a layer's resolution, any number of leading axes.
        size: (H, W), or an int for a square.
        align_corners: False as the paper's text implies, True as the authors' code has it.

    Raises:
        WcxError: no floating maps; no size.

    Example:
        >>> import torch, wcx
        >>> wcx.upsample(torch.rand(2, 14, 14), (224, 224)).shape
        torch.Size([2, 224, 224])
    """
    sides = (size, size) if isinstance(size, Integral) else size
    if not (isinstance(maps, Tensor) and maps.ndim >= 2 and maps.is_floating_point()):
        got = f"{tuple(maps.shape)} {maps.dtype}" if isinstance(maps, Tensor) else type(maps).__name__
        raise WcxError(f"maps are {got}; expected a floating tensor (..., h, w).")
    if not (isinstance(sides, Sequence) and len(sides) == 2 and all(isinstance(n, Integral) and n >= 1 for n in sides)):
        raise WcxError(f"size = {size!r}; give (H, W), or an int for a square, of at least 1.")
    height, width = map(int, sides)
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = nn.functional.interpolate(flat, (height, width), mode="bilinear", align_corners=align_corners)
    return resized.reshape(*maps.shape[:-2], height, width)
