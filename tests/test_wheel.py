"""`pip install` of a checkout, without a network: the wheel holds conf/ and the published numbers, and `wcx` works anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

KEPT_OUT = (
    ".venv*",
    ".git",
    "results",
    "checkpoints",
    "build",
    "*.egg-info",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
)
Wcx = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(root, folder / "checkout", symlinks=True, ignore=shutil.ignore_patterns(*KEPT_OUT))
    shutil.copytree(root / "results" / "published", folder / "checkout" / "results" / "published")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-q",
        "-w",
        "out",
    ]
    subprocess.run([*command, "./checkout"], cwd=folder, check=True)
    return next((folder / "out").glob("wcx-*.whl"))


@pytest.fixture(scope="module")
def wcx(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Wcx:
    """The command of an environment of its own, which sees the libraries and nothing else of this one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel], check=True
    )
    [packages] = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    (folder / "empty").mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WCX_", "PYTHON"))}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [folder / "env" / "bin" / "wcx", *arguments]
        return subprocess.run(command, cwd=folder / "empty", env=clean, capture_output=True, text=True, check=False)

    call.folder = folder / "empty"
    return call


def test_the_wheel_holds_every_choice_and_the_published_numbers(wheel: Path, root: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"wcx/conf/{file.relative_to(root / 'conf')}" for file in (root / "conf").rglob("*.yaml")} <= names
    assert {
        "wcx/report/published/table1_published.csv",
        "wcx/py.typed",
        "wcx/report/page/page.html.j2",
        "wcx/report/sharing/card.md.j2",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "conf/"))]


def test_the_command_lists_what_there_is(wcx: Wcx) -> None:
    done = wcx("--help")
    assert done.returncode == 0, done.stderr
    assert {"wcx table1", "wcx fig3", "wcx demo", "wcx masking"} <= {
        " ".join(line.split()[:2]) for line in done.stdout.splitlines()
    }


def test_table_1_in_a_folder_elsewhere(wcx: Wcx) -> None:
    small = ["model.weights=random", "threshold=0", "limit=4", "figure=0", "methods=[gradcam]", "num_workers=0"]
    done = wcx("table1", "datasets=[parts]", "models=[small_cnn]", *small)
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(wcx.folder / "results" / "table1.csv")["n"]) == {4}


def test_a_photograph_in_a_folder_elsewhere(wcx: Wcx) -> None:
    Image.new("RGB", (300, 200), "olive").save(wcx.folder / "photo.jpg")
    done = wcx("image=photo.jpg", "model=squeezenet1_1", "model.weights=random")
    assert done.returncode == 0, done.stderr
    assert list(wcx.folder.glob("results/images/*.png"))
