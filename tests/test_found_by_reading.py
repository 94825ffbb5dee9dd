"""Kind J of "right on any network": found by reading and looking. The answers are those to the questions that are asked.

Of the same kind: how to reproduce a record (tests/report/test_commands.py), contrasts that bench_fig3 and verify_perturbation do
not know (tests/test_bench_fig3.py), and the options of two contrasts in the gallery (tests/experiments/test_gallery.py).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import wcx
from tests import nets
from tests.report.pictures.test_gallery import LONG, _overlap, boxes
from tests.test_photo import NAMES, SIZE, ask, folder  # noqa: F401
from wcx import contrasts, methods
from wcx.cli import application, opening
from wcx.experiments import Subject, photo, pictures
from wcx.experiments.images import Item
from wcx.images import Normalized
from wcx.report.pictures import draw
from wcx.report.pictures import photo as report
from wcx.report.pictures.plate import percent

pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(name: str, y: Sequence[float], t: int, foils: Sequence[int]) -> list[float]:
    """The cotangent of a contrast, class by class."""
    if name == "probability":
        total = sum(math.exp(y[s]) for s in [t, *foils])
        p = {s: math.exp(y[s]) / total for s in [t, *foils]}
        return [p[t] * ((s == t) - p.get(s, 0.0)) for s in range(len(y))]
    nearest = sorted(foils, key=lambda s: (abs(y[s] - y[t]), s))[:3]
    total = sum(math.exp(y[s]) for s in foils)
    share = {
        "original": lambda _: 0.0,
        "mean": lambda _: 1 / len(foils),
        "max": lambda s: float(s == max(foils, key=lambda foil: y[foil])),
        "weighted": lambda s: math.exp(y[s]) / total,
        "finer": lambda s: 0.6 / len(nearest) * (s in nearest),
    }[name]
    return [float(s == t) - (share(s) if s in foils else 0.0) for s in range(len(y))]


class TestPhotograph:
    """ "Why albatross, and not dowitcher?" is answered by albatross against dowitcher; all others stand beside it."""

    @pytest.fixture(autouse=True)
    def texts(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:  # noqa: F811
        """All that is written in the figures, blanks left out; the figures themselves are not drawn."""
        written: list[str] = []
        monkeypatch.setattr(draw, "write_figure", lambda figure, path, *_: written.append(squeezed(figure)) or [path])
        return written

    @pytest.mark.parametrize(
        ("arguments", "target", "foils"),
        [
            ([], None, None),
            (["target=2"], 2, None),
            (["foils=[1]"], None, [1]),
            (["target=Laysan Albatross", "foils=[Möwe]"], 0, [1]),
            (["target=3", "foils=[0]", "contrast=max"], 3, [0]),
            (["target=3", "contrast=mean"], 3, None),
            (["target=1", "contrast=finer"], 1, None),
            (["contrast=probability"], None, None),
            (["target=1", "foils=[0,2]"], 1, [0, 2]),
            (["target=1", "foils=[0,1,3]", "contrast=finer"], 1, [0, 3]),
            (["foils=2"], None, 2),
            (["target=2", "foils=1"], 2, 1),
            (["foils=3"], None, 3),
            (["target=0", "foils=[1,2,3]", "contrast=mean"], 0, [1, 2, 3]),
        ],
    )
    def test_the_answer_is_the_contrast_of_the_classes_that_are_named(
        self, arguments: list[str], target: int | None, foils: list[int] | int | None, texts: list[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        [about] = ask("image=photo.png", "method=gradcam", *arguments)
        [file] = Path("out/images").glob("*.npz")
        with np.load(file) as arrays:
            maps = {key: torch.from_numpy(arrays[key]).double() for key in arrays.files}
        y, phi = split(maps["pixels"], int(about["layer"]))
        order = sorted(range(4), key=lambda s: -y[s])
        target = order[0] if target is None else target
        others = [s for s in order if s != target]
        foils = others[: foils or 1] if isinstance(foils, (int, type(None))) else sorted(foils, key=others.index)
        rival, name = foils[0], next((a[9:] for a in arguments if a.startswith("contrast=")), "weighted")
        assert (about["target"]["id"], about["rival"]["id"], about["foils"]) == (target, rival, sorted(foils))
        for which, own in enumerate((target, rival)):
            asked = [s for s in order if s in [target, *foils] and s != own]
            sets = {"original": ("original", []), name: (name, asked)}
            if len(foils) < 3:
                sets[f"{name}_all"] = (name, [s for s in range(4) if s != own])
            assert set(sets) == {key for key in maps if key.startswith(("original", name)) and "blurred" not in key}
            for key, (contrast, against) in sets.items():
                v = torch.tensor(by_hand(contrast, y, own, against), dtype=torch.float64)
                expected = torch.einsum("s,shw->hw", v, phi)
                torch.testing.assert_close(maps[key][which], expected, rtol=1e-4, atol=1e-6)  # float32 against float64
            labels = {"original": f"{NAMES[own]} alone", name: f"{NAMES[own]}, {not_(asked)}"}
            labels[f"{name}_all"] = f"{NAMES[own]}, against all other classes"
            answers = {answer["maps"]: answer for answer in about["answers"] if answer["class"] == NAMES[own]}
            assert {key: answer["explains"] for key, answer in answers.items()} == {key: labels[key] for key in sets}
            told = {"original": None, name: asked, f"{name}_all": "others"}
            assert {key: answer["foils"] for key, answer in answers.items()} == {key: told[key] for key in sets}
            for key, (contrast, _) in sets.items():
                assert f"{contrast} GradCAM ({labels[key]})".casefold() in answers[key]["sentence"].casefold()
                assert "".join(f"{contrast}: {labels[key]}".split()) in texts[0]
        for answer in about["answers"]:
            assert all("".join(line.split()) in texts[0] for line in numbers(answer, {NAMES[target], NAMES[rival]}))
        question = f"Why {NAMES[target]}, and {not_(foils)}?"
        printed = capsys.readouterr().out.splitlines()
        assert about["question"] == question == printed[1]
        assert "".join(question.split()) in texts[0]
        answer, *more = about["sentences"]
        assert f"({NAMES[target]}, {not_(foils)})" in answer
        assert printed[2:-1] == [answer, *more]
        assert len(more) == len(sets) - 1

    def test_where_there_are_two_classes_one_against_the_other_is_against_all(self, texts: list[str]) -> None:
        Path("labels.txt").write_text("A\nB")
        [about] = ask("image=photo.png")
        assert [answer["maps"] for answer in about["answers"]] == ["original"] * 2 + ["weighted"] * 2
        assert "againstall" not in texts[0]

    def test_original_alone_does_not_claim_to_answer_why_not(self, texts: list[str]) -> None:
        [about] = ask("image=photo.png", "contrast=original", "target=2", "foils=[1]")
        assert about["question"] == "Why crow's nest?"
        assert [answer["explains"] for answer in about["answers"]] == ["crow's nest alone", "Möwe alone"]
        assert ",not" not in texts[0]

    @pytest.mark.parametrize("method", ["gradient", "integrated_gradients"])
    @pytest.mark.parametrize("contrast", ["weighted", "probability", "finer"])
    def test_of_any_method(self, method: str, contrast: str) -> None:
        """Against wcx.explain, one class and set of foils at a time; along a path probability varies."""
        model = Normalized(nets.conv_batchnorm()).double().eval()
        pixels = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        options = {"steps": 3} if method == "integrated_gradients" else {}
        asked = photo.Question(contrasts=("original", contrast), foils=(1, 4))
        subject = Subject(model, None, {method: methods.create(method, **options)})
        picture = photo.answer(subject, pixels, LETTERS, asked)
        assert [view.foils for view in picture.raw] == ["none", "asked", "others"]
        for view, maps in picture.raw.items():
            for own, got in zip(picture.targets, maps, strict=True):
                foils = sorted({picture.targets[0], 1, 4} - {own}) if view.foils == "asked" else None
                expected = wcx.explain(model, pixels[None], own, method, view.contrast, foils, **options)[0]
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)

    def test_passes_are_one_for_each_class_contrast_and_set_of_foils(self, monkeypatch: pytest.MonkeyPatch) -> None:
        backward: list[int] = []
        grad = torch.autograd.grad

        def counted(*arguments: object, is_grads_batched: bool = False, **options: Any) -> object:
            backward.append(len(options["grad_outputs"]) if is_grads_batched else 1)
            return grad(*arguments, is_grads_batched=is_grads_batched, **options)

        monkeypatch.setattr(torch.autograd, "grad", counted)
        model, images = Normalized(nets.conv_batchnorm()), []
        model.register_forward_pre_hook(lambda _module, arguments: images.append(len(arguments[0])))
        photo.answer(gradcam(model), torch.rand(3, 16, 16), LETTERS, photo.Question())
        assert (sum(images), sum(backward)) == (1 + 6, 6)

    @pytest.mark.parametrize("foils", [None, (0, 1, 3, 4)])
    def test_no_text_meets_another_or_is_cut(self, foils: tuple[int, ...] | None) -> None:
        names = [*LONG, "Auk", "Tern"]
        model = Normalized(nets.conv_batchnorm())
        pixels = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2))
        picture = photo.answer(gradcam(model), pixels, names, photo.Question(target=2, foils=foils))
        page = report.Photograph(Path("x.png"), picture, "model " * 30, "weights " * 30, "2", "x")
        drawn = report.photograph_figure(page)
        texts, axes = boxes(drawn, report.DPI)
        for text, box in texts:
            assert min(box.x0, box.y0) >= 0, text
            assert box.x1 <= drawn.bbox.width, text
            assert box.y1 <= drawn.bbox.height, text
            assert not any(_overlap(box, place) for place in axes), text
        for (one, a), (other, b) in combinations(texts, 2):
            assert not _overlap(a, b), (one, other)
        assert not any(_overlap(a, b) for a, b in combinations(axes, 2))
        scales = [(bar.get_xticks()[0], bar.get_xticks()[-1]) for bar in drawn.axes if not bar.images]
        assert len(scales) == 6
        assert all(low == -high < 0 for low, high in scales), "centred at zero"

    def test_many_foils_are_counted_the_most_probable_named_first(self) -> None:
        logits = torch.tensor([0.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 6.0])
        for foils, named in {
            (1,): "not b",
            (2, 1): "not b or c",
            (4, 3, 2, 1): "not b, c, d or e",
            (1, 2, 3, 4, 5): "not b, c, d, e or f",
            (1, 2, 3, 4, 5, 6): "not b, c, d, e or 2 more",
            (0, 1, 2, 3, 4, 5, 6): "not b, c, d, e or 3 more",
        }.items():
            item = Item(0, "x", -1, torch.rand(3, 2, 2))
            picture = pictures.Picture(item, LETTERS, logits, [7, 1], {}, foils=list(foils))
            asked = report.Photograph(Path("x.png"), picture, "m", "w", None, "x")
            assert asked.foils(0) == named
        assert asked.foils(1).startswith("not h, c")


LETTERS = list("abcdefgh")


def gradcam(model: Normalized) -> Subject:
    return Subject(model, "2", {"gradcam": methods.create("gradcam")})


def squeezed(figure: Figure) -> str:
    return "".join("".join(text.get_text().split()) for text in figure.texts)


def not_(ids: Sequence[int]) -> str:
    """ "not A", "not A or B", "not A, B or C"."""
    *names, last = [NAMES[s] for s in ids]
    return f"not {', '.join(names)} or {last}" if names else f"not {last}"


def numbers(answer: dict, pair: set[str]) -> list[str]:
    """What stands under a blurred image: both probabilities before and after, with an arrow, and the share of pixels."""
    lines = []
    for name, key in ((answer["class"], "p"), (*(pair - {answer["class"]}), "p_other")):
        before, after = (f"{answer[f'{key}_{when}']:.3f}" for when in ("before", "after"))
        lines.append(f"{name}: {before} → {after}{'' if before == after else ' ▲' if after > before else ' ▼'}")
    return [*lines, f"{percent(answer['masked_fraction'])} of the pixels blurred"]


def split(pixels: Tensor, layer: int) -> tuple[list[float], Tensor]:
    """Logits, and GradCAM (C, h, w) of every class by itself, of the small network of tests/test_photo.py cut at its layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = sys.modules["photo_nets"].net(4).double().eval()
    mean, std = (torch.tensor(v).view(3, 1, 1).double() for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    activation = net[: layer + 1](((pixels - mean) / std)[None]).detach().requires_grad_()
    y = net[layer + 1 :](activation)[0]
    gradients = torch.stack([torch.autograd.grad(one, activation, retain_graph=True)[0][0] for one in y])
    phi = (gradients.mean((2, 3), keepdim=True) * activation[0].detach()).sum(1)
    assert phi.shape == (4, SIZE // 2, SIZE // 2)
    return y.tolist(), phi


def test_finers_gamma_is_the_papers_everywhere() -> None:
    y = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    expected = [1.0, -0.2, -0.2, -0.2, 0.0]
    assert wcx.cotangent(y, 0, "finer")[0].tolist() == pytest.approx(expected, abs=1e-15)
    stated = opening.options(application.compose(["contrast=finer"]).contrast)
    assert stated == contrasts.get("finer").defaults == {"gamma": 0.6, "k": 3}


def test_a_contrasts_defaults_are_part_of_the_fingerprint_given_or_not() -> None:
    """Records made through the library with finer's old default must not be taken for those of the new one."""
    given = opening.job([application.compose(["model.weights=random", "contrast=finer"])])
    bare = type(given)(**{**vars(given), "contrast_options": {}})
    (a,), (b,) = given.shards(), bare.shards()
    assert a.path == b.path
    assert b.parts["contrast"] == {"gamma": 0.6, "k": 3}
    weighted = opening.job([application.compose(["model.weights=random"])]).shards()[0]
    assert weighted.parts["contrast"] == {}
    assert "equal_pair" not in weighted.parts


def test_what_equal_masks_count_is_part_of_every_cells_fingerprint() -> None:
    pair = ["model.weights=random", "mask=equal", "equal_pair=[original,finer]", "contrast=original"]
    [shard] = opening.job([application.compose(pair)]).shards()
    assert shard.parts["equal_pair"] == {"finer": {"gamma": 0.6, "k": 3}}
    [usual] = opening.job([application.compose([*pair[:2], pair[3]])]).shards()
    assert "equal_pair" not in usual.parts
    [signed] = opening.job([application.compose([pair[0], *pair[2:]])]).shards()
    assert "equal_pair" not in signed.parts


class TestRivals:
    """What docs/theory.md says of methods that others have published: they are cotangents, too, or nearly."""

    def test_finer_cams_code_is_weighted_with_three_foils_plus_a_gradient_of_the_weights(self) -> None:
        y = torch.randn(1, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
        t = int(y.argmax())
        nearest = sorted((s for s in range(9) if s != t), key=lambda s: abs(float((y[0, s] - y[0, t]).detach())))[:3]
        p = y.softmax(1)[0]
        weights = p[nearest] / p[nearest].sum()
        frozen, free = (
            torch.autograd.grad(y[0, t] - (w * y[0, nearest]).sum(), y, retain_graph=True)[0]
            for w in (weights.detach(), weights)
        )
        torch.testing.assert_close(wcx.cotangent(y, t, "weighted", foils=3), frozen, rtol=1e-13, atol=1e-16)
        more = torch.autograd.grad(-(weights * y[0, nearest].detach()).sum(), y)[0]
        torch.testing.assert_close(free, frozen + more, rtol=1e-13, atol=1e-16)
        assert float(more.norm()) > 0.01

    @pytest.mark.parametrize("contrast", ["mean", "probability"])
    def test_lrps_seed_is_not_clrps_nor_sglrps(self, contrast: str) -> None:
        """Without biases LRP-0 keeps its relevance: ours sums to v . y, theirs to the sum of r; v = r / y gives theirs."""
        net, targets = nets.bias_free().double(), torch.tensor([0, 5, 2])
        run = wcx.Explainer(net, "lrp", composite="lrp_0")(nets.images(3).double())
        y, v = run.logits, wcx.cotangent(run.logits, targets, contrast)
        relevance = {"mean": y.gather(1, targets[:, None]) * v, "probability": v}[contrast]
        ours, theirs = run.explain(torch.stack([v, relevance / y])).sum((2, 3, 4))
        torch.testing.assert_close(ours, (v * y).sum(1))
        torch.testing.assert_close(theirs, relevance.sum(1))
        assert float((ours - theirs).abs().min()) > 1e-4
