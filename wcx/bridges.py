"""Bridges: a contrast inside the tools that people already use. None of them is imported here.

Each tool explains a scalar of its own choice, and a contrast is one: v.y, with v frozen at the clean images (Wang & Wang 2022,
Eq. 1). So captum and the CAM libraries get v.y, zennit gets v, and Quantus an explanation function and a value function.

Example:
    >>> import torch, wcx
    >>> from wcx import bridges
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> images = torch.rand(2, 3, 8, 8)
    >>> v = bridges.frozen(model, images, target=1, contrast="weighted", foils=[0, 3])
    >>> bridges.Contrasted(model, v)(images).shape  # captum explains this forward function
    torch.Size([2])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wcx import contrasts
from wcx.contrasts import Foils, Target
from wcx.errors import WcxError
from wcx.explainer import explain, upsample
from wcx.methods._state import evaluated
from wcx.methods._undo import undone
from wcx.methods.base import forward


@undone
def frozen(
    model: nn.Module, images: Tensor, target: Target, contrast: str = "weighted", foils: Foils = None, **options: Any
) -> Tensor:
    """Return v (N, C) of a contrast at the clean images, by one forward pass in eval mode.

    Args:
        model: images (N, channels, H, W) -> logits (N, C).
        images: in the model's input space.
        target: an int or (N,).
        contrast: a name, see `wcx.contrasts.names()`.
        foils: as in `wcx.cotangent`.
        **options: of the contrast.

    Raises:
        WcxError: an argument that does not fit.
    """
    with evaluated(model), torch.no_grad():
        return contrasts.cotangent(forward(model, images), target, contrast, foils, **options)


class Contrasted(nn.Module):
    """The forward function v.y: (N, channels, H, W) -> (N,). For captum, with `target=None`.

    captum's methods that make further passes lay copies of the batch one behind the other (integrated gradients, DeepLIFT,
    occlusion); v is repeated with them. NoiseTunnel repeats image by image instead: give it one image at a time.

    Args:
        model: images -> logits (N, C).
        v: (N, C), see `frozen`.
    """

    def __init__(self, model: nn.Module, v: Tensor) -> None:
        super().__init__()
        self.model, self.training = model, model.training
        self.register_buffer("v", v.detach(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return v.y of each image.

        Raises:
            WcxError: v of another number of classes; the number of images is no multiple of v's rows.
        """
        logits: Tensor = self.model(images)
        v = self.get_buffer("v")
        if v.ndim != 2 or v.shape[1] != logits.shape[1]:
            raise WcxError(
                f"v is {tuple(v.shape)} and the model has {logits.shape[1]} classes; make v by bridges.frozen."
            )
        copies, rest = divmod(len(logits), len(v))
        if rest:
            raise WcxError(
                f"v has {len(v)} rows and there are {len(logits)} images; make v by bridges.frozen of the same images."
            )
        return (logits * v.to(logits).repeat(copies, 1)).sum(1)


def last_layer(model: nn.Module, v: Tensor) -> nn.Sequential:
    """Return the model with v as a last linear layer, for captum's LRP, which takes no relevance.

    Under its epsilon rule that layer hands v_s y_s on to the logits, which is what `method=lrp` seeds.

    Args:
        model: one image (1, channels, H, W) -> logits (1, C).
        v: (1, C).

    Raises:
        WcxError: v of more than one image: a layer has one weight.
    """
    if v.ndim != 2 or len(v) != 1:
        raise WcxError(
            f"v is {tuple(v.shape)}: a last layer holds the contrast of one image; give v[i : i + 1] with image i."
        )
    layer = nn.Linear(v.shape[1], 1, bias=False).to(v)
    layer.weight.data.copy_(v)
    return nn.Sequential(model, layer)


def targets(v: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """Return for each image a function of its logits (C,), v.y: the `targets` of pytorch-grad-cam and torch-cam.

    Raises:
        WcxError: v is no (N, C): its numbers would be taken for images.
    """
    if v.ndim != 2:
        raise WcxError(f"v is {tuple(v.shape)}, expected (N, C): make it by bridges.frozen, or give v[i : i + 1].")

    def of(row: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda logits: (logits * row.to(logits)).sum(-1)

    return [of(row) for row in v.detach()]


def attr_output(
    target: Target, contrast: str = "weighted", foils: Foils = None, *, relevance: bool = False, **options: Any
) -> Callable[[Tensor], Tensor]:
    """Return zennit's `attr_output`: logits (N, C) -> v (N, C), for its gradients.

    Args:
        target: an int or (N,).
        contrast: a name.
        foils: as in `wcx.cotangent`.
        relevance: v_s y_s instead: what starts zennit's LRP composites, as `method=lrp` does.
        **options: of the contrast.
    """

    def of(logits: Tensor) -> Tensor:
        v = contrasts.cotangent(logits.detach(), target, contrast, foils, **options)
        return v * logits.detach() if relevance else v

    return of


def explain_func(
    method: str = "gradcam", contrast: str = "weighted", foils: Foils = None, **options: Any
) -> Callable[..., np.ndarray]:
    """Return Quantus' `explain_func`: (model, inputs, targets) -> signed maps (N, 1, H, W), float32.

    Maps of an activation are up-sampled, those of the input summed over channels.

    Args:
        method: a name, see `wcx.methods.names()`.
        contrast: a name.
        foils: as in `wcx.explain`.
        **options: of the method, and `layer`.
    """

    def explained(model: nn.Module, inputs: np.ndarray | Tensor, targets: np.ndarray, **_: Any) -> np.ndarray:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        images = torch.as_tensor(inputs, dtype=torch.float32, device=device)
        labels = torch.as_tensor(targets, device=device).long()
        maps = explain(model, images, labels, method, contrast, foils, **options)
        whole = maps.sum(1) if maps.ndim == 4 else upsample(maps, (images.shape[-2], images.shape[-1]))
        return whole[:, None].detach().cpu().numpy()

    return explained


class LogOdds(nn.Module):
    """The value function y_c - logsumexp over F of y, for every class c: images -> (N, C). For Quantus, with softmax=False.

    Its gradient is the weighted contrast. `quantus` reads the column of the label.

    Args:
        model: images -> logits (N, C), C at least 2.
        foils: class ids; None: every class but c. c itself is left out of them.
    """

    def __init__(self, model: nn.Module, foils: list[int] | None = None) -> None:
        super().__init__()
        self.model, self.foils, self.training = model, foils, model.training

    def forward(self, images: Tensor) -> Tensor:
        """Return the log-odds (N, C); -inf .. inf, and inf for a class that is the only foil.

        Raises:
            WcxError: a foil that is no class; -1 would be the last.
        """
        logits: Tensor = self.model(images)
        classes = logits.shape[1]
        rivals = torch.ones(classes, dtype=torch.bool, device=logits.device)
        if self.foils is not None:
            if wrong := [foil for foil in self.foils if not 0 <= foil < classes]:
                raise WcxError(f"foil {wrong[0]} is out of range: the model has {classes} classes, 0 to {classes - 1}.")
            rivals = torch.zeros_like(rivals)
            rivals[self.foils] = True
        mask = rivals & ~torch.eye(classes, dtype=torch.bool, device=logits.device)  # (c, s)
        return logits - logits[:, None].masked_fill(~mask, -torch.inf).logsumexp(2)
