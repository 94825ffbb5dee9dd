"""What the guides of the documentation tell a newcomer to write works as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from wcx.cli import application
from wcx.cli.commands import app

GUIDES = ("own_method.md", "own_experiment.md")
FILE = re.compile(r"`((?:wcx|conf)/[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", re.DOTALL)


def test_the_method_and_the_experiment_of_the_guides_run(root: Path, tmp_path: Path) -> None:
    for folder in ("wcx", "conf", "results/published"):
        shutil.copytree(root / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "run.py", tmp_path)
    for guide in GUIDES:
        for path, content in FILE.findall((root / "docs" / "guide" / guide).read_text(encoding="utf-8")):
            (tmp_path / path).write_text(content, encoding="utf-8")
    arguments = ["experiment=mirrored", "method=squared_cam", "method.relu=true", "contrast=weighted"]
    arguments += ["model.weights=random", "limit=4"]
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


def test_the_commands_of_the_pages_guide_are_composed(root: Path) -> None:
    text = (root / "docs" / "guide" / "app.md").read_text(encoding="utf-8")
    commands = [re.sub(r"\s+# .*", "", line) for line in re.findall(r"^    wcx app.*", text, re.MULTILINE)]
    assert len(commands) == 6
    for command in commands:
        overrides = app.complete(shlex.split(command)[2:])
        application.check_overrides(overrides)
        cfg = application.compose(overrides, "app")
        assert cfg.host == ("0.0.0.0" if "host=" in command else "127.0.0.1")
        assert cfg.experiment == "photo"
        assert cfg.dataset.name == ("cub" if "cub" in command else "parts" if "model=" not in command else "imagenet")
