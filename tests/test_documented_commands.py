"""Every command that README.md and docs/ show is composed, up to the point where it would compute."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from wcx.cli import application, grid
from wcx.cli import main as command_line

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
LINE = re.compile(r"(?:^ *|`)((?:python (?:run|scripts/\w+)\.py|make|wcx)(?: [^`\n]*)?)(?=`|$)", re.MULTILINE)
ELSEWHERE = {
    "hydra/launcher": "launchers are plugins, tried in test_sweeps",
    "--": "told by Hydra or the command itself",
}


def documented() -> list[str]:
    """Return the commands of all documents, each once, without what is no command: names in a sentence, placeholders."""
    text = "\n".join(document.read_text(encoding="utf-8").replace("\\\n", " ") for document in DOCUMENTS)
    text = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda code: " ".join(code[0].split()), text)
    commands = [re.sub(r"\s+# .*", "", command).strip() for command in LINE.findall(text)]
    return sorted({command for command in commands if " " in command and "..." not in command and "<" not in command})


def lines_of(command: str) -> Iterator[list[str]]:
    """Yield the arguments that `wcx` gets from a command, its own name first."""
    words = shlex.split(command)
    if words[0] == "make":
        arguments = ["make", "-n", "-C", str(ROOT), "PYTHON=python", *(w for w in words[1:] if "PYTHON=" not in w)]
        printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")
        yield from (shlex.split(line)[3:] for line in printed.splitlines() if "-m wcx.cli" in line)
    elif words[0] == "wcx":
        yield words[1:] if "=" not in words[1] else ["run", *words[1:]]
    else:
        yield [Path(words[1]).stem, *words[2:]]


def compose_each(asked: grid.Grid) -> None:
    """Every value of every list, in as few cells as that takes: which others stand beside it changes nothing."""
    lists = {key: values for key, values in asked.lists.items() if values}
    for i in range(max(map(len, lists.values()))):
        cell = replace(asked, lists={key: [values[i % len(values)]] for key, values in lists.items()})
        assert [cell.cells(block.pair) for block in cell.blocks()]


@pytest.mark.parametrize("command", documented())
def test_a_documented_command_is_composed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for sign, reason in ELSEWHERE.items():
        if sign in command:
            pytest.skip(reason)
    composed: list[DictConfig] = []
    run = application.main

    def compose_only(function: object, config_name: str = "config", complete: object = list) -> None:
        def stop(cfg: DictConfig) -> None:
            OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
            composed.append(cfg)
            if "datasets" in cfg and "contrasts" in cfg:
                compose_each(grid.Grid.of(cfg))

        run(stop, config_name, complete)

    monkeypatch.setattr(application, "main", compose_only)
    monkeypatch.chdir(tmp_path)
    for words in lines_of(command):
        monkeypatch.setattr(sys, "argv", words)
        command_line(words[0])
        assert composed or words[0] in ("pytest", "report"), capsys.readouterr().err


def test_the_documents_show_commands() -> None:
    assert len(documented()) > 30
