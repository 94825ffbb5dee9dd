"""A network cut at the input of a module: what comes before is computed once and kept, what comes behind is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods import layers


@dataclass(eq=False)
class ModuleCall:
    """A module's call in a forward pass; tensors are on the meta device: shapes without values.

    Attributes:
        front: the calls that have ended when this one begins, the outermost ones only.
        around: the calls that it is part of.
    """

    module: nn.Module
    inputs: list[Tensor]
    front: list[ModuleCall]
    around: list[ModuleCall]
    output: Any = None


class Tail(nn.Module):
    """A network from the input of its module `cut` on: the module's inputs (N, ...) -> logits (N, C).

    The network's own forward runs. In it the modules that end before the cut return NaN at once, in the shapes of what they
    returned for `image`, so that whatever else flows past the cut would be seen in the logits. Parameters, buffers and the mode
    are those of the modules behind the cut, shared with the network; the others stay frozen, in eval mode.

    Args:
        model: the network, put into eval mode.
        cut: a module of the inner network, by name; None: where the last block of convolutions begins (`last_block`).
        image: (3, H, W) in [0, 1], on the model's device.

    Raises:
        WcxError: no such module, or one that does not run once with one tensor; other data flow past it.
    """

    def __init__(self, model: Normalized, cut: str | None, image: Tensor) -> None:
        super().__init__()
        self._model = (model.eval(),)  # in a tuple: not a part of this module
        calls = observe(model, image)
        module = layers.resolve(model, cut, image[None])[1] if cut else last_block(calls)
        self.cut = next(name for name, other in layers.modules(model).items() if other is module)
        runs = [call for call in calls if call.module is module]
        if len(runs) != 1 or len(runs[0].inputs) != 1:
            why = f"runs {len(runs)} times" if len(runs) != 1 else f"takes {len(runs[0].inputs)} tensors"
            raise WcxError(
                f"recipe.cut={self.cut} {why} in a forward pass, expected once and one; name another module."
            )
        self._module, self._call = (module,), runs[0]
        self._dense = False
        frozen = set(chain.from_iterable(call.module.modules() for call in self._call.front))
        self._around = [m for m in model.model.modules() if m not in frozen and not frozen.isdisjoint(m.modules())]
        self._around += [call.module for call in self._call.around if call.module not in self._around]
        self.behind = nn.ModuleList(_outermost(model.model, frozen.union(self._around)))
        if not [*self.behind.parameters()]:
            raise WcxError(f"recipe.cut={self.cut} has no weights behind it to train; name a module further in front.")
        loose = list(chain.from_iterable(m.parameters(recurse=False) for m in self._around))
        self.loose = nn.ParameterList(self._check(model, image[None], loose))

    @property
    def front(self) -> dict[str, Tensor]:
        """The parameters and buffers that the inputs of the cut may depend on, by their names in the inner network."""
        trained = {id(tensor) for tensor in chain(self.parameters(), self.buffers())}
        state = self._model[0].model.state_dict(keep_vars=True)
        return {key: value.detach() for key, value in state.items() if id(value) not in trained}

    @torch.no_grad()
    def inputs_of(self, pixels: Tensor) -> Tensor:
        """Return the inputs (N, ...) of the cut for pixels (N, 3, H, W) in [0, 1], running nothing behind it."""

        def stop(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            raise _Reached(arguments[0])

        try:
            with self._module[0].register_forward_pre_hook(stop):
                self._model[0](pixels)
        except _Reached as reached:
            return reached.inputs
        raise WcxError(f"recipe.cut={self.cut} does not run for every image; name another module.")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, C) for inputs of the cut (N, ...), which take the parameters' dtype."""
        inputs = inputs.to(next(self.parameters()).dtype)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)  # faster
        with self._passed_over(inputs), self._module[0].register_forward_pre_hook(lambda *_: (inputs,)):
            return self._model[0](self._nothing(self._image, inputs))

    def train(self, mode: bool = True) -> Tail:
        """Set the mode of what is behind the cut, and of the modules that it is in (they may call functions)."""
        super().train(mode)
        for module in self._around:
            module.training = mode
        return self

    def _check(self, model: Normalized, images: Tensor, loose: list[nn.Parameter]) -> list[nn.Parameter]:
        """Compare with the whole network; return those of the parameters that the logits depend on behind the cut."""
        self._image = images.to("meta")
        loose = [parameter for parameter in loose if parameter.requires_grad]
        with torch.no_grad():
            inputs, expected = self.inputs_of(images).clone(), model(images)
        for self._dense in (False, True):  # dense: for a network that writes into what a module before the cut returned
            with suppress(RuntimeError), torch.enable_grad():
                logits = self(inputs)
                gradients = torch.autograd.grad(logits.sum(), loose, allow_unused=True) if loose else ()
                # float32, rounded anew
                if torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
                    return [p for p, gradient in zip(loose, gradients, strict=True) if gradient is not None]
        names = {module: name for name, module in layers.modules(model).items()}
        around = ", ".join(names[call.module] for call in self._call.around[::-1])
        raise WcxError(
            f"recipe.cut={self.cut}: other data flow past it to the logits (is it inside a residual block?); cut at a module "
            f"around it ({around or 'there is none'}) or at the next block."
        )

    @contextmanager
    def _passed_over(self, inputs: Tensor) -> Iterator[None]:
        """Let the modules before the cut return NaN for as many calls as they have there."""
        outputs: dict[nn.Module, list[object]] = {}
        for call in self._call.front:
            outputs.setdefault(call.module, []).append(call.output)
        with layers.replaced({m: self._stand_in(m.forward, iter(shapes), inputs) for m, shapes in outputs.items()}):
            yield

    def _stand_in(self, forward: Callable[..., Any], shapes: Iterator[object], inputs: Tensor) -> Callable[..., Any]:
        done = object()

        def stand_in(*arguments: Any, **keywords: Any) -> Any:
            shape = next(shapes, done)
            return forward(*arguments, **keywords) if shape is done else self._nothing(shape, inputs)

        return stand_in

    def _nothing(self, shapes: Any, inputs: Tensor) -> Any:
        """Return NaN in the shapes seen for one image, for as many images as there are inputs."""
        images = len(inputs) // len(self._call.inputs[0])

        def nothing(shape: Any) -> Any:
            if not isinstance(shape, Tensor):
                return shape
            size = (images * shape.shape[0], *shape.shape[1:]) if shape.ndim else ()
            fill = math.nan if shape.is_floating_point() else 0
            value = torch.full(size if self._dense else (), fill, dtype=shape.dtype, device=inputs.device)
            return value if self._dense else value.expand(size)

        return tree_map(nothing, shapes)


def observe(model: Normalized, image: Tensor) -> list[ModuleCall]:
    """Return the calls of the inner network's modules in a forward pass of an image (3, H, W), in the order of their beginning."""
    calls: list[ModuleCall] = []
    under_way: list[ModuleCall] = []
    ended: list[list[ModuleCall]] = [[]]  # in the network itself and in each call under way

    def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        inputs = [t for t in tree_leaves(_meta((arguments, keywords))) if isinstance(t, Tensor)]
        calls.append(ModuleCall(module, inputs, list(chain.from_iterable(ended)), list(under_way)))
        under_way.append(calls[-1])
        ended.append([])

    def after(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        ended.pop()
        call = under_way.pop()
        call.output = _meta(output)
        ended[-1].append(call)

    with ExitStack() as stack, torch.no_grad():
        for module in layers.modules(model).values():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
                stack.enter_context(module.register_forward_hook(after))
        model(image[None])
    return calls


def last_block(calls: list[ModuleCall]) -> nn.Module:
    """Return the first module with weights whose map has the size of the last one, its input being at most twice as large.

    VGG-16: features.24 (block 5); AlexNet: features.6; ResNets: layer4; MobileNetV2: features.14.

    Raises:
        WcxError: the network has no such maps.
    """
    maps = [c for c in calls if _side(c.output) > 1 and len(c.inputs) == 1 and [*c.module.parameters()]]
    for call in maps:
        if _side(call.output) == _side(maps[-1].output) and 0 < _side(call.inputs[0]) <= 2 * _side(call.output):
            return call.module
    raise WcxError("the network has no block of convolutions to train: recipe.cut=<module> says from where on.")


def _side(output: object) -> int:
    """Return the width of a map (N, channels, h, w), 0 for anything else."""
    return output.shape[-1] if isinstance(output, Tensor) and output.ndim == 4 else 0


def _outermost(net: nn.Module, without: set[nn.Module]) -> list[nn.Module]:
    """Return the modules that are neither among `without` nor inside another that is returned."""
    covered, chosen = set(without), []
    for module in net.modules():
        if module not in covered:
            chosen.append(module)
            covered.update(module.modules())
    return chosen


def _meta(values: Any) -> Any:
    return tree_map(lambda value: value.detach().to("meta") if isinstance(value, Tensor) else value, values)


class _Reached(Exception):  # noqa: N818  (it ends a pass that has done its work)
    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs
