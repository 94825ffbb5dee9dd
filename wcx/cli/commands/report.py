"""All results there are, in one HTML file: <results>/report.html.

wcx report                               the default results folder
wcx report paths.results_dir=elsewhere

What is damaged is named on the page and on the screen, the rest is shown, and the exit code is 1.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from wcx.cli import grid
from wcx.cli.quoting import CONF


def run(cfg: DictConfig) -> None:
    """Write the report."""
    from wcx.report import docs, page

    if cfg.docs:
        print("docs:", *docs.write(CONF.parent / "docs"))
        return
    refused: list[str] = []
    print(*page.write(Path(cfg.paths.results_dir), refused), sep="\n")
    grid.fail({}, refused)
