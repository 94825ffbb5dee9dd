"""What the command line does not import before it is needed: each of these takes from a third of a second to two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LATE = ("torchvision", "torch._dynamo", "torch._inductor", "pandas", "matplotlib", "scipy", "zennit", "captum")


def test_run_imports_no_slow_library_at_the_start(root: Path) -> None:
    """Nor does an explanation by a network that is not torchvision's."""
    script = (
        "import sys, torch, run, wcx, wcx.cli.commands.run; from wcx import models\n"
        "net = models.load('small_cnn', num_classes=3, weights='random').net\n"
        "wcx.explain(net, torch.rand(1, 3, 32, 32), 0)\n"
        f"print(*[name for name in {LATE} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
