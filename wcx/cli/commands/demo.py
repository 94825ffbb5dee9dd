"""Explain drawn birds in a minute or two: train a small network, then a small Table 1. Settings go to both.

wcx demo
wcx demo paths.results_dir=elsewhere
"""

from __future__ import annotations

import sys

from wcx.cli import start

TRAINING = ("dataset=parts", "model=small_cnn", "recipe=demo")
TABLE = (
    "datasets=[parts]",
    "models=[small_cnn]",
    "methods=[gradcam]",
    "contrasts=[original,weighted]",
    "checkpoint_recipe=demo",
)


def main() -> None:
    """Run both commands."""
    typed = sys.argv[1:]
    shared = [argument for argument in typed if argument.startswith(("paths.", "-"))]
    sys.argv[1:] = [*TRAINING, *shared]
    start("finetune")
    sys.argv[1:] = [*TABLE, *typed]
    start("table1")
