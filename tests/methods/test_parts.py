"""Methods that ask for several cotangents of one run, against their formulas, one image and one class at a time; and the ReLU."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from wcx import contrasts, methods
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking, Settings
from wcx.methods import _parts

pytestmark = pytest.mark.usefixtures("one_thread")

SIGNED = ("gradcam", "xgradcam", "linear_approximation", "case")  # the others may have no negative values of their own
LAYER, TARGETS, FOILS = "3", [0, 5, 2], [[1, 3], [0, 4], [3, 5]]


@pytest.fixture
def net() -> nn.Sequential:
    return nets.bias_free().double()


@pytest.fixture
def images() -> Tensor:
    return nets.images(3).double()


def gradients(net: nn.Sequential, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the activation (k, h, w), dy_s/da of each class s (C, k, h, w), and y (C,)."""
    with torch.no_grad():
        a = net[:4](image[None])
    a.requires_grad_()
    y = net[4:](a)[0]
    g = torch.stack([torch.autograd.grad(y[s], a, retain_graph=True)[0][0] for s in range(len(y))])
    return a[0].detach(), g, y.detach()


def case(a: Tensor, g: Tensor, t: int, foils: list[int]) -> Tensor:
    """GradCAM of t, whose weights are orthogonal to the mean of the foils' weights."""
    w = g.mean((2, 3))
    w_f = torch.stack([w[s] for s in foils]).mean(0)
    orthogonal = w[t] - (w[t] @ w_f) / (w_f @ w_f) * w_f
    assert abs(float(orthogonal @ w_f)) < 1e-14
    return torch.stack([orthogonal[k] * a[k] for k in range(len(a))]).sum(0)


def scout(a: Tensor, g: Tensor, t: int, foil: int, y: Tensor) -> Tensor:
    p = y.softmax(0)
    c = int(y.argmax())
    g_c = sum(p[c] * (float(s == c) - p[s]) * g[s] for s in range(len(y)))
    a_t, a_q = ((a * g[s]).sum(0).clamp(min=0) for s in (t, foil))
    return a_t * (a_q.max() - a_q) * (a * g_c.clamp(min=0)).sum(0).clamp(min=0)


def test_case_by_its_formula(net: nn.Sequential, images: Tensor) -> None:
    got = wcx.explain(net, images, TARGETS, "case", "mean", torch.tensor(FOILS), LAYER)
    for image, t, foils, phi in zip(images, TARGETS, FOILS, got, strict=True):
        a, g, _ = gradients(net, image)
        torch.testing.assert_close(phi, case(a, g, t, foils), rtol=1e-10, atol=1e-14)


def test_case_has_the_foils_of_the_confusion_as_published(net: nn.Sequential, images: Tensor) -> None:
    confusion = torch.rand(nets.CLASSES, nets.CLASSES, generator=torch.Generator().manual_seed(1))
    got = wcx.explain(net, images, TARGETS, "case", "mean", contrasts.Confused(3, confusion), LAYER, relu=True)
    for image, t, phi in zip(images, TARGETS, got, strict=True):
        a, g, _ = gradients(net, image)
        foils = sorted((s for s in range(nets.CLASSES) if s != t), key=lambda s: -float(confusion[t, s]))[:3]
        torch.testing.assert_close(phi, case(a, g, t, foils).clamp(min=0), rtol=1e-10, atol=1e-14)


def test_where_nothing_is_opposed_the_five_most_probable_others_are(net: nn.Sequential, images: Tensor) -> None:
    got = wcx.explain(net, images, TARGETS, "case", "original", layer=LAYER)
    for image, t, phi in zip(images, TARGETS, got, strict=True):
        a, g, y = gradients(net, image)
        foils = sorted((s for s in range(nets.CLASSES) if s != t), key=lambda s: -float(y[s]))[:5]
        torch.testing.assert_close(phi, case(a, g, t, foils), rtol=1e-10, atol=1e-14)


def test_scout_by_its_formula(net: nn.Sequential, images: Tensor) -> None:
    foils = torch.tensor(FOILS)[:, :1]
    got = wcx.explain(net, images, TARGETS, "scout", "max", foils, LAYER)
    for image, t, foil, phi in zip(images, TARGETS, foils[:, 0].tolist(), got, strict=True):
        a, g, y = gradients(net, image)
        torch.testing.assert_close(phi, scout(a, g, t, foil, y), rtol=1e-10, atol=1e-16)
    assert bool((got >= 0).all())
    assert bool((got > 0).any())


def test_case_that_is_asked_against_foils_without_weights_is_gradcam(images: Tensor) -> None:
    """0 / 0 takes nothing away."""
    net = nets.bias_free().double()
    with torch.no_grad():
        net[-1].weight[1:] = 0
    maps = [wcx.explain(net, images, 0, method, contrast, [1, 2], LAYER) for method, contrast in _CASES]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0)


_CASES = [("case", "mean"), ("gradcam", "original")]


@pytest.mark.parametrize("name", [n for n in methods.names(transformers=False) if methods.get(n).space == "activation"])
def test_a_relu_clips_what_is_combined(name: str, net: nn.Sequential, images: Tensor) -> None:
    signed = wcx.explain(net, images, TARGETS, name, ["original", "max"], layer=LAYER)
    clipped = wcx.explain(net, images, TARGETS, name, ["original", "max"], layer=LAYER, relu=True)
    assert torch.equal(clipped, signed.clamp(min=0))
    assert name not in SIGNED or bool((signed < 0).any())
    assert methods.create(name).linear == methods.get(name).linear
    assert not methods.create(name, relu=True).linear


def test_an_experiment_plans_the_passes_that_it_does(images: Tensor) -> None:
    net = nets.conv_batchnorm()
    names = {"case": ["mean", "max"], "scout": ["max"], "gradcam": ["original"]}
    cells = [Cell(name, contrast) for name, chosen in names.items() for contrast in chosen]
    subject = Subject(net, None, {name: methods.create(name) for name in names})
    masking = Masking(subject, cells, Settings(select="all", baselines=("zeros",), baseline_space="pixel"))
    masking.rows([Item(i, str(i), 0, image) for i, image in enumerate(images.float())])
    assert {kind: 3 * masking.passes()[kind] for kind in ("forward", "backward")} == {
        kind: subject.passes[kind] for kind in ("forward", "backward")
    }
    assert subject.passes["backward"] == 3 * 2 * (
        2 + 3 + 1
    )  # images, targets; mean: 2 parts, max: 3 shared, original: 1


def test_parts_are_those_of_the_cotangent() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2]])
    v = torch.tensor([[[1.0, -0.25, 0, 0, 0, 0, -0.75]], [[0, 1.0, 0, 0, 0, 0, 0]]])
    assert torch.equal(_parts.favoured(v, logits), torch.tensor([[[1.0, 0, 0, 0, 0, 0, 0]], [[0, 1.0, 0, 0, 0, 0, 0]]]))
    fifths = [0.2, 0, 0.2, 0.2, 0.2, 0.2, 0]
    assert torch.equal(_parts.opposed(v, logits), torch.tensor([[[0, 0.25, 0, 0, 0, 0, 0.75]], [fifths]]))
    leaf = logits.double().requires_grad_()
    leaf.softmax(1).max().backward()
    assert leaf.grad is not None
    score = _parts.confidence(v, logits)
    torch.testing.assert_close(score, leaf.grad.float().expand_as(v), rtol=1e-6, atol=0)


def test_methods_share_the_passes_of_the_parts_they_share(net: nn.Sequential, images: Tensor) -> None:
    """Counted at the layer: whole once for two linear methods, favoured and opposed once for CASE and SCOUT, one confidence."""
    names = ("gradcam", "linear_approximation", "case", "scout")
    subject = Subject(net, LAYER, {name: methods.create(name) for name in names})
    counted: Counter[str] = Counter()
    net[4].register_full_backward_hook(lambda *_: counted.update(["backward"]))
    look = subject.look(images)
    targets = contrasts.most_probable(look.logits, 2)
    cells = [Cell(name, contrast) for name in names for contrast in ("mean", "max")]
    maps = look.maps(cells, targets, contrasts.foil_masks(look.logits, targets))
    assert counted["backward"] == 2 * 2 * (1 + 2 + 1)  # targets, contrasts, parts: passes of a batch
    assert subject.passes == {"forward": 3, "backward": 3 * counted["backward"]}  # images
    for cell in cells:
        alone = wcx.explain(net, images, targets, cell.method, cell.contrast, layer=LAYER)
        assert torch.equal(maps[cell], alone)
