"""captum's explanations, as an oracle for ours.

The original is asked for directly, a contrast through `wcx.bridges.Contrasted`. LRP cannot be
wrapped (its seed is the relevance v_s y_s): there a contrast is combined from captum's explanation of each class.

captum works by hooks on modules: what a network computes by plain functions is out of its sight, silently.
`reason_against` looks for such functions in the network's traced graph, so that captum is asked for what it can do and
the rest is named.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn

from wcx import bridges
from wcx.errors import WcxError
from wcx.methods import _rescale, layers

try:
    from captum import attr
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
    from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS
    from captum.attr._utils.lrp_rules import EpsilonRule
except ModuleNotFoundError as error:
    raise WcxError(
        "the oracle needs captum: pip install captum; or leave it out, e.g. parts=[stability,mean]."
    ) from error

_TINY = 1e-30  # captum's LRP-0: a stabiliser too small to matter
_EPSILON = 1e-6  # ours, of the composite epsilon
# functions that only move values about
_MOVES = {"flatten", "cat", "getitem", "size", "view", "reshape", "dropout", "contiguous"}
_AFFINE = _MOVES | {"add", "iadd", "adaptive_avg_pool2d", "avg_pool2d", "mean"}
_MOVING_MODULES = (nn.Flatten, nn.Identity)
_AVERAGES = (nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout)
_AFFINE_MODULES = (nn.Conv2d, nn.Linear, *_AVERAGES, *_MOVING_MODULES)


class Probability(nn.Module):
    """x -> p_t of the softmax over `classes`, whose first is t, (N,)."""

    def __init__(self, net: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, x: Tensor) -> Tensor:
        """Return p_t for images x (N, 3, H, W)."""
        logits: Tensor = self.net(x)
        return logits[:, self.classes].softmax(1)[:, 0]


class Captum:
    """captum for one network and image.

    Args:
        net: in eval mode; a `prepared` copy is explained.
        image: (N, 3, H, W) in the network's input space.
        layer: the activation layer's name.
    """

    def __init__(self, net: nn.Module, image: Tensor, layer: str | None) -> None:
        self.net, self.image, self.layer = prepared(net), image, layer
        self._lrp: dict[int, Tensor] = {}

    def original(self, method: str, target: int | Tensor, options: dict[str, Any]) -> Tensor:
        """Return captum's explanation (N, ...) of the logit y_target, an int or (N,)."""
        return self._ask(method, self.net, options, target=target)

    def contrasted(self, method: str, v: Tensor, options: dict[str, Any]) -> Tensor:
        """Return captum's explanation (N, ...) of sum_s v_s y_s, v (N, C); lrp of one image only."""
        if method == "lrp":
            classes = v[0].nonzero()[:, 0].tolist()
            for s in set(classes) - set(self._lrp):
                self._lrp[s] = self.original(method, s, options)
            return sum((v[0, s] * self._lrp[s] for s in classes), start=v.new_zeros(()))
        return self._ask(method, bridges.Contrasted(self.net, v), options)

    def probability(self, method: str, classes: list[int], options: dict[str, Any]) -> Tensor:
        """Return captum's explanation (1, ...) of p_t, t the first of `classes`."""
        return self._ask(method, Probability(self.net, classes), options)

    def _ask(self, method: str, model: nn.Module, options: dict[str, Any], **arguments: Any) -> Tensor:
        x = self.image.clone().requires_grad_()
        with functions_out_of_place(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "(?s)Setting forward, backward hooks and attributes on non-linear.*", UserWarning
            )
            explanation: Tensor = _ASK[method](model, x, self, options, arguments)
        return explanation.detach()

    def activation(self) -> nn.Module:
        """Return the activation layer in the copy of the network."""
        assert self.layer is not None, "methods of activation space have one"
        return layers.resolve(self.net, self.layer)[1]


def _integrated_gradients(
    model: nn.Module, x: Tensor, _of: Captum, options: dict[str, Any], arguments: dict[str, Any]
) -> Any:
    explainer = attr.IntegratedGradients(model)
    steps = {"n_steps": options["steps"], "internal_batch_size": options["batch_size"]}
    rule = options.get("rule", "midpoint").replace("midpoint", "middle")
    return explainer.attribute(x, method=f"riemann_{rule}", **steps, **arguments)


def _deeplift(model: nn.Module, x: Tensor, _of: Captum, options: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """captum 0.9's DeepLIFT, with a copy of its own input for every max pool.

    captum puts the hooks of a ReLU's output and of the pool's input on one tensor, and the first to run keeps the gradient as it
    was before the second applied the pool's rule, which is lost (captum's issue 1104).
    """
    baseline = options.get("baseline", torch.zeros(())).to(x).expand_as(x)
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.MaxPool2d):
                hooks.enter_context(module.register_forward_pre_hook(lambda _module, args: args[0].clone()))
        return attr.DeepLift(model).attribute(x, baselines=baseline, **arguments)


def _lrp(model: nn.Module, x: Tensor, _of: Captum, options: dict[str, Any], arguments: dict[str, Any]) -> Any:
    for module in model.modules():
        if isinstance(module, (*SUPPORTED_LAYERS_WITH_RULES, *_MOVING_MODULES)):
            affine = isinstance(module, _AFFINE_MODULES) and not isinstance(module, _MOVING_MODULES)
            module.rule = EpsilonRule(_EPSILON if affine and options["composite"] == "epsilon" else _TINY)
    return attr.LRP(model).attribute(x, **arguments)


_ASK: dict[str, Callable[..., Any]] = {  # tensors (1, ...); captum has no types
    "gradient": lambda model, x, _of, _options, more: attr.Saliency(model).attribute(x, abs=False, **more),
    "input_x_gradient": lambda model, x, _of, _options, more: attr.InputXGradient(model).attribute(x, **more),
    "integrated_gradients": _integrated_gradients,
    "deeplift": _deeplift,
    "lrp": _lrp,
    "gradcam": lambda model, x, of, _, more: attr.LayerGradCam(model, of.activation()).attribute(x, **more)[:, 0],
    "linear_approximation": lambda model, x, of, _options, more: (
        attr.LayerGradientXActivation(model, of.activation()).attribute(x, **more).sum(1)
    ),
}


def reason_against(method: str, net: nn.Module, options: dict[str, Any]) -> str:
    """Return why captum cannot do this method for this network, or ""."""
    if method not in _ASK:
        return "captum has no such method"
    if options.get("samples"):
        return "captum's SmoothGrad draws noise of its own"
    if method == "lrp":
        if options["composite"] not in ("lrp_0", "epsilon"):
            return "captum has no such rules"
        if options["composite"] == "epsilon" and any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
            return "captum does not merge BatchNorm into convolutions, and stabilises each"
        ruled, allowed = (*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS, *_MOVING_MODULES), _MOVES
    elif method == "deeplift":
        ruled, allowed = (*SUPPORTED_NON_LINEAR, *_AFFINE_MODULES), _AFFINE
    else:
        return ""
    modules, functions = used(net)
    unknown = sorted({type(module).__name__ for module in modules if not isinstance(module, ruled)})
    hidden = sorted(functions - allowed)
    affine_only = _AFFINE_MODULES if method == "deeplift" else ()
    twice = sorted(
        {type(module).__name__ for module, n in modules.items() if n > 1 and not isinstance(module, affine_only)}
    )
    reasons = []
    if unknown:
        reasons.append(f"captum has no rule for {', '.join(unknown)}")
    if hidden:
        reasons.append(f"captum does not see the function {', '.join(hidden)}")
    if twice:
        reasons.append(f"captum allows a module only once: {', '.join(twice)}")
    if method == "deeplift":
        reasons += _against_max_pools(net, [m for m in modules if isinstance(m, nn.MaxPool2d)], options)
    return "; ".join(reasons)


def _against_max_pools(net: nn.Module, pools: list[nn.MaxPool2d], options: dict[str, Any]) -> list[str]:
    if any(max(_pair(pool.kernel_size)) > min(_pair(pool.stride)) for pool in pools):
        return ["captum keeps one share of an input that wins several overlapping windows of a max pool"]
    if pools and "baseline" not in options:
        return ["a constant reference has ties in max pools, which captum leaves to rounding; see the noise reference"]
    if pools and next(net.parameters()).dtype == torch.float32:
        return ["captum leaves near ties in max pools to float32's rounding; see float64"]
    return []


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def used(net: nn.Module) -> tuple[Counter[nn.Module], set[str]]:
    """Return the leaf modules that a forward pass calls, with how often, and the names of plain functions it calls.

    Raises:
        WcxError: the network cannot be traced.
    """
    try:
        graph = fx.symbolic_trace(net)
    except (fx.proxy.TraceError, TypeError) as error:
        raise WcxError(f"{type(net).__name__} cannot be traced by torch.fx: {error}") from error
    modules: Counter[nn.Module] = Counter()
    functions: set[str] = set()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            modules[graph.get_submodule(node.target)] += 1
        elif node.op == "call_function":
            functions.add("getitem" if node.target is operator.getitem else node.target.__name__.strip("_"))
        elif node.op == "call_method":
            functions.add(node.target.strip("_"))
    return modules, functions


def prepared(net: nn.Module) -> nn.Module:
    """Return a copy that captum's hooks work on: where a module writes in place, a hook on a layer sees what is written later."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # torch's stubs know no plain attributes
    return net


def ties_as_captum() -> AbstractContextManager[object]:
    """Let our DeepLIFT settle the max pools' near ties as captum does: by the reference alone.

    Ours asks the image where the reference's largest agree to 1/2048, since rounding would decide; on VGG-16 that is half
    a percent of the explanation.
    """
    return mock.patch.object(_rescale, "_with_tie_break", lambda reference, _image: reference)


def functions_out_of_place() -> AbstractContextManager[object]:
    """Let F.relu ignore inplace=True, which DenseNet and GoogLeNet ask for behind a layer that captum hooks."""
    return mock.patch.object(nn.functional, "relu", lambda x, inplace=False: torch.relu(x))  # noqa: ARG005
