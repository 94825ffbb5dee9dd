"""formats=[...]: every command that draws a figure writes it in the formats asked for, and in no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wcx.report.pictures import FORMATS

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


def test_an_unknown_format_is_told_before_anything_is_computed(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for formats, message in (("[jpg]", "unknown format 'jpg'"), ("[]", "formats is empty")):
        done = cli("table1", *COMMANDS["table1"][0], "paths.results_dir=out", f"formats={formats}")
        assert done.returncode == 2
        assert message in done.stderr
    assert not Path("out").exists()
