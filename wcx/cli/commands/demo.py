"""Explain drawn birds in a minute or two: train a small network, then a small Table 1. Settings go to both.

wcx demo
wcx demo paths.results_dir=elsewhere
"""

from __future__ import annotations

import sys

from wcx.cli.commands import finetune, table1

TRAINING = ("dataset=parts", "model=small_cnn", "recipe=demo")
TABLE = ("datasets=[parts]", "models=[small_cnn]", "methods=[gradcam]", "contrasts=[original,weighted]", "recipe=demo")


def main() -> None:
    """Run both commands."""
    typed = sys.argv[1:]
    shared = [argument for argument in typed if argument.startswith(("paths.", "-"))]
    if {"-h", "--help"} & set(typed):
        print(__doc__)
        return
    sys.argv[1:] = [*TRAINING, *shared]
    finetune.main()
    sys.argv[1:] = [*TABLE, *typed]
    table1.main()
