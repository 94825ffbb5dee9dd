"""The documents: what they point to exists, and what they state is what the configuration says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import wcx

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/published/*.md")])


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_public_method_says_what_it_does_or_overrides_one_that_does() -> None:
    undocumented = []
    for place in pkgutil.walk_packages(wcx.__path__, "wcx."):
        try:
            module = importlib.import_module(place.name)
        except ModuleNotFoundError:  # of an extra
            continue
        kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == place.name]
        for kind in kinds:
            public = [name for name in vars(kind) if name[0] != "_" and inspect.isroutine(getattr(kind, name))]
            undocumented += [f"{kind}.{name}" for name in public if not inspect.getdoc(getattr(kind, name))]
    assert not undocumented


def test_links_and_pictures_exist(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    relative = [target.split("#")[0] for target in targets if not re.match(r"https?://|mailto:|#", target)]
    built = "images/built/"  # by the site's build; mkdocs --strict misses none
    assert not [target for target in relative if built not in target and not (document.parent / target).exists()]


def broken_notebook_links(text: str) -> list[str]:
    """The links to Colab that do not open a notebook of this repository."""
    form = r"https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/[\w.-]+/(.+\.ipynb)"
    matches = {link: re.fullmatch(form, link) for link in re.findall(r"\bhttps?://colab\.[^\s()\[\]\"'<>]+", text)}
    return [link for link, match in matches.items() if not match or not (ROOT / match[1]).is_file()]


def test_links_to_colab_open_a_notebook_that_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is none yet: this repository has no public address."""
    assert not [path for path in [*DOCUMENTS, *ROOT.glob("docs/**/*.py")] if broken_notebook_links(path.read_text())]
    (tmp_path / "a.ipynb").touch()
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    colab = "https://colab.research.google.com/github/somebody/wcx"
    assert broken_notebook_links(f"[here]({colab}/blob/main/a.ipynb)") == []
    for link in (f"{colab}/blob/main/b.ipynb", f"{colab}/main/a.ipynb", f"{colab}/blob/main/docs/notebook.py"):
        assert broken_notebook_links(f"[here]({link})") == [link]


def test_choices_of_the_command_line_exist(document: Path) -> None:
    groups = [folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()]
    choices = re.findall(rf"(?<![\w.])({'|'.join(groups)})=([a-z][\w,]*)", document.read_text())
    named = {(group, name) for group, names in choices for name in names.split(",") if name}
    here = re.findall(r"`conf/(\w+)/(\w+)\.yaml`:", document.read_text())  # files that a guide makes
    assert not [
        f"{group}={name}"
        for group, name in sorted(named - set(here))
        if not (ROOT / "conf" / group / f"{name}.yaml").exists()
    ]


def test_runners_and_targets_exist(document: Path) -> None:
    text = document.read_text()
    assert not [script for script in re.findall(r"python ((?:scripts/)?\w+\.py)", text) if not (ROOT / script).exists()]
    targets = re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets += [file.stem for file in ROOT.glob("conf/experiment/*.yaml")]
    commands = re.findall(r"(?:`|^    |\n    )make ([a-z][\w-]*)", text)
    assert set(commands) <= set(targets)


def test_protocol_table_states_both_profiles() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \|", (ROOT / "docs" / "protocols.md").read_text(), re.MULTILINE
    )
    for column, name in enumerate(["paper", "authors_code"], start=1):
        profile = yaml.safe_load((ROOT / "conf" / "profile" / f"{name}.yaml").read_text())
        assert profile.pop("name") == name
        assert {row[0]: yaml.safe_load(row[column]) for row in rows} == profile
