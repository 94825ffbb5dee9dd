"""How each library is asked for the same explanations, by the best way that its public calls allow: see `wcx.checks.peers`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import wcx
from wcx import bridges, contrasts, methods
from wcx.explainer import cotangents

if TYPE_CHECKING:
    from wcx.checks.captum import Captum

INSTALLED = {"captum": "captum", "grad-cam": "pytorch_grad_cam", "torchcam": "torchcam", "zennit": "zennit"}
METHODS = {  # -> the libraries that have it
    "gradcam": ("wcx", "captum", "grad-cam", "torchcam"),
    "integrated_gradients": ("wcx", "captum", "zennit"),
    "deeplift": ("wcx", "captum"),
    "lrp": ("wcx", "captum", "zennit"),
}
TARGETS, CONTRASTS = 2, ("original", "mean", "max", "weighted")
# Of integrated gradients, near the default of ours and of captum (50), and fewer of eight for time. Powers of two, whose points are
# exact: captum's are float32, and rounding would decide the ties that white pixels have in max pools.
STEPS = {1: 32, 8: 8}
BATCH = 32  # at most so many images at once
EPSILON = 1e-6  # of LRP's epsilon rule


def missing() -> str:
    """Return a line that names the extra, if a library is not installed; else ""."""
    absent = [name for name, module in INSTALLED.items() if importlib.util.find_spec(module) is None]
    return f"peers: {', '.join(absent)} not installed; pip install 'wcx[peers]'" if absent else ""


@dataclass(frozen=True)
class Task:
    """What every library gets.

    Attributes:
        captum: with the network that all explain.
        layer: of gradcam.
        images: (N, channels, H, W) in the network's input space.
        target: (N,).
        start: the reference of DeepLIFT, like an image.
        explanations: 1, of the target's logit, or 8.
    """

    captum: Captum
    layer: nn.Module
    images: Tensor
    target: Tensor
    start: Tensor
    explanations: int

    @property
    def net(self) -> nn.Module:
        """Images -> logits."""
        return self.captum.net

    def options(self, method: str) -> dict[str, Any]:
        """Return ours of a method; captum's are read from them."""
        options: dict[str, dict[str, Any]] = {
            "integrated_gradients": {"steps": STEPS[self.explanations], "batch_size": BATCH, "rule": "right"},
            "deeplift": {"baseline": self.start},
            "lrp": {"composite": "epsilon", "epsilon": EPSILON},
        }
        return options.get(method, {})

    def cotangents(self, logits: Tensor) -> Tensor:
        """Return what is explained for logits (N, C): (explanations, N, C)."""
        logits = logits.detach()
        if self.explanations == 1:
            return nn.functional.one_hot(self.target, logits.shape[1]).to(logits)[None]
        targets = contrasts.most_probable(logits, TARGETS)
        v = cotangents(CONTRASTS, logits, targets, contrasts.foil_masks(logits, targets, None), {})
        assert isinstance(v, Tensor), "none of them depends on a path"
        return v

    def logits(self) -> Tensor:
        """Return the logits (N, C), for a library that does not hand out those of its own passes."""
        with torch.no_grad():
            logits: Tensor = self.net(self.images)
        return logits


def _wcx(task: Task, method: str) -> Tensor:
    layer = task.layer if methods.get(method).space == "activation" else None
    options = task.options(method)
    if task.explanations == 1:
        return wcx.explain(task.net, task.images, task.target, method, "original", layer=layer, **options)[None]
    run = wcx.Explainer(task.net, method, layer, **options)(task.images)
    return run.explain(task.cotangents(run.logits))


def _captum(task: Task, method: str) -> Tensor:
    options = task.options(method)
    if task.explanations == 1:
        return task.captum.original(method, task.target, options)[None]
    return torch.stack([task.captum.contrasted(method, v, options) for v in task.cotangents(task.logits())])


def _grad_cam(task: Task, _method: str) -> Tensor:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if task.explanations == 1:
        targets = [list(map(ClassifierOutputTarget, task.target.tolist()))]
    else:
        targets = list(map(bridges.targets, task.cotangents(task.logits())))
    with GradCAM(task.net, [task.layer]) as cam:
        return torch.stack([torch.from_numpy(cam(task.images, classes)) for classes in targets])


def _torchcam(task: Task, _method: str) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(task.net, task.layer) as cam:
        scores = task.net(task.images)
        if task.explanations == 1:
            return torch.stack(cam(task.target.tolist(), scores, normalized=False))
        targets = map(bridges.targets, task.cotangents(scores))
        return torch.cat([torch.stack(cam(None, scores, False, targets=row, retain_graph=True)) for row in targets])


def _zennit(task: Task, method: str) -> Tensor:
    from zennit.attribution import IntegratedGradients
    from zennit.composites import LayerMapComposite, layer_map_base
    from zennit.rules import Epsilon
    from zennit.types import Convolution

    if method == "integrated_gradients":
        explainer = IntegratedGradients(task.net, n_iter=STEPS[task.explanations])
        if task.explanations == 1:
            explained: Tensor = explainer(task.images, lambda logits: task.cotangents(logits)[0])[1]
            return explained[None]
        return torch.stack([explainer(task.images, v)[1] for v in task.cotangents(task.logits())])
    rules = [*layer_map_base(EPSILON), (Convolution, Epsilon(EPSILON)), (nn.Linear, Epsilon(EPSILON))]
    with LayerMapComposite(rules).context(task.net) as ruled:
        images = task.images.clone().requires_grad_()
        logits = ruled(images)
        seeds = task.cotangents(logits) * logits.detach()
        return torch.cat([torch.autograd.grad(logits, images, v, retain_graph=True)[0][None] for v in seeds])


LIBRARIES = {"wcx": _wcx, "captum": _captum, "grad-cam": _grad_cam, "torchcam": _torchcam, "zennit": _zennit}


def as_of(library: str, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return our maps (K, N, ...) as a library hands them out: torch-cam's without negative values, grad-cam's also scaled."""
    if library not in ("torchcam", "grad-cam"):
        return maps
    if library == "torchcam":
        return maps.relu()
    from pytorch_grad_cam.utils.image import scale_cam_image

    scaled = [scale_cam_image(scale_cam_image(row, size[::-1])) for row in maps.relu().numpy()]
    return torch.stack(list(map(torch.from_numpy, scaled)))


def reason_against(library: str, method: str, net: nn.Module) -> str:
    """Return why a library's method is another one on this network, or ""."""
    if library == "captum":
        from wcx.checks import captum

        return captum.reason_against(method, net, {"composite": "epsilon", "baseline": "noise"})
    norms = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    if norms and (library, method) == ("zennit", "lrp"):
        return "zennit merges BatchNorm by a canonizer of the network's kind"
    return ""
