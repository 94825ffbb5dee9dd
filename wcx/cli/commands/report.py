"""All results there are, in one HTML file: <results>/report.html.

python scripts/report.py                               the default results folder
python scripts/report.py paths.results_dir=elsewhere
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from wcx.cli import application


def run(cfg: DictConfig) -> None:
    """Write the report."""
    from wcx.report import html

    print(*html.write(Path(cfg.paths.results_dir)), sep="\n")


def main() -> None:
    """Run the command line."""
    application.main(run)
