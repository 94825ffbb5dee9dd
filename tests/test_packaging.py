"""The files around the package: dependencies in step, citation, Makefile, CI's rule on skips, what is tracked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

CONDA_NAMES = {"pytorch-gpu": "torch"}  # conda-forge's name -> PyPI's


def _bounds(requirements: list[str]) -> dict[str, str]:
    """Return {name: lower bound} of requirements such as "torch>=2.6"."""
    pairs = [re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement.strip()) for requirement in requirements]
    assert all(pairs), f"each requirement is name>=bound: {requirements}"
    return {CONDA_NAMES.get(name, name): bound for name, bound in (pair.groups() for pair in pairs)}


def test_environment_yml_is_in_step_with_pyproject(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    expected = _bounds(project["dependencies"] + project["optional-dependencies"]["dev"])
    expected["python"] = project["requires-python"].removeprefix(">=")

    listed = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    [pip] = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    conda = [entry for entry in listed if isinstance(entry, str) and entry != "pip"]
    assert _bounds(conda + [entry for entry in pip if entry != "-e ."]) == expected


def test_version_is_stated_once_and_the_same(root: Path) -> None:
    import wcx

    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert version == wcx.__version__ == str(citation["version"])


def test_citation_names_the_software_and_the_paper(root: Path) -> None:
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    [paper] = citation["references"]
    assert "Class-Contrastive" in paper["title"]
    assert [author["given-names"] for author in paper["authors"]] == ["Yipei", "Xiaoqian"]


def test_the_badges_say_what_pyproject_says(root: Path) -> None:
    """None is of a service that knows nothing of this repository: it has no public address."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    badges = re.findall(
        r"^!\[(.*?)\]\(https://img\.shields\.io/(\S+)\)$", (root / "README.md").read_text(), re.MULTILINE
    )
    python = project["requires-python"].removeprefix(">=")
    assert badges == [
        (f"version {project['version']}", f"badge/version-{project['version']}-blue"),
        (f"Python {python} or newer", f"badge/python-{python}%2B-blue"),
        (f"licence {project['license']['text']}", f"badge/licence-{project['license']['text']}-green"),
    ]


def _make(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=root, capture_output=True, text=True, check=False)


def test_make_help_lists_every_target(root: Path) -> None:
    targets = re.findall(r"^\.PHONY: (\S+)$", (root / "Makefile").read_text(), re.MULTILINE)
    asked = {
        "help",
        "setup",
        "demo",
        "test",
        "lint",
        "table1",
        "fig3",
        "bench",
        "clean",
        "finetune",
        "report",
        "verify",
    }
    assert asked <= set(targets)
    by_default = _make(root)
    assert by_default.returncode == 0
    assert by_default.stdout == _make(root, "help").stdout
    listed = re.findall(r"^  make ([\w-]+) +\S", by_default.stdout, re.MULTILINE)
    experiments = {file.stem for file in root.glob("conf/experiment/*.yaml")} - {"gallery", "photo"}
    assert sorted(listed) == sorted({*targets, *experiments} - {"$(EXPERIMENTS)"})


def test_make_passes_lists_to_the_runner(tmp_path: Path, root: Path) -> None:
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "table1.py").write_text("import sys; print(sys.argv[1:])")
    choices = ["DATASETS=cub cars", "MODELS=alexnet", "LIMIT=100", "RECIPE=head", "RESULTS=out", "ARGS=seed=1"]
    done = _make(tmp_path, "table1", f"PYTHON={sys.executable}", *choices)
    expected = [
        "datasets=[cub,cars]",
        "models=[alexnet]",
        "recipe=head",
        "limit=100",
        "paths.results_dir=out",
        "seed=1",
    ]
    assert done.stdout.strip() == str(expected), done.stderr
    for name in ("fig3", "gallery", "bench"):
        shutil.copy(tmp_path / "scripts" / "table1.py", tmp_path / "scripts" / f"{name}.py")
        done = _make(tmp_path, name, f"PYTHON={sys.executable}", "METHODS=lrp", "CONTRASTS=max", "LIMIT=4")
        limit = "images=4" if name == "bench" else "limit=4"
        assert done.stdout.strip() == str(["methods=[lrp]", "contrasts=[max]", limit]), done.stderr


def test_a_missing_runner_is_one_line_before_any_set_up(tmp_path: Path, root: Path) -> None:
    shutil.copy(root / "Makefile", tmp_path)
    done = _make(tmp_path, "fig3")
    assert done.returncode != 0
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if "***" not in line]
    assert len(said) == 1
    assert "scripts/fig3.py" in said[0]
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_ci_turns_a_skip_for_want_of_shared_files_into_a_failure(
    tmp_path: Path, root: Path, required: str, outcome: str
) -> None:
    shutil.copy(root / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_needs_shared.py").write_text("def test_needs_shared(shared): pass")
    environment = os.environ | {"WCX_REQUIRE_SHARED": required, "WCX_SHARED": str(tmp_path / "absent")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout


POSIX = ("fcntl", "grp", "pwd", "pty", "resource", "termios")
WINDOWS = f"""
import importlib, os, pkgutil, sys
sys.modules.update(dict.fromkeys({POSIX}))  # an import of one of them fails
"""


def test_the_package_is_imported_where_posix_is_missing(root: Path) -> None:
    """As on Windows; what an extra is missing for is left out."""
    code = (
        WINDOWS
        + """
import wcx
for module in pkgutil.walk_packages(wcx.__path__, "wcx."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert error.name not in sys.modules, error
"""
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_tests_are_collected_and_skipped_where_posix_is_missing(root: Path) -> None:
    """CI runs them on Windows; a file that uses one of these names has marked tests."""
    names = re.compile(rf"\bimport ({'|'.join(POSIX)})\b|os\.(fork|kill)\b|signal\.SIGKILL|context\(\"fork\"\)|=/dev/")
    files = [
        path.relative_to(root).as_posix()
        for path in sorted((root / "tests").rglob("*.py"))
        if path.name not in ("conftest.py", Path(__file__).name) and names.search(path.read_text(encoding="utf-8"))
    ]
    files = [name for name in files if not name.startswith(("tests/extras/", "tests/browser/"))]  # on Linux alone
    unmarked = [name for name in files if "pytest.mark.posix" not in (root / name).read_text(encoding="utf-8")]
    assert files
    assert unmarked == []
    code = WINDOWS + "import pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-q", "-m", "posix", "-p", "no:cacheprovider", *files, "tests/test_files.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ skipped, \d+ deselected", done.stdout.splitlines()[-1]), done.stdout


def test_nothing_large_and_no_stray_picture_is_tracked(root: Path) -> None:
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    files = [Path(name) for name in listed.split("\0") if name and (root / name).is_file()]
    assert not [str(file) for file in files if (root / file).stat().st_size > 2**20]
    pictures = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".svg", ".npz", ".npy", ".pth", ".safetensors"}
    assert not [str(f) for f in files if f.suffix.lower() in pictures and Path("docs/images") not in f.parents]
