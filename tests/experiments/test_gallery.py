"""What the gallery shows, against wcx.explain one map at a time and the masking experiment; and which images it chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from tests.test_found_by_reading import by_hand
from wcx import contrasts, methods
from wcx.errors import DataError, WcxError
from wcx.experiments import Cell, Subject, pictures
from wcx.experiments import images as items
from wcx.experiments import subject as subject_module
from wcx.experiments.gallery import FIGURES, FigureKind, GallerySettings
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking
from wcx.experiments.masking import Settings as Protocol
from wcx.experiments.pictures import Picture, View
from wcx.experiments.selection import Walk, by_id
from wcx.images import Normalized

ALL = FigureKind(
    ("gradcam", "linear_approximation", "input_x_gradient", "integrated_gradients"),
    ("original", "max", "probability"),
    3,
    hides=True,
)


class Counted(nn.Module):
    """A network that counts the images that pass through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.mean, self.zero, self.images = model, model.mean, model.zero, 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        return self.model(pixels)


@pytest.fixture
def model() -> Counted:
    return Counted(Normalized(nets.conv_batchnorm()).double().eval())


@pytest.fixture(scope="module")
def some() -> list[Item]:
    pixels = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [Item(i, f"images/{i}.jpg", i % 3, p) for i, p in enumerate(pixels)]


def lens(model: Counted, figure: FigureKind, batch_size: int = 32) -> Subject:
    made = {name: methods.create(name) for name in figure.methods}
    return Subject(model, "model.2", made, {"finer": {"k": 2}}, batch_size)


def show(
    subject: Subject, some: Sequence[Item], figure: FigureKind, settings: GallerySettings | None = None
) -> list[Picture]:
    return (settings or GallerySettings()).explain(subject, some, figure, [f"class {i}" for i in range(6)])


def test_maps_are_those_of_explain(model: Counted, some: list[Item]) -> None:
    shown = show(lens(model, ALL, batch_size=2), some[:3], replace(ALL, hides=False), GallerySettings(foils=4))
    for one in shown:
        y = model(one.item.pixels[None])[0].detach()
        assert one.predicted(3) == y.argsort(descending=True)[:3].tolist() == one.targets
        torch.testing.assert_close(one.probabilities, y.softmax(0))
        for view, maps in one.maps.items():
            for target, got in zip(one.targets, maps, strict=True):
                layer = "model.2" if methods.get(view.method).space == "activation" else None
                raw = wcx.explain(model, one.item.pixels[None], target, *view[:2], foils=4, layer=layer)
                expected = wcx.upsample(raw, 16)[0] if raw.ndim == 3 else raw[0].sum(0)
                torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("sigma", [15.0, (10.0, 20.0)])
def test_hidden_images_are_those_of_masking(model: Counted, some: list[Item], sigma: float) -> None:
    """Shares of t_1 against t_2, and of the pixels, as the masking experiment has them."""
    figure = FIGURES["fig1"]
    settings = GallerySettings(blur_sigma=sigma, seed=3)
    protocol = Protocol(threshold=0.0, baselines=("blur",), blur_sigma=sigma, seed=3)
    cells = [Cell("gradcam", name) for name in figure.contrasts]
    subject = Subject(model, "model.2", {"gradcam": methods.create("gradcam")})
    rows = Masking(subject, cells, protocol).rows(some[:3])
    for i, one in enumerate(show(lens(model, figure), some[:3], figure, settings)):
        for cell in cells:
            row, hidden, after = rows[cell][i], one.hidden[View(*cell)], one.after(View(*cell))
            for t in (0, 1):
                both = after[t]
                assert float(both[t] / both.sum()) == pytest.approx(
                    row[f"relative_probability/t_{t + 1}/blur/positive"]
                )
                assert float(hidden.share[t]) == row[f"masked_fraction/t_{t + 1}/positive"]
                changed = model(hidden.pixels[t][None])[0].softmax(0)[one.targets]
                torch.testing.assert_close(after[t], changed.detach())
                kept = one.maps[View(*cell)][t] >= 0
                assert torch.equal(hidden.pixels[t][:, kept], one.item.pixels[:, kept])


def test_passes_are_shared(model: Counted, some: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward pass an image and one cotangent pulled back per class and contrast, for both of Fig. 4's methods."""
    backward: list[int] = []
    grad = torch.autograd.grad

    def counted(*arguments: object, is_grads_batched: bool = False, **options: Any) -> object:
        backward.append(len(options["grad_outputs"]) if is_grads_batched else 1)
        return grad(*arguments, is_grads_batched=is_grads_batched, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    shown = show(lens(model, FIGURES["fig4"]), some[:4], FIGURES["fig4"])
    assert model.images == 4
    assert sum(backward) == 2 * 2
    assert len(shown[0].maps) == 4
    model.images = 0
    figure = replace(FIGURES["fig1"], contrasts=("original", "weighted", "mean"))
    show(lens(model, figure), some[:4], figure)
    assert model.images == 4 + 4 * 3 * 2, "one more for every image with hidden features"


def test_a_path_is_walked_once_for_all_contrasts(model: Counted, some: list[Item]) -> None:
    """As many images through the network as for a single contrast, one that depends on the path among them."""
    figure = FigureKind(("integrated_gradients",), ("probability",), targets=3)
    walked = []
    for names in (("probability",), ("original", "mean", "probability", "weighted")):
        model.images = 0
        show(lens(model, figure), some[:4], replace(figure, contrasts=names))
        walked.append(model.images)
    assert walked[0] == walked[1] >= 4 * (1 + 50)


def test_where_memory_is_scarce_the_maps_are_the_same(
    model: Counted, some: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is walked again for what does not fit at once: two contrasts of three here, and then one."""
    figure = FigureKind(("integrated_gradients",), ("original", "probability", "weighted"), targets=2)
    subject = lens(model, figure, batch_size=4)
    (together,) = show(subject, some[:1], figure)
    model.images = 0
    monkeypatch.setattr(subject_module, "GRADIENTS", 2 * 4 * 2 * some[0].pixels.numel())
    (apart,) = show(subject, some[:1], figure)
    assert model.images > 1 + 2 * 50
    for view, maps in together.maps.items():
        torch.testing.assert_close(apart.maps[view], maps, rtol=0, atol=0)


def test_cosines_of_figure_5(model: Counted, some: list[Item]) -> None:
    """Section 5.3: max of t_1 and t_2 are each other's negatives."""
    (one,) = show(lens(model, FIGURES["fig5"]), some[:1], FIGURES["fig5"])
    own = pictures.cosines(one)["gradcam"]
    assert own["max: t_1, t_2"] == pytest.approx(-1)
    assert set(own) >= {"original, mean: t_3", "max, weighted: t_2", "weighted: t_1, t_3"}
    a, b = (one.maps[View("gradcam", name)][1].flatten() for name in ("original", "weighted"))
    assert own["original, weighted: t_2"] == pytest.approx(float(torch.cosine_similarity(a, b, 0)))


def walk(model: Counted, some: Sequence[Item], batch_size: int = 2, seed: int = 0) -> Walk:
    def read(indices: Sequence[int]) -> Iterator[Item]:
        yield from (some[i] for i in indices)

    order = items.order(len(some), None, seed, shuffled=True)
    return Walk(model, read, order, f"{len(some)} test images (seed {seed})", batch_size)


def test_images_are_chosen_by_the_rule(model: Counted, some: list[Item]) -> None:
    """The first of the permutation over the threshold, each looked at once for all figures."""
    p = model(torch.stack([item.pixels for item in some])).softmax(1).sort(dim=1, descending=True).values.detach()
    model.images = 0
    order = items.order(len(some), None, 0, shuffled=True)
    for rank in (2, 3):
        minimum = float(p[:, rank - 1].median())
        over = [i for i in order if p[i, rank - 1] > minimum]
        walked = walk(model, some)
        chosen = walked.choose(rank, minimum, 2)
        assert chosen.indices == over[:2]
        subscript = {2: "₂", 3: "₃"}[rank]
        assert chosen.rule == (
            f"the first 2 with p(t{subscript}) > {minimum:g}, in random order, of the 9 test images (seed 0); "
            f"{order.index(over[1]) + 1} looked at"
        )
        everything = walked.choose(rank, minimum, 50)
        assert everything.indices == over
        assert f"all {len(over)} with" in everything.rule
        assert "50 were asked for" in everything.rule
        walked.choose(2, 0.0, 9)
    assert model.images == 2 * 9
    with pytest.raises(WcxError, match=r"none of the 9 test images \(seed 0\) has p\(t₂\) > 0.9; lower p_t2_min"):
        walk(model, some).choose(2, 0.9, 4)
    with pytest.raises(WcxError, match="t_7, but the model has 6 classes"):
        walk(model, some).choose(7, 0.1, 4)


def test_the_figures_are_the_papers() -> None:
    """Classes explained, the rank whose probability an image is chosen by, whether features are hidden, images at most."""
    assert {name: (one.targets, one.rank, one.hides, one.most) for name, one in FIGURES.items()} == {
        "fig1": (2, 2, True, None),
        "fig4": (2, 2, False, None),
        "fig5": (3, 3, False, None),
        "methods": (1, 2, False, 1),
    }
    defaults = GallerySettings(p_t2_min=0.2, p_t3_min=0.3)
    assert (defaults.count, defaults.blur_sigma, defaults.blur_kernel, defaults.align_corners) == (4, 15.0, 101, False)
    assert [defaults.minimum(rank) for rank in (2, 3, 4)] == [0.2, 0.3, 0.3]


def test_unreadable_images_are_counted(model: Counted, some: list[Item]) -> None:
    broken = [replace(item, pixels=None, error=DataError("broken")) if item.index < 3 else item for item in some]
    chosen = walk(model, broken, batch_size=1).choose(2, 0.0, 9)
    assert sorted(chosen.indices) == [3, 4, 5, 6, 7, 8]
    assert chosen.rule.endswith("9 were asked for, 3 unreadable")


def test_images_are_given_by_id() -> None:
    known = ["a/one.jpg", "a/two.jpg", "b/two.jpg"]
    assert by_id(["one", "b/two.jpg", "one.jpg"], known).indices == [0, 2, 0]
    assert by_id(["one"], known).rule == "given by id"
    with pytest.raises(WcxError, match=r"'two' means 2 images, among them 'a/two\.jpg'"):
        by_id(["two"], known)
    with pytest.raises(WcxError, match="no image has the id 'oen'; did you mean one like 'one'"):
        by_id(["oen"], known)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"count": 0}, "count = 0"), ({"p_t3_min": 1.5}, "p_t3_min = 1.5"), ({"p_t2_min": -1}, "p_t2_min = -1")],
)
def test_settings_are_checked(values: dict, message: str) -> None:
    with pytest.raises(WcxError, match=message):
        GallerySettings(**values)


def steep(logits: Tensor, target: Tensor, foils: Tensor, gamma: float = 1.0, k: int = 1) -> Tensor:
    """A contrast with options of the same names as finer's: gamma e_t - k / 10 on every foil."""
    return gamma * nn.functional.one_hot(target, logits.shape[1]).to(logits) - k / 10 * foils.to(logits)


@pytest.mark.parametrize("order", [("finer", "steep", "max"), ("steep", "original", "finer")])
def test_the_gallery_keeps_the_options_of_two_contrasts_apart(
    order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(contrasts.base._CONTRASTS, "steep", contrasts.Contrast(steep))
    options = {"finer": {"gamma": 0.2, "k": 2}, "steep": {"gamma": 3.0, "k": 4}}
    model = Normalized(nets.conv_batchnorm()).double().eval()
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    figure = FigureKind(("gradcam", "gradient", "linear_approximation"), order, targets=2)
    made = {name: methods.create(name) for name in figure.methods}
    batch = [Item(i, str(i), 0, x) for i, x in enumerate(pixels)]
    shown = show(Subject(model, "2", made, options), batch, figure)
    for one in shown:
        y = model(one.item.pixels[None])[0].tolist()
        for method in figure.methods:
            layer = None if method == "gradient" else "2"
            each = [wcx.explain(model, one.item.pixels[None], s, method, "original", layer=layer)[0] for s in range(6)]
            phi = torch.stack([wcx.upsample(m, 16) if m.ndim == 2 else m.sum(0) for m in each])
            for t, target in enumerate(one.targets):
                foils = [s for s in range(6) if s != target]
                nearest = sorted(foils, key=lambda s: abs(y[s] - y[target]))[:2]
                vs = {name: by_hand(name, y, target, foils) for name in ("max", "original")}
                vs["finer"] = [(s == target) - 0.1 * (s in nearest) for s in range(6)]
                vs["steep"] = [3.0 * (s == target) - 0.4 * (s != target) for s in range(6)]
                for name in order:
                    expected = torch.einsum("s,shw->hw", torch.tensor(vs[name], dtype=torch.float64), phi)
                    torch.testing.assert_close(one.maps[View(method, name)][t], expected, rtol=1e-9, atol=1e-12)


def test_an_option_that_the_gallerys_contrast_has_not_is_one_line() -> None:
    made = {"gradcam": methods.create("gradcam")}
    lens = Subject(Normalized(nets.conv_batchnorm()), "2", made, {"mean": {"gamma": 1}})
    figure = FigureKind(("gradcam",), ("mean", "finer"), targets=1)
    with pytest.raises(WcxError, match="unknown contrast option 'gamma'"):
        show(lens, [Item(0, "a", 0, torch.rand(3, 16, 16))], figure)


@pytest.mark.parametrize("asked", [[], ["methods=[lrp]"]], ids=["all there are", "asked for"])
def test_of_all_methods_those_that_the_network_refuses_are_left_out(
    cli: Callable[..., Any], tmp_path: Path, asked: list[str]
) -> None:
    """LRP has no rule for squeeze and excitation; one that is asked for by its name is an error."""
    drawn = ["datasets=[parts]", "models=[mobilenet_v3_small]", "model.weights=random", "dataset.size=64"]
    chosen = ["dataset.transform.size=64", "figures=[methods]", "contrasts=[original]", "p_t2_min=0", "limit=2"]
    done = cli("gallery", *drawn, *chosen, *asked, "formats=[png]", "dpi=20", f"paths.results_dir={tmp_path}")
    assert "no rule" in done.stdout + done.stderr
    files = [*tmp_path.rglob("*-methods.json")]
    assert done.returncode == len(asked)
    assert len(files) == 1 - len(asked)
    for file in files:
        maps = json.loads(file.read_text(encoding="utf-8"))["images"][0]["maps"]
        assert {phi["method"] for phi in maps} == set(methods.of_gradients()) - {"lrp"}
