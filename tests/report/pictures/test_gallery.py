"""The gallery's figures: files, numbers in the JSON, colours, and texts that neither meet nor leave the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from wcx.cli import application
from wcx.cli import main as command_line
from wcx.cli.commands import run
from wcx.errors import WcxError
from wcx.experiments.gallery import FIGURES
from wcx.experiments.images import Item
from wcx.experiments.pictures import Hidden, Picture, View
from wcx.report.pictures import draw, gallery, layouts, sheet
from wcx.report.pictures.layouts import plate_figure
from wcx.report.pictures.plate import Plate

LONG = [
    "Mercedes-Benz Sprinter Passenger Van Extended Wheelbase High Roof 2012 Special Edition",
    "Staphylococcusaureusmethicillinresistantwithoutanyspacetobreakat",
    "WWWWWW MMMMMMM WWWWWWWWW MMMMMMMMMMM WWWW MMMMMMMM",
    "price $5 or $7 a_b^c",
]


def plate(figure: str, count: int = 2, names: list[str] = LONG, foils: str = "", **facts: object) -> Plate:
    kind = FIGURES[figure]
    random = torch.Generator().manual_seed(1)
    methods = kind.methods or ("gradcam", "gradient")
    views = [View(method, contrast) for method in methods for contrast in kind.contrasts or ("original", "probability")]
    t = kind.targets
    pictures = []
    for i in range(count):
        pixels = torch.rand(3, 24, 24, generator=random)
        raw = {view: torch.randn(t, *([3] * (view.method == "gradient")), 24, 24, generator=random) for view in views}
        logits = torch.tensor([0.5, 0.3, 0.2, 1e-30], dtype=torch.float64).log()
        picture = Picture(Item(i, f"{i}.jpg", 3 - i, pixels), names, logits, [0, 1, 2][:t], raw)
        for view in views if kind.hides else ():
            hidden = torch.randn(t, 4, generator=random)
            picture.hidden[view] = Hidden(pixels.expand(t, 3, 24, 24), torch.rand(t, generator=random), hidden)
        pictures.append(picture)
    about = {
        "dataset": "cub",
        "dataset_label": "cub",
        "model": "vgg16",
        "weights": "w " * 60,
        "stand_in": True,
        "subset": "",
        "command": "",
    }
    return Plate(figure, pictures, about | {"rule": "the first " * 30} | facts, foils)


def boxes(figure: Figure, dpi: int) -> tuple[list[tuple[str, Bbox]], list[Bbox]]:
    """Return the extents of all texts, and of all axes, in pixels."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = list(figure.texts)
    for ax in figure.axes:
        texts += [] if ax.images else ax.get_xticklabels()  # a colour bar's; pictures have none
    found = [(one.get_text(), one.get_window_extent(canvas.get_renderer())) for one in texts if one.get_text()]
    return found, [ax.get_window_extent() for ax in figure.axes]


@pytest.mark.parametrize(("figure", "dpi"), list(zip(FIGURES, (72, 100, 150, 200), strict=True)))
def test_no_text_meets_another_or_is_cut(figure: str, dpi: int) -> None:
    drawn = plate_figure(plate(figure))
    texts, axes = boxes(drawn, dpi)
    width, height = drawn.bbox.width, drawn.bbox.height
    for text, box in texts:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
        assert not any(_overlap(box, other) for other in axes), text
    for (one, a), (other, b) in combinations(texts, 2):
        assert not _overlap(a, b), (one, other)
    for a, b in combinations(axes, 2):
        assert not _overlap(a, b)
    everything = "".join("".join(text.split()) for text, _ in texts)
    for name in LONG[: FIGURES[figure].targets] + LONG[3:]:
        assert "".join(name.split()) in everything, "whole names, whatever the lines"


def _overlap(a: Bbox, b: Bbox) -> bool:
    """Whether two boxes share more than a pixel's rim (letters' boxes have some air above)."""
    shared = Bbox.intersection(a, b)
    return shared is not None and shared.width > 1 and shared.height > 1.5


def test_wrap_breaks_where_it_has_to() -> None:
    assert sheet.wrap("one two", 5, 8) == ("one two",)
    lines = sheet.wrap("short " + "x" * 60, 1, 8)
    assert lines[0] == "short"
    assert "".join(lines[1:]) == "x" * 60
    assert len(lines) > 3


@pytest.mark.parametrize("figure", FIGURES)
def test_files_and_numbers(figure: str, tmp_path: Path) -> None:
    one = plate(figure, 1, rule="given by id", command="python scripts/gallery.py", settings={"seed": 0})
    png, pdf, beside = gallery.write_plate(one, tmp_path, ("png", "pdf"), dpi=40)
    assert (tmp_path / f"cub-vgg16-{figure}/frames.json").is_file() == (figure == "fig5")
    assert [png.name, pdf.name, beside.name] == [f"cub-vgg16-{figure}.{suffix}" for suffix in ("png", "pdf", "json")]
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert pdf.read_bytes()[:4] == b"%PDF"
    about = json.loads(beside.read_text())
    assert about["files"] == [png.name, pdf.name]
    known = {"figure", "dataset", "model", "weights", "subset", "rule", "command", "caption", "settings", "images"}
    assert set(about) >= known
    (image,), (shown,) = about["images"], one.pictures
    assert (image["id"], image["truth"], image["classes"]) == ("0.jpg", LONG[3], LONG[:3])
    assert image["probabilities"] == [0.5, 0.3, 0.2]
    assert len(image["maps"]) == len(shown.maps)
    for written, (view, maps) in zip(image["maps"], shown.maps.items(), strict=True):
        assert (written["method"], written["contrast"], "") == view
        assert written["negative_share"][0] == pytest.approx(float((maps[0] < 0).double().mean()), abs=1e-6)
        if figure == "fig1":
            after = shown.hidden[view].logits[1].exp() / shown.hidden[view].logits[1].exp().sum()
            assert written["probabilities_after"][1] == pytest.approx(after[:2].tolist(), abs=1e-6)
    if figure == "fig4":
        before = {file: file.read_bytes() for file in (png, pdf)}
        gallery.write_plate(one, tmp_path, ("png", "pdf"), dpi=40)
        assert before == {file: file.read_bytes() for file in (png, pdf)}


def test_scales() -> None:
    """One for the classes of a contrast, or for all contrasts of a method, where probability gets Proposition 2's factor."""
    one = plate("methods", 1)
    [shown] = one.pictures
    first, second = (View("gradcam", name) for name in ("original", "probability"))
    assert one.scale_of(shown, first) == pytest.approx(float(shown.maps[first].abs().max()))
    by_method = replace(one, scale="method")
    expected = max(float(shown.maps[first].abs().max()), float(shown.maps[second].abs().max()) / 0.25)
    assert by_method.scale_of(shown, first) == by_method.scale_of(shown, second) == pytest.approx(expected)
    shown.raw[second].zero_()
    del shown.maps
    faint = shown.raw[first].mul_(0.01)
    assert by_method.scale_of(shown, second) == pytest.approx(float(faint.abs().max())), (
        "zero everywhere widens no scale"
    )
    assert one.scale_of(shown, second) == 1.0
    assert draw.scale_of(torch.tensor([0.0] * 999 + [0.2]), 0.995) == pytest.approx(0.2), "one pixel of a thousand"
    blocks = one.drawn(shown, View("gradient", "original"))
    assert blocks.shape == (1, 12, 12)
    torch.testing.assert_close(blocks.sum(), shown.raw[View("gradient", "original")].double().sum())


def test_the_question_names_the_foils_that_the_maps_have() -> None:
    """Not the next classes, when the maps are against all others."""
    for foils, words in (("", "any other class"), ("the 3 most probable others", "the 3 most probable others")):
        drawn = plate_figure(plate("methods", 1, ["A", "B", "C", "D"], foils))
        texts = " ".join(text.get_text() for text in drawn.texts)
        assert f"why A (p = 0.500) rather than {words}? Next: B (p = 0.300), C (p = 0.200)" in texts


def test_every_figure_names_its_method_and_shows_no_probability_as_zero() -> None:
    """Fig. 5 has one method: its name once stood nowhere on it; and 1e-7 once was "p = 0.000"."""
    one = plate("fig5", 1)
    one.pictures[0].logits[2] = -16
    titled = replace(one, kind="selected", facts={**one.facts, "title": "vgg16 gradcam\nas said below"})
    for kind, drawn in (("fig5", one), ("fig4", plate("fig4", 1)), ("selected", titled)):
        texts = " ".join(text.get_text() for text in plate_figure(drawn).texts)
        assert "gradcam" in texts.lower(), kind
        assert "a line marks where the sign changes" in texts, kind
        assert "p = 0.000" not in texts
        assert ("p <0.001" in texts) == (kind != "fig4"), kind


def test_an_image_whose_maps_are_all_zero_is_drawn() -> None:
    """White everywhere, without a line, hatching or a division by zero."""
    one = plate("fig5", 1)
    for maps in one.pictures[0].raw.values():
        maps.zero_()
    drawn = plate_figure(replace(one, style="print"))
    assert {bar.get_xticks()[-1] for bar in drawn.axes if not bar.images} == {1.0}
    assert all(len(ax.collections) == 0 for ax in drawn.axes if ax.images)
    assert gallery.json_values(one)["images"][0]["cosines"]["gradcam"]["max: t_1, t_2"] is None


def test_colours_are_symmetric_and_centred() -> None:
    """White at zero; equal strengths are equally light: OKLab's L from sRGB, the other way round."""
    rgb = draw.COLOURS(np.linspace(0, 1, 257))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(
        linear
        @ np.array(
            [
                [0.4122214708, 0.2119034982, 0.0883024619],
                [0.5363325363, 0.6806995451, 0.2817188376],
                [0.0514459929, 0.1073969566, 0.6299787005],
            ]
        )
    )
    lightness = lms @ np.array([0.2104542553, 0.7936177850, -0.0040720468])
    assert rgb[128].min() > 0.95
    assert rgb[-1, 0] > 2 * rgb[-1, 2]
    assert rgb[0, 2] > 2 * rgb[0, 0]
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.02)
    assert (np.diff(lightness[:129]) > 0).all()
    np.testing.assert_allclose(np.diff(lightness[:129]), np.diff(lightness[:129]).mean(), atol=0.002)


def test_print_style_hatches_the_negative_half() -> None:
    attribution = torch.linspace(-1, 1, 32).expand(32, 32)
    for style, hatches in (("colour", 0), ("print", 1)):
        ax = Figure().add_subplot()
        draw.paint_map(ax, torch.rand(3, 32, 32), attribution, 1.0, style)
        hatched = [one for one in ax.collections if getattr(one, "hatches", [None])[0]]
        assert len(hatched) == hatches
        for one in hatched:
            assert one.get_paths()[0].get_extents().x1 == pytest.approx(15.5, abs=0.01), "up to the zero line"
    with pytest.raises(WcxError, match="unknown style 'grey'"):
        draw.paint_map(ax, torch.rand(3, 4, 4), torch.rand(4, 4), 1.0, "grey")


def test_print_style_puts_a_minus_into_negative_blocks() -> None:
    attribution = torch.tensor([[1.0, -1.0], [-0.2, -0.05]])
    signs = {}
    for style in draw.STYLES:
        ax = Figure().add_subplot()
        draw.paint_map(ax, None, attribution, 1.0, style)
        signs[style] = [
            (*path.vertices.mean(0), *colour[:3])
            for c in ax.collections
            for path, colour in zip(c.get_paths(), c.get_colors(), strict=True)
        ]
    assert signs == {"colour": [], "print": [(1, 0, 1, 1, 1), (0, 1, 0, 0, 0)]}, (
        "white on deep colours, none in faint ones"
    )


def test_caption_tells_the_blocks_of_small_images() -> None:
    one = plate("methods", 1)
    side = one.pictures[0].pixels.shape[-1] // 12
    assert side < draw.BLOCK
    told = {style: layouts.caption(replace(one, style=style))[-1] for style in draw.STYLES}
    assert all(f"drawn as sums over {side} × {side} pixels" in line for line in told.values())
    assert ["a minus stands in negative ones" in told[style] for style in draw.STYLES] == [False, True]


def test_unknown_format() -> None:
    with pytest.raises(WcxError, match=r"unknown format 'pgn'\. Did you mean 'png'"):
        draw.write_figure(Figure(), Path("x"), ["pgn"])


def test_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command in the JSON makes the figure again."""
    options = [
        "model.weights=random",
        "p_t2_min=0",
        "count=2",
        "formats=[png]",
        "dpi=30",
        f"paths.results_dir={tmp_path}",
    ]
    lists = ["datasets=[parts]", "models=[small_cnn]", "figures=[fig1,fig4]"]
    monkeypatch.setattr("sys.argv", ["gallery.py", *lists, *options])
    command_line("gallery")
    assert capsys.readouterr().out.count("figure: ") == 2
    folder = tmp_path / "gallery"
    assert sorted(file.name for file in folder.iterdir()) == [
        f"parts-small_cnn-{figure}.{suffix}" for figure in ("fig1", "fig4") for suffix in ("json", "png")
    ]
    about = json.loads((folder / "parts-small_cnn-fig4.json").read_text())
    assert about["command"].startswith("wcx gallery 'datasets=[parts]' 'models=[small_cnn]' 'figures=[fig4]'")
    ids = [image["id"] for image in about["images"]]
    assert len(ids) == 2
    monkeypatch.setattr(
        "sys.argv", ["gallery.py", *lists[:2], "figures=[methods]", "methods=[gradcam]", f"ids=[{ids[1]}]", *options]
    )
    command_line("gallery")
    again = json.loads((folder / "parts-small_cnn-methods.json").read_text())
    assert [image["id"] for image in again["images"]] == ids[1:]
    assert again["rule"] == "given by id"
    assert f"ids=[{ids[1]}]" in again["command"]
    assert again["images"][0]["probabilities"] == pytest.approx(about["images"][1]["probabilities"], abs=1e-5)


def test_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """run.py experiment=gallery makes the same figures."""
    options = [
        "experiment=gallery",
        "model.weights=random",
        "p_t2_min=0",
        "count=1",
        "formats=[svg]",
        "figures=[fig4,fig1]",
    ]
    monkeypatch.setattr("sys.argv", ["run.py", *options, f"paths.results_dir={tmp_path}"])
    run.run(application.compose([*options, "plan=true", f"paths.results_dir={tmp_path}"]))
    assert not list(tmp_path.iterdir())
    run.run(application.compose([*options, f"paths.results_dir={tmp_path}"]))
    about = json.loads((tmp_path / "gallery/parts-small_cnn-fig1.json").read_text())
    assert about["files"] == ["parts-small_cnn-fig1.svg"]
    assert about["command"].startswith("wcx experiment=gallery model.weights=random p_t2_min=0 count=1")
    assert about["command"].endswith("'figures=[fig1]'")


@pytest.mark.parametrize(
    ("argument", "message"),
    [("figures=[fig2]", "fig1"), ("modles=[vgg16]", "model"), ("conut=3", "count"), ("datasets=[cup]", "cub")],
)
def test_script_names_a_wrong_choice(argument: str, message: str, cli: Callable[..., Any]) -> None:
    done = cli("gallery", argument)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
