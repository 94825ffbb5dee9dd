"""Occlusion and RISE against captum and against loops over masks and classes; their passes, counted."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from captum.attr import Occlusion
from torch import Tensor, nn

import wcx
from tests import nets
from wcx import contrasts, methods
from wcx.errors import WcxError
from wcx.experiments import Cell, Subject, get
from wcx.experiments.base import check_method
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking, Settings
from wcx.images import Normalized

pytestmark = pytest.mark.usefixtures("one_thread")

TARGETS = torch.tensor([0, 5, 2])
OPTIONS = {
    "occlusion": {"window": 5 * 14, "stride": 3 * 14},
    "rise": {"samples": 20, "grid": 3, "seed": 4},
}  # of 16 pixels: 5, 3


@pytest.fixture
def net() -> nn.Module:
    return nets.conv_batchnorm().double().eval()


@pytest.fixture
def images() -> Tensor:
    return nets.images(3).double()  # 16 pixels


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected.detach()).norm() / got.norm())


def odds(y: Tensor, t: int, foils: list[int]) -> Tensor:
    return y[t] - torch.stack([y[s] for s in foils]).logsumexp(0)


@pytest.mark.parametrize("contrast", ["original", "weighted", "clrp"])
def test_occlusion_is_captums_of_v_y(contrast: str, net: nn.Module, images: Tensor) -> None:
    v = wcx.cotangent(net(images), TARGETS, contrast)
    captum = Occlusion(lambda x, v: (net(x) * v).sum(1))
    expected = captum.attribute(
        images, sliding_window_shapes=(3, 5, 5), strides=(3, 3, 3), baselines=0, additional_forward_args=v
    )
    got = wcx.explain(net, images, TARGETS, "occlusion", contrast, **OPTIONS["occlusion"])
    assert got.shape == images.shape
    assert error(got.sum(1), expected[:, 0]) < 1e-6  # captum adds up in float32


def test_occlusion_of_the_log_odds_is_captums_of_them(net: nn.Module, images: Tensor) -> None:
    foils = torch.tensor([[1, 3], [0, 4], [3, 5]])

    def value(x: Tensor) -> Tensor:
        rows = zip(net(x), TARGETS.tolist(), foils.tolist(), strict=True)
        return torch.stack([odds(y, t, of_t) for y, t, of_t in rows])

    expected = Occlusion(value).attribute(images, sliding_window_shapes=(3, 5, 5), strides=(3, 3, 3), baselines=0)
    options = OPTIONS["occlusion"]
    run = wcx.Explainer(net, "occlusion", **options)(images)
    v = wcx.cotangent(run.logits, TARGETS, "mean", foils)
    assert error(run.log_odds(v).sum(1), expected[:, 0]) < 1e-6
    asked = wcx.explain(net, images, TARGETS, "occlusion", "mean", foils, value="log_odds", **options)
    torch.testing.assert_close(asked, run.log_odds(v), rtol=0, atol=0)
    every = wcx.explain(net, images, TARGETS, "occlusion", ["original", "mean"], value="log_odds", **options)
    torch.testing.assert_close(every[0], every[1], rtol=0, atol=0)  # of no foils: all other classes


def test_rise_by_a_loop_over_its_masks(net: nn.Module, images: Tensor) -> None:
    """What a mask is, is looked at below; here each is applied to each image, and every class is a pass of its own."""
    options = OPTIONS["rise"]
    method = methods.create("rise", **options)
    assert isinstance(method, methods.get("rise"))
    masks = method.masks(range(20), 16, 16)
    v = wcx.cotangent(net(images), TARGETS, "weighted")
    expected = torch.zeros(3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        for i, image in enumerate(images):
            for mask in masks:
                y = net((image * mask)[None])[0]
                expected[i] += sum(float(v[i, s] * y[s]) for s in range(len(y))) * mask / (20 * 0.5)
    got = wcx.explain(net, images, TARGETS, "rise", "weighted", **options)
    torch.testing.assert_close(got.sum(1), expected, rtol=1e-10, atol=1e-12)


def test_rises_masks_are_moved_grids() -> None:
    """In [0, 1], half kept on average, the same for a part of the numbers as for all, and others with another seed."""
    rise = methods.create("rise", samples=400, seed=1)
    masks = rise.masks(range(400), 32, 48)
    assert masks.shape == (400, 32, 48)
    assert 0 <= float(masks.min()) < 0.01 < 0.99 < float(masks.max()) <= 1 + 1e-15  # rounding of an interpolation
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.01)  # 49 cells of 400 masks: 3 standard errors
    assert torch.equal(rise.masks(range(7, 9), 32, 48), masks[7:9])
    assert not torch.equal(methods.create("rise", seed=2).masks(range(1), 32, 48), masks[:1])
    assert float((masks[:, 1:] - masks[:, :-1]).abs().max()) <= 1 / 5 + 1e-12  # bilinear: a cell has 5 rows
    assert len({float(mask[0, 0]) for mask in masks}) > 10, "moved by parts of a cell"


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_all_contrasts_come_from_the_same_forward_passes_and_none_goes_backward(method: str, images: Tensor) -> None:
    model, counts = nets.conv_batchnorm().double(), Counter[str]()
    model.register_forward_hook(lambda _module, args, _output: counts.update(forward=len(args[0])))
    model[0].register_full_backward_hook(lambda *_: counts.update(backward=1))
    explainer = wcx.Explainer(model, method, **OPTIONS[method])
    run = explainer(images)
    assert counts == {"forward": 3}, "only the images themselves, before something is asked for"
    versions = 3 * (1 + explainer.method.count(16, 16))
    names = contrasts.names()
    maps = run.explain(torch.stack([wcx.cotangent(run.logits, TARGETS, name) for name in names]))
    run.explain(wcx.cotangent(run.logits, 1))
    run.log_odds(wcx.cotangent(run.logits, TARGETS, "mean"))
    assert counts == {"forward": 3 + versions}
    assert run.versions == versions
    phi = torch.stack(
        [run.explain(torch.eye(nets.CLASSES, dtype=torch.float64)[s].expand(3, -1)) for s in range(nets.CLASSES)]
    )
    for name, got in zip(names, maps, strict=True):  # linear in v
        v = wcx.cotangent(run.logits, TARGETS, name)
        torch.testing.assert_close(got, torch.einsum("ns,sn...->n...", v, phi), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_it_does_not_depend_on_how_many_go_at_once(method: str, net: nn.Module, images: Tensor) -> None:
    maps = [wcx.explain(net, images, TARGETS, method, batch_size=size, **OPTIONS[method]) for size in (1, 7, 1000)]
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(maps[2], maps[0], rtol=1e-11, atol=1e-13)
    alone = wcx.explain(net, images[1:2], 5, method, **OPTIONS[method])
    torch.testing.assert_close(alone, maps[0][1:2], rtol=1e-11, atol=1e-13)


def test_hidden_pixels_become_the_mean_colour_of_a_normalised_model() -> None:
    """A window of the whole image: g(x) - g(the mean colour), at every pixel; black is another."""
    model, pixels = Normalized(nets.conv_batchnorm()).double().eval(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        y, mean, black = (model(x)[:, 1] for x in (pixels, model.mean.expand_as(pixels), torch.zeros_like(pixels)))
    for space, other in (("normalized", mean), ("pixel", black)):
        got = wcx.explain(model, pixels, 1, "occlusion", "original", window=224, stride=224, space=space)
        expected = (y - other)[:, None, None].expand(-1, 16, 16)
        torch.testing.assert_close(got.sum(1), expected, rtol=1e-10, atol=1e-12)


def test_in_an_experiment_the_versions_go_through_the_evaluation_and_are_planned() -> None:
    """Masking with two contrasts and two targets: one set of versions an image, through the network's copy, no backward pass."""
    through: Counter[str] = Counter()
    windows = {"window": 56, "stride": 28}  # of 4 pixels, 2 apart: 7 x 7, as many as at side 224
    model = Normalized(nets.conv_batchnorm()).eval()
    subject = Subject(model, None, {"occlusion": methods.create("occlusion", **windows)})
    call = subject.evaluation.logits

    class Evaluation(type(subject.evaluation)):  # type: ignore[misc]
        def logits(self, pixels: Tensor) -> Tensor:
            through["versions"] += len(pixels)
            return call(pixels)

    subject.evaluation = Evaluation(model)
    cells = [Cell("occlusion", "original"), Cell("occlusion", "weighted")]
    masking = Masking(subject, cells, Settings(select="all", baselines=("zeros",)))
    items = [Item(i, str(i), 0, torch.rand(3, 16, 16)) for i in range(2)]
    rows = masking.rows(items)
    assert through["versions"] == subject.passes["versions"] == 2 * masking.passes()["versions"] == 2 * (1 + 7 * 7)
    assert subject.passes["backward"] == masking.passes()["backward"] == 0
    assert subject.passes["forward"] == 2
    assert "about 200" in str(masking.plan(items, 4)["versions_passes"])
    with torch.no_grad():
        pixels = torch.stack([item.pixels for item in items if item.pixels is not None])
        targets = contrasts.most_probable(model(pixels), 2)
    alone = wcx.explain(model, pixels, targets, "occlusion", "weighted", **windows).sum(2)
    hidden = (alone < 0).double().mean((2, 3))  # (T, N)
    for i, row in enumerate(rows[cells[1]]):
        assert row["masked_fraction/t_2/positive"] == pytest.approx(
            float(hidden[1, i]), abs=2 / 256
        )  # signs of rounding


@pytest.mark.parametrize("names", [["occlusion"], ["gradcam", "occlusion", "rise"]], ids="+".join)
def test_versions_are_made_of_the_images_that_are_selected_alone(names: list[str]) -> None:
    """Of five images two are above the threshold; every other image costs its first pass. Their maps are those of a run of them."""
    passed: Counter[str] = Counter()
    model, made = Normalized(nets.conv_batchnorm()).eval(), {}
    model.register_forward_hook(lambda _module, args, _output: passed.update(images=len(args[0])))
    subject = Subject(model, None, {name: methods.create(name, **OPTIONS.get(name, {})) for name in names})
    pixels = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        p_t2 = model(pixels).softmax(1).topk(2).values[:, 1]
    threshold = float(p_t2.sort().values[2:4].mean())  # two are above, on any machine
    masking = Masking(
        subject, [Cell(name, "weighted") for name in names], Settings(threshold=threshold, baselines=("zeros",))
    )
    items = [Item(i, str(i), 0, image) for i, image in enumerate(pixels)]
    passed.clear()
    rows = masking.rows(items, keep=lambda cell, index, phi: made.__setitem__((cell.method, index), phi))
    versions = sum(1 + subject.methods[name].count(16, 16) for name in names if name != "gradcam")
    assert sum(row["above_threshold"] for row in rows[masking.cells[0]]) == 2
    assert subject.passes["versions"] == 2 * versions
    assert passed["images"] == len(names) * 5 + 2 * versions + subject.passes["masked"]
    chosen = (p_t2 > threshold).nonzero().flatten()
    with torch.no_grad():
        targets = contrasts.most_probable(model(pixels[chosen]), 2)
    for name in names:
        maps = wcx.explain(model, pixels[chosen], targets, name, "weighted", **OPTIONS.get(name, {}))
        for place, index in enumerate(chosen.tolist()):
            assert error(made[name, index], maps[:, place]) < 1e-5


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("occlusion", {"window": 0}, "occlusion: window = 0; give an integer of at least 1"),
        ("occlusion", {"window": 8, "stride": 9}, "stride = 9 leaves pixels between windows of 8"),
        ("rise", {"samples": 2.0}, r"rise: samples = 2\.0; give an integer"),
        ("rise", {"keep": 1}, "rise: keep = 1 is no probability"),
        ("rise", {"value": "log_odd"}, "Did you mean 'log_odds'"),
        ("occlusion", {"baseline": "grey"}, "baseline"),
    ],
)
def test_wrong_options_are_one_line(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(WcxError, match=message) as caught:
        methods.create(method, **options)
    assert "\n" not in str(caught.value)


def test_a_walk_along_gradients_refuses_what_has_none_in_one_line() -> None:
    with pytest.raises(
        WcxError, match=r"sign_perturbation needs an input method of gradients, not rise; try: .*gradient"
    ):
        check_method(get("sign_perturbation"), "rise")
