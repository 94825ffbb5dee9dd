"""formats=[...] and style=print: every command that draws a figure writes it as asked for, and in no other way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from wcx.report.pictures import FORMATS, draw

BIRDS = [
    "dataset.size=32",
    "dataset.transform.size=32",
    "model.weights=random",
    "limit=4",
    "batch_size=4",
    "chunk_size=4",
]
CELL = ["dataset=parts", "model=small_cnn", *BIRDS, "threshold=0", "figure=1"]
NETWORKS = ["datasets=[parts]", "models=[small_cnn]"]
PHOTOGRAPH = ["image=bird.png", "model=small_cnn", "model.weights=random", "dataset=parts", *BIRDS[:2]]
COMMANDS = {
    "run": (CELL, {"selected"}),
    "photograph": (PHOTOGRAPH, {"bird-small_cnn-parts"}),
    "table1": ([*NETWORKS, *BIRDS, "threshold=0", "figure=1", "methods=[gradcam]"], {"parts-small_cnn-gradcam"}),
    "fig3": (["dataset=parts", *NETWORKS[1:], *BIRDS, "contrasts=[original]"], {"fig3"}),
    "gallery": ([*NETWORKS, *BIRDS, "p_t2_min=0", "count=1", "figures=[fig4]"], {"parts-small_cnn-fig4"}),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("command", COMMANDS)
def test_figures_have_the_formats_asked_for(
    command: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("bird.png")
    arguments, names = COMMANDS[command]
    done = cli("run" if command == "photograph" else command, *arguments, "paths.results_dir=out", "formats=[svg,pdf]")
    assert done.returncode == 0, done.stderr
    drawn = {file.name for file in Path("out").rglob("*") if file.suffix[1:] in FORMATS}
    assert drawn == {f"{name}.{suffix}" for name in names for suffix in ("svg", "pdf")}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "fig3"])
def test_heatmaps_have_the_style_asked_for(
    command: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the gallery's alone: in grey the others' signs were told by nothing."""
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((32, 32), 90).convert("RGB").save("bird.png")
    figures: list[Figure] = []

    def write_figure(figure: Figure, path: Path, *_: object, **__: object) -> list[Path]:
        figures.append(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        return [path]

    monkeypatch.setattr(draw, "write_figure", write_figure)
    done = cli(
        "run" if command == "photograph" else command, *COMMANDS[command][0], "paths.results_dir=out", "style=print"
    )
    assert done.returncode == 0, done.stderr
    [figure] = figures
    hatched = [drawn for ax in figure.axes for drawn in ax.collections if getattr(drawn, "hatches", [None])[0]]
    assert hatched
    assert "negative features are hatched" in " ".join(text.get_text() for text in figure.texts)


def test_an_unknown_format_is_told_before_anything_is_computed(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for setting, message in (
        ("formats=[jpg]", "unknown format 'jpg'"),
        ("formats=[]", "formats is empty"),
        ("style=grey", "unknown style 'grey'"),
    ):
        done = cli("table1", *COMMANDS["table1"][0], "paths.results_dir=out", setting)
        assert done.returncode == 2
        assert message in done.stderr
    assert not Path("out").exists()
