"""What results were made with: versions, device, commit, command. No time stamp: the same run writes the same file."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import torch

_LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "pillow", "hydra-core", "zennit", "wcx")


def manifest(device: torch.device, **facts: Any) -> dict[str, Any]:
    """Return versions, device, platform, git commit and command line, and `facts` (JSON values) beside them."""
    cuda = device.type == "cuda"
    return {
        **facts,
        "versions": {name: _version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "command": sys.argv,
    }


def command_line(argv: object) -> str:
    """Return the command of a manifest as it is typed in the repository; "" if it was none of our runners.

    Example:
        >>> command_line(["/home/me/wcx/scripts/table1.py", "datasets=[cub]"])
        "python scripts/table1.py 'datasets=[cub]'"
    """
    if not isinstance(argv, list) or not argv or not all(isinstance(part, str) for part in argv):
        return ""
    path = PurePath(argv[0])
    if path.name.partition(" ")[0] == "wcx":
        return f"{path.name} {shlex.join(argv[1:])}"
    if path.name != "run.py" and path.parent.name != "scripts":
        return ""
    script = path.name if path.name == "run.py" else f"scripts/{path.name}"
    return f"python {shlex.join([script, *argv[1:]])}"


def again(folder: Path) -> str:
    """Return what mends damaged records in words: the command in a folder's manifest.json, if that was one of our runners."""
    try:
        command = command_line(json.loads((folder / "manifest.json").read_bytes())["command"])
    except (OSError, ValueError, KeyError, TypeError):
        command = ""
    return f"to mend it, run {command or 'the command that made it'}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the code, "+" appended where the tree was changed; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")
