"""Layer-wise relevance propagation (Bach et al. 2015; Wang & Wang 2022, section 4), by the rules of zennit (Anders et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wcx.errors import WcxError, choose, import_extra
from wcx.methods import _reference
from wcx.methods._attention import Attention
from wcx.methods._box import Box
from wcx.methods._relevance import Propagation, Rules, UnruledError
from wcx.methods._shares import Ledger
from wcx.methods.base import Method, Run, as_images, evaluated, forward, say, vjp

COMPOSITES = ("lrp_0", "epsilon", "epsilon_plus", "z_plus", "epsilon_gamma_box", "attnlrp", "cp_lrp")
DEFAULT = "epsilon_plus"
SEEDS = ("logits", "relevance")

Colour = float | Sequence[float] | Tensor


class LRP(Method):
    """Relevance r_s = v_s y_s at each logit, handed down layer by layer to the pixels.

    What the explanation sums to is sum_s r_s less what biases and stabilisers keep (`run.absorbed`). BatchNorm is merged into
    the layer before it; a function without a rule is an error that names it.

    With seed relevance v itself is r, as CLRP (Gu et al. 2018; contrast `clrp`, with relu) and SGLRP (Iwana et al. 2019; contrast
    `probability`) have it, by the z+ rule in all layers (composite z_plus).

    Args:
        composite: which rule for which layer. ``lrp_0``: z-rule everywhere, 0/0 := 0 (on a ReLU net the same as input x
            gradient); ``epsilon``: the epsilon rule everywhere; ``epsilon_plus``: z+ for convolutions, epsilon for all else;
            ``z_plus``: z+ for convolutions and linear layers, epsilon for all else;
            ``epsilon_gamma_box``: the box rule for the first convolution, gamma for the others, epsilon for all else;
            ``attnlrp``: epsilon, and AttnLRP's rules for what transformers call (wcx/methods/_attention.py), with gates;
            ``cp_lrp``: the same with constant attention probabilities. A transformer under the default, epsilon_plus, is explained
            by attnlrp, and a line says so; `run.composite` has what was taken.
        epsilon: of the epsilon rule, added to the denominator's absolute value (all composites but lrp_0).
        gamma: of the gamma rule.
        low, high: the box of the first convolution in the model's input space: a number, one a channel, or a tensor that
            broadcasts to an image; by default black and white, [0, 1] pixels, which are normalised by ImageNet's mean and std
            unless the model is a `wcx.models.Normalized`.
        seed: r: ``logits``, v_s y_s, or ``relevance``, v_s.
        relu: negative values become 0, as CLRP's do; then the explanation is not linear in v.
    """

    space = "input"
    version = 3  # 2: BatchNorm and box by what feeds what; 3: under autocast, the sums that the network computed
    younger: ClassVar = {"seed": "logits", "relu": False}

    def __init__(
        self,
        composite: str = DEFAULT,
        epsilon: float = 1e-6,
        gamma: float = 0.25,
        low: Colour | None = None,
        high: Colour | None = None,
        seed: str = "logits",
        relu: bool = False,
    ) -> None:
        _zennit()
        self.composite = choose("composite", composite, COMPOSITES)
        if not epsilon > 0 or gamma < 0:
            raise WcxError(
                f"epsilon = {epsilon}, gamma = {gamma}: give epsilon > 0 (or composite lrp_0) and gamma >= 0."
            )
        self.epsilon, self.gamma, self.low, self.high = epsilon, gamma, low, high
        self.seed, self.relu, self.linear = choose("seed", seed, SEEDS), relu, not relu
        if seed == "relevance" and composite != "z_plus":
            raise WcxError(
                f"lrp: seed=relevance with composite={composite}, whose rule for the classifier divides every class's relevance "
                "by its logit, which may be 0; give composite=z_plus, as CLRP and SGLRP have it."
            )

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> LRPRun:
        """See `Method.run`; `layer` plays no part.

        Raises:
            WcxError: the network calls a function that has no rule; the message names it.
        """
        return self._fitting(model, as_images(images))

    def settled(self, model: nn.Module, images: Tensor) -> dict[str, object]:
        """See `Method.settled`: the composite, where the default has no rules for the network.

        Which functions a network calls shows in a pass of no image, too, which costs no arithmetic; a network that takes no empty
        batch gets one image.
        """
        if self.composite != DEFAULT:
            return {}
        images = as_images(images)
        try:
            run = self._fitting(model, images[:0])
        except (UnruledError, torch.OutOfMemoryError):
            raise
        except Exception:
            run = self._fitting(model, images[:1])
        return {"composite": run.composite}

    def _fitting(self, model: nn.Module, images: Tensor) -> LRPRun:
        """Return the run of the composite, or that of attnlrp where the default has no rules for the network."""
        try:
            return self._run(model, images, self.composite)
        except UnruledError as error:
            if self.composite != DEFAULT or not error.attnlrp:
                raise
            run = self._run(model, images, "attnlrp")
            if not run.attends:  # a convolutional network with gates is refused, as it always was
                raise
            say(f"lrp: composite {DEFAULT} has no rules for transformers; this one is explained by composite attnlrp.")
            return run

    def _run(self, model: nn.Module, images: Tensor, composite: str) -> LRPRun:
        rules = self._rules(model, images, composite)
        return LRPRun(model, images, rules, composite, self.seed, relu=self.relu)

    def _rules(self, model: nn.Module, images: Tensor, composite: str) -> Rules:
        zennit = _zennit()
        stabilised = _or_infinite if composite == "lrp_0" else partial(_away_from_0, epsilon=self.epsilon)
        rule = zennit.Epsilon(epsilon=stabilised)
        if composite in ("attnlrp", "cp_lrp"):
            return Rules(rule, rule, rule, attention=Attention(stabilised, constant=composite == "cp_lrp"))
        if composite in ("lrp_0", "epsilon"):
            return Rules(rule, rule, rule)
        if composite == "epsilon_gamma_box":
            gamma = zennit.Gamma(gamma=self.gamma, stabilizer=_away_from_0)
            return Rules(gamma, rule, rule, box=self._box(model, images))
        plus = zennit.ZPlus(stabilizer=_away_from_0)
        return Rules(plus, plus if composite == "z_plus" else rule, rule)

    def _box(self, model: nn.Module, images: Tensor) -> Box:
        ends = (
            _reference.of_pixels(model, images, default, "low and high") if colour is None else colour
            for colour, default in ((self.low, 0.0), (self.high, 1.0))
        )
        low, high = (_as_image(end, images).expand_as(images) for end in ends)
        if bool((low > high).any()):
            ends = ", ".join(f"{key} = {colour!r}" for key, colour in (("low", self.low), ("high", self.high)))
            raise WcxError(
                f"lrp: {ends}: the box's low end is above its high one; give low <= high in every channel, in the model's input "
                "space, or leave both out (black and white pixels)."
            )
        return Box(low, high)


class LRPRun(Run):
    """One forward pass of images (N, channels, H, W), under the rules; for seed and relu see `LRP`.

    `explain` raises a WcxError where relevance is lost or made without a rule.

    Attributes:
        composite: whose rules these are.
        attends: whether they met attention or a LayerNorm.
        absorbed: relevance that biases and stabilisers kept in the last explanation, (N,) or (K, N), float64: sum_s r_s
            minus the explanation's sum (before a ReLU), as the rules counted it in their precision. None before the first.
        residual: by how much the two differ, rounding alone: the explanation's sum plus `absorbed` minus sum_s r_s.
    """

    forward = False
    absorbed: Tensor | None = None
    residual: Tensor | None = None

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        rules: Rules,
        composite: str,
        seed: str = "logits",
        *,
        relu: bool = False,
    ) -> None:
        self.composite = composite
        self._ledger, self._seed, self._relu = Ledger(), seed, relu
        with evaluated(model) as state:
            leaf = images.clone().requires_grad_()
            propagation = Propagation(rules, self._ledger, leaf)
            logits = forward(model, leaf, propagation)
            if rules.box is not None:
                rules.box.close(model)
            super().__init__(state, logits)
        self._graph, self.attends = (logits, leaf), propagation.attends
        # Outside the rules relevance is only moved and added up: half of the digits is a generous bound on its rounding.
        self._tolerance = max(propagation.eps, torch.finfo(logits.dtype).eps) ** 0.5

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        with torch.no_grad():  # the rules run the layers again, with gradients
            explained = [self._propagate(seed) for seed in (v if self._seed == "relevance" else v * self.logits)]
        maps, absorbed, residual = (torch.stack(parts) for parts in zip(*explained, strict=True))
        self.absorbed, self.residual = self._unstack(absorbed), self._unstack(residual)
        return maps.clamp(min=0) if self._relu else maps

    def _propagate(self, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the relevance of the image for relevance `seed` (N, C) at the logits, with what was absorbed and the residual."""
        self._ledger.open(seed)
        relevance = vjp(*self._graph, seed[None])[0]
        absorbed = self._ledger.absorbed
        residual = relevance.double().sum((1, 2, 3)) + absorbed - seed.double().sum(1)
        if not bool((residual.abs() <= self._tolerance * self._ledger.size).all()):
            raise WcxError(
                f"lrp: relevance is not conserved, by {float(residual.abs().max()):.1e} of {float(self._ledger.size.max()):.1e}: a "
                "part of the network runs out of sight (TorchScript, a custom autograd function, detached or random values); "
                "use integrated_gradients."
            )
        return relevance, absorbed, residual


def _zennit() -> Any:
    """Return the rules of zennit."""
    return import_extra("zennit.rules", "method lrp", "lrp")


def _away_from_0(z: Tensor, epsilon: float = 1e-6) -> Tensor:
    """zennit's stabiliser, z + epsilon for z >= 0 and z - epsilon below, to the bit and in less than half of its time."""
    return torch.full_like(z, epsilon).copysign_(z + 0.0).add_(z)  # -0.0 + 0.0 is 0.0


def _or_infinite(z: Tensor) -> Tensor:
    """A stabiliser under which 0/0 is 0."""
    return z.masked_fill(z == 0, torch.inf)


def _as_image(colour: Colour, images: Tensor) -> Tensor:
    value = torch.as_tensor(colour).to(images)
    value = value.view(-1, 1, 1) if value.ndim == 1 else value
    try:
        return value.expand(images.shape[1:])
    except RuntimeError as error:
        raise WcxError(
            f"low or high of shape {tuple(value.shape)} does not fit images {tuple(images.shape)}."
        ) from error
