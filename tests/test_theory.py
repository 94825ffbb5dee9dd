"""The paper's theory, in its order: section 3.1, Propositions 1 to 3, section 4's homogeneity, section 5.3; in float64.

Where a statement needs a constant (Prop. 1) or has its limits (Prop. 2 along a path), that is asserted, too.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from wcx import contrasts, methods
from wcx.methods.paths import PathRun

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = [name for name in methods.of_gradients() if methods.get(name).linear]
OPTIONS = {"integrated_gradients": {"steps": 8}, "lrp": {"composite": "lrp_0"}}
INPUT = [name for name in METHODS if methods.get(name).space == "input"]
# On section 3's model and on homogeneous networks these are input x gradient; a method that is added need not be.
AS_INPUT_X_GRADIENT = ["input_x_gradient", "deeplift", "integrated_gradients", "lrp"]
ON_PATHS = ["integrated_gradients"]
POINTWISE = [name for name in METHODS if name not in ON_PATHS]
SHIFTED = (
    "original",
    "counterfactual",
    "finer",
    "clrp",
)  # by what is added to all logits: sums to no zero, or has a factor y_t
FROZEN = [name for name in contrasts.names() if not contrasts.get(name).path_dependent]


def explain(
    model: nn.Module, images: Tensor, target: object, method: str, contrast: object, **options: object
) -> Tensor:
    return wcx.explain(model, images, target, method, contrast, **{**OPTIONS.get(method, {}), **options})


def linear(weight: Tensor) -> nn.Module:
    """Section 3's model y = W^T x, as a network of images (N, 3, 2, 2); weight (C, 12)."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    return nn.Sequential(nn.Flatten(), layer)


def probability(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """p_t of softmax(y), with its graph."""
    return model(images).softmax(1).gather(1, target[:, None])[:, 0]


def slope(model: nn.Module, images: Tensor, target: Tensor, like: Tensor) -> Tensor:
    """p_t (1 - p_t), shaped to multiply explanations."""
    p = probability(model, images, target).detach()
    return (p * (1 - p)).reshape(-1, *[1] * (like.ndim - 1))


@pytest.fixture
def net() -> nn.Module:
    return nets.conv_batchnorm().double()


@pytest.fixture
def images() -> Tensor:
    return nets.images().double()


TARGET = torch.tensor([0, 5, 2])


def test_only_those_methods_walk_a_path(net: nn.Module, images: Tensor) -> None:
    walking = [
        name for name in METHODS if isinstance(wcx.Explainer(net, name, **OPTIONS.get(name, {}))(images), PathRun)
    ]
    assert walking == ON_PATHS


class TestSection31:
    """Adding delta x_i to every class changes neither the prediction nor its mechanism: the explanation must stay."""

    WEIGHT = torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    FEATURE, DELTA = 7, 2.5

    @pytest.fixture
    def pair(self) -> tuple[nn.Module, nn.Module]:
        changed = self.WEIGHT.clone()
        changed[:, self.FEATURE] += self.DELTA
        return linear(self.WEIGHT), linear(changed)

    @pytest.fixture
    def x(self) -> Tensor:
        return nets.images(3, 2).double().abs()

    def test_the_prediction_stays(self, pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
        before, after = pair
        torch.testing.assert_close(after(x) - before(x), self.DELTA * x.flatten(1)[:, self.FEATURE, None].expand(-1, 6))
        torch.testing.assert_close(after(x).softmax(1), before(x).softmax(1))

    @pytest.mark.parametrize("method", INPUT)
    def test_contrasts_stay(self, method: str, pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
        names = [name for name in contrasts.names() if name not in SHIFTED]
        before, after = (explain(model, x, TARGET, method, names) for model in pair)
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("method", AS_INPUT_X_GRADIENT)
    def test_original_shifts_by_delta_x(self, method: str, pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
        """And finer by what its gamma of 0.6 leaves of that."""
        before, after = (explain(model, x, TARGET, method, ["original", "finer"]) for model in pair)
        expected = torch.zeros(2, 3, 12, dtype=torch.float64)
        expected[:, :, self.FEATURE] = self.DELTA * x.flatten(1)[:, self.FEATURE] * expected.new_tensor([[1.0], [0.4]])
        torch.testing.assert_close((after - before).flatten(2), expected, rtol=1e-9, atol=1e-12)


def test_published_methods_are_the_vectors_of_the_table() -> None:
    """Every row of docs/theory.md, to its three digits; the example is p = (8, 4, 2, 1) / 15."""
    y = torch.tensor([[8.0, 4.0, 2.0, 1.0]], dtype=torch.float64).log()
    text = (Path(__file__).parent.parent / "docs/theory.md").read_text(encoding="utf-8")
    table = text.partition("## Published methods as vectors")[2].partition("CASE (2025)")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")][
        1:
    ]
    assert len(rows) == 8
    for _, contrast, _, *stated in rows:
        name, _, foils = contrast.strip("`").partition(" foils=")
        v = wcx.cotangent(y, 0, name, json.loads(foils) if foils else None)[0]
        assert v.tolist() == pytest.approx([float(number) for number in stated], abs=5e-4), name


class TestProposition1:
    """Softmax of two classes, seen through w1 - w2, is the sigmoid's w in gradient descent, at half the learning rate.

    dL/dw1 = -dL/dw2, so w1 - w2 moves twice as fast as w: the paper leaves the constant out.
    """

    def descend(self, rate: float, classes: int, steps: int = 200) -> Tensor:
        """Return w, or w1 - w2, (steps, 5), along full-batch gradient descent."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(64, 5, dtype=torch.float64, generator=generator)
        is_first = (x @ torch.randn(5, dtype=torch.float64, generator=generator) > 0).double()
        start = torch.randn(classes, 5, dtype=torch.float64, generator=generator)
        w = (start if classes == 1 else torch.stack([start[0], torch.zeros(5, dtype=torch.float64)])).requires_grad_()
        seen = []
        for _ in range(steps):
            if classes == 1:
                loss = nn.functional.binary_cross_entropy_with_logits(x @ w[0], is_first)
            else:
                loss = nn.functional.cross_entropy(x @ w.T, (1 - is_first).long())
            (gradient,) = torch.autograd.grad(loss, w)
            w = (w - rate * gradient).detach().requires_grad_()
            seen.append(w[0] - (w[1] if classes == 2 else 0))
        return torch.stack(seen).detach()

    def test_equal_all_along_at_half_the_learning_rate(self) -> None:
        torch.testing.assert_close(self.descend(0.5, classes=2), self.descend(1.0, classes=1), rtol=1e-12, atol=1e-12)

    def test_not_equal_at_the_same_learning_rate(self) -> None:
        softmax, sigmoid = self.descend(1.0, classes=2), self.descend(1.0, classes=1)
        assert float((softmax - sigmoid)[-1].norm() / sigmoid[-1].norm()) > 0.1

    @pytest.mark.parametrize("contrast", ["mean", "max", "weighted"])
    def test_then_the_explanations_are_the_same(self, contrast: str) -> None:
        """Section 3.2: explaining the sigmoid's y is explaining y1 - y2, which each contrast is for two classes."""
        w1, w2 = torch.randn(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        x = nets.images(3, 2).double()
        sigmoid = explain(linear((w1 - w2)[None]), x, 0, "input_x_gradient", "original")
        softmax = explain(linear(torch.stack([w1, w2])), x, 0, "input_x_gradient", contrast)
        torch.testing.assert_close(softmax, sigmoid, rtol=1e-12, atol=1e-14)


class TestProposition2:
    """The weighted contrast is the explanation of p_t, up to the factor p_t (1 - p_t) of each image."""

    def test_gradient_of_p(self, net: nn.Module, images: Tensor) -> None:
        leaf = images.clone().requires_grad_()
        (expected,) = torch.autograd.grad(probability(net, leaf, TARGET).sum(), leaf)
        got = explain(net, images, TARGET, "gradient", "weighted")
        torch.testing.assert_close(slope(net, images, TARGET, got) * got, expected, rtol=1e-10, atol=1e-14)

    def test_gradcam_and_linear_approximation_of_p(self, net: nn.Module, images: Tensor) -> None:
        """Eqs. 3 and 4, with layer 2's activation a and the derivatives of p_t there."""
        with torch.no_grad():
            a = net[:3](images)
        a.requires_grad_()
        head = lambda x: net[3:](x.clone())  # noqa: E731  (the net's ReLU writes in place)
        (g,) = torch.autograd.grad(probability(head, a, TARGET).sum(), a)
        a = a.detach()
        expected = {"gradcam": (g.mean((2, 3), keepdim=True) * a).sum(1), "linear_approximation": (g * a).sum(1)}
        for method, phi in expected.items():
            got = explain(net, images, TARGET, method, "weighted", layer="2")
            torch.testing.assert_close(slope(net, images, TARGET, got) * got, phi, rtol=1e-10, atol=1e-14)

    @pytest.mark.parametrize("method", POINTWISE)
    def test_weighted_and_probability_are_proportional(self, method: str, net: nn.Module, images: Tensor) -> None:
        weighted, of_p = explain(net, images, TARGET, method, ["weighted", "probability"])
        torch.testing.assert_close(slope(net, images, TARGET, weighted) * weighted, of_p, rtol=1e-9, atol=1e-13)

    @pytest.mark.parametrize(
        ("method", "options"), [("integrated_gradients", {}), ("gradient", {"samples": 8, "noise": 0.5})]
    )
    def test_not_along_a_path(self, method: str, options: dict, net: nn.Module, images: Tensor) -> None:
        """Eq. 1 freezes alpha at x; explaining p lets it vary along the path (or the cloud): two contrasts, not one."""
        net[9].weight.data *= 200  # from near even to decided, as trained networks are
        weighted, of_p = explain(net, images, TARGET, method, ["weighted", "probability"], **options)
        cosine = nn.functional.cosine_similarity(weighted.flatten(1), of_p.flatten(1))
        assert bool((cosine < 0.99).all()), cosine

    def test_along_the_path_each_is_complete_in_its_own_sense(self, net: nn.Module, images: Tensor) -> None:
        """IG of p sums to the change of p_t, weighted IG to that of y_t - sum_s alpha_s y_s with alpha frozen at x."""
        start = torch.zeros_like(images)
        weighted, of_p = explain(
            net,
            images,
            TARGET,
            "integrated_gradients",
            ["weighted", "probability"],
            steps=64,
            batch_size=192,
            rule="midpoint",
        ).sum((2, 3, 4))
        change = probability(net, images, TARGET) - probability(net, start, TARGET)
        v = wcx.cotangent(net(images), TARGET, "weighted")
        torch.testing.assert_close(of_p, change.detach(), rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(weighted, (v * (net(images) - net(start))).sum(1).detach(), rtol=1e-2, atol=1e-4)


class TestProposition3:
    """Contrasting at the logits is contrasting at any layer: back-propagation is linear in what is injected."""

    @pytest.mark.parametrize("layer", range(1, 10))
    def test_gradients_contrasted_at_a_layer_and_sent_on(self, layer: int, net: nn.Module, images: Tensor) -> None:
        leaf = images.clone().requires_grad_()
        z = net[:layer](leaf)
        y = net[layer:](z.clone())
        v = wcx.cotangent(y, TARGET, "weighted")
        at_layer = [torch.autograd.grad(y[:, s].sum(), z, retain_graph=True)[0] for s in range(nets.CLASSES)]
        shape = (-1, *[1] * (z.ndim - 1))
        contrasted = sum(v[:, s].reshape(shape) * g for s, g in enumerate(at_layer))
        (sent_on,) = torch.autograd.grad(z, leaf, contrasted)
        expected = explain(net, images, TARGET, "gradient", "weighted")
        torch.testing.assert_close(sent_on, expected, rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize("method", POINTWISE)
    def test_one_pass_is_the_sum_over_classes(self, method: str, net: nn.Module, images: Tensor) -> None:
        phi = torch.stack([explain(net, images, s, method, "original") for s in range(nets.CLASSES)], dim=1)
        got = explain(net, images, TARGET, method, contrasts.names())
        for name, one in zip(contrasts.names(), got, strict=True):
            v = wcx.cotangent(net(images), TARGET, name)
            torch.testing.assert_close(one, torch.einsum("ns,ns...->n...", v, phi), rtol=1e-9, atol=1e-12)


class Tokens(nn.Module):
    """(N, channels, h, w) -> (N, h w, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Mean(nn.Module):
    """Over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class TestSection4:
    """On a ReLU network without biases f(a x) = a f(x), and IG, DeepLIFT, LRP-0 and input x gradient are one."""

    @pytest.fixture
    def net(self) -> nn.Module:
        return nets.bias_free().double()

    def test_the_network_is_homogeneous(self, net: nn.Module, images: Tensor) -> None:
        torch.testing.assert_close(net(0.3 * images), 0.3 * net(images))

    @pytest.mark.parametrize("method", AS_INPUT_X_GRADIENT[1:])
    def test_all_are_input_x_gradient(self, method: str, net: nn.Module, images: Tensor) -> None:
        got, expected = (explain(net, images, TARGET, name, FROZEN) for name in (method, "input_x_gradient"))
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-11)

    def test_ig_needs_a_single_step(self, net: nn.Module, images: Tensor) -> None:
        got = explain(net, images, TARGET, "integrated_gradients", "weighted", steps=1)
        torch.testing.assert_close(
            got, explain(net, images, TARGET, "input_x_gradient", "weighted"), rtol=1e-9, atol=1e-12
        )

    def test_but_not_ig_of_p(self, net: nn.Module, images: Tensor) -> None:
        """The softmax is not homogeneous: alpha varies along the path even here."""
        net[7].weight.data *= 20
        got, other = (
            explain(net, images, TARGET, name, "probability") for name in ("integrated_gradients", "input_x_gradient")
        )
        assert bool((nn.functional.cosine_similarity(got.flatten(1), other.flatten(1)) < 0.99).all())

    @pytest.mark.skipif("lrp" not in METHODS, reason="no lrp yet")
    def test_lrp_0_is_input_x_gradient_with_biases_too(self, images: Tensor) -> None:
        """Section 4, rule-based methods: LRP = IxG in ReLU networks, where a bias absorbs its share of relevance."""
        net = nets.conv_batchnorm().double()
        got, expected = (explain(net, images, TARGET, name, "weighted") for name in ("lrp", "input_x_gradient"))
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-11)


class TestSection4InTransformers:
    """With GELU or LayerNorm f(a x) = a f(x) fails, even without biases, and so do the equalities; ReLU alone is the control."""

    @pytest.fixture(params=["ReLU", "GELU", "LayerNorm"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def net(self, kind: str) -> nn.Module:
        """On tokens, without biases."""
        norm = nn.LayerNorm(8, bias=False) if kind == "LayerNorm" else nn.Identity()
        layers = [nn.Linear(*sizes, bias=False) for sizes in ((8, 16), (16, 16), (16, 6))]
        acts = [nn.GELU() if kind == "GELU" else nn.ReLU() for _ in range(2)]
        stem = nn.Conv2d(3, 8, 2, 2, bias=False)
        net = nn.Sequential(stem, Tokens(), norm, layers[0], acts[0], layers[1], acts[1], Mean(), layers[2])
        generator = torch.Generator().manual_seed(2)
        for layer in (stem, *layers):
            nn.init.normal_(layer.weight, std=0.5, generator=generator)
        return net.double().eval()

    def test_the_network_is_homogeneous_with_relu_alone(self, kind: str, net: nn.Module, images: Tensor) -> None:
        assert torch.allclose(net(0.3 * images), 0.3 * net(images)) == (kind == "ReLU")

    def test_the_methods_are_one_with_relu_alone(self, kind: str, net: nn.Module, images: Tensor) -> None:
        options = {
            "integrated_gradients": {"steps": 64},
            "lrp": {"composite": "attnlrp", "epsilon": 1e-14},
            "input_x_gradient": {},
        }
        maps = {m: wcx.explain(net, images, TARGET, m, "weighted", **o).flatten(1) for m, o in options.items()}
        for pair in itertools.combinations(maps, 2):
            first, second = (maps[method] for method in pair)
            difference = float((first - second).norm() / first.norm())
            assert difference < 1e-9 if kind == "ReLU" else difference > 0.02, pair  # 0.04 and more


class TestSection53:
    """Mean and max lose what weighted keeps."""

    @pytest.fixture
    def top(self, net: nn.Module, images: Tensor) -> Tensor:
        """The three most probable classes of each image, (3, N)."""
        return net(images).topk(3, dim=1).indices.T

    @pytest.mark.parametrize("method", METHODS)
    def test_max_contrasts_of_the_top_two_are_exact_negatives(
        self, method: str, net: nn.Module, images: Tensor, top: Tensor
    ) -> None:
        first, second = explain(net, images, top[:2], method, "max")
        assert torch.equal(first, -second)

    @pytest.mark.parametrize("method", METHODS)
    def test_mean_less_original_is_minus_the_mean_of_the_others(
        self, method: str, net: nn.Module, images: Tensor
    ) -> None:
        original, mean = explain(net, images, TARGET, method, ["original", "mean"])
        phi = torch.stack([explain(net, images, s, method, "original") for s in range(nets.CLASSES)])
        own = nn.functional.one_hot(TARGET, nets.CLASSES).double()
        others = torch.einsum("ns,sn...->n...", (1 - own) / (nets.CLASSES - 1), phi)
        torch.testing.assert_close(mean - original, -others, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("method", POINTWISE)
    def test_weighted_sees_the_third_class(self, method: str, net: nn.Module, images: Tensor, top: Tensor) -> None:
        """Raise the third class alone: max of the first stays bit for bit, weighted turns towards it."""
        last = net[9]
        before = explain(net, images, top[0], method, ["max", "weighted"])
        third = int(top[2, 0])
        last.bias.data[third] += float((net(images)[0, top[1, 0]] - net(images)[0, third]).detach()) * 0.9
        after = explain(net, images, top[0], method, ["max", "weighted"])
        assert torch.equal(after[0, 0], before[0, 0])
        assert not torch.allclose(after[1, 0], before[1, 0], rtol=1e-3)
