"""What the guides of the documentation tell a newcomer to write works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

GUIDES = ("own_method.md", "own_experiment.md")
FILE = re.compile(r"`((?:wcx|conf)/[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", re.DOTALL)


def test_the_method_and_the_experiment_of_the_guides_run(root: Path, tmp_path: Path) -> None:
    for folder in ("wcx", "conf", "results/published"):
        shutil.copytree(root / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "run.py", tmp_path)
    for guide in GUIDES:
        for path, content in FILE.findall((root / "docs" / "guide" / guide).read_text(encoding="utf-8")):
            (tmp_path / path).write_text(content, encoding="utf-8")
    arguments = ["experiment=mirrored", "method=squared_cam", "contrast=weighted", "model.weights=random", "limit=4"]
    done = subprocess.run(
        [sys.executable, "run.py", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cosine" in done.stdout
    assert "n = 4" in done.stdout


def test_the_python_of_the_network_guide_runs(root: Path, capsys) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (root / "docs" / "guide" / "own_network.md").read_text(), re.DOTALL)
    exec(compile(code, "own_network.md", "exec"), {})
    assert capsys.readouterr().out == "0 torch.Size([1, 4])\ntorch.Size([1, 32, 32])\n"
