"""What results were made with: versions, device, commit, command. No time stamp: the same run writes the same file."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
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


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the code, "+" appended where the tree was changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")
