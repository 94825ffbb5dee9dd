"""All results there are, in one HTML file: <results>/report.html.

python scripts/report.py                               the default results folder
python scripts/report.py paths.results_dir=elsewhere
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

from scripts import cli
from wcx.report import html


def main() -> None:
    """Write the report."""
    overrides = sys.argv[1:]
    cli.check_overrides(overrides)
    print(*html.write(Path(cli.compose(overrides).paths.results_dir)), sep="\n")


if __name__ == "__main__":
    cli.guarded(main)
