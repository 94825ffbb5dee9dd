"""`wcx verify`: its parts, tables, drawings and plans, and a mistake as one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wcx import checks, records
from wcx.checks import oracle, processes
from wcx.cli import main as command_line
from wcx.errors import WcxError, choose

pytestmark = pytest.mark.usefixtures("one_thread")

LISTS = ["parts=[oracle]", "networks=[bias_free]", "methods=[gradcam,xgradcam]", "contrasts=[weighted]"]


def test_tables_come_from_records_that_are_made_once(tmp_path: Path, cli: Callable[..., Any]) -> None:
    for passes in ("'forward': 168", "none: all records were there"):
        out = cli("verify", *LISTS, f"paths.results_dir={tmp_path}").stdout
        assert "8 cells, 6 measured, 0 over the tolerance" in out
        assert "(1) captum has no such method" in out
        assert passes in out
    assert len(records.find(tmp_path, "oracle")) == 2
    table = (tmp_path / "tables" / "oracle_full.csv").read_text().splitlines()
    assert table[0].split(",")[:3] == ["method", "network", "error"]
    assert len(table) == 1 + 8


def test_a_check_is_a_command_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`wcx oracle ...` is `wcx verify parts=[oracle] ...`; a companion has a command of its own."""
    plans = []
    for command in (["verify", "parts=[oracle]"], ["oracle"]):
        monkeypatch.setattr("sys.argv", ["wcx", *command, *LISTS[1:], "plan=true", f"paths.results_dir={tmp_path}"])
        command_line()
        plans.append(capsys.readouterr().out)
    assert plans[0] == plans[1]
    assert plans[0].count("model: bias_free") == 2
    assert [check.name() for check in checks.of_part("completeness")] == ["completeness"]


def test_help_lists_every_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["wcx", "--help"])
    command_line()
    lines = capsys.readouterr().out.splitlines()
    for name in ("table1", "masking", *checks.names()):
        [line] = [line for line in lines if line.startswith(f"wcx {name} ")]
        assert len(line.split()) > 4


def test_a_plan_measures_nothing(tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = cli("verify", *LISTS, "plan=true", f"paths.results_dir={tmp_path}").stdout
    assert out.count("dataset: noise; model: bias_free; cells: 1; complete: 0; images: 1; images_left: 1") == 2
    assert not list(tmp_path.iterdir())


def test_an_oracle_that_disagrees_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    monkeypatch.setattr(oracle, "TOLERANCE", {"float64": 0.0, "float32": 0.0})
    done = cli("verify", *LISTS, f"paths.results_dir={tmp_path}")
    assert done.returncode == 1
    assert "0 over the tolerance" not in done.stdout


def test_without_captum_the_oracle_is_one_line(tmp_path: Path, root: Path) -> None:
    """The other checks are there."""
    script = (
        "import sys; sys.modules['captum'] = None\n"
        "from wcx import checks; assert checks.of_part('stability')\n"
        f"sys.argv = ['wcx', 'verify', 'parts=[stability,oracle]', 'paths.results_dir={tmp_path}']\n"
        "from wcx.cli import main; main()"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.count("\n") == 1
    assert "pip install captum" in process.stderr


def test_an_error_in_a_process_of_its_own_is_raised_here() -> None:
    with pytest.raises(WcxError, match="Did you mean 'cub'"):
        processes.alone(choose, "dataset", "cubs", ["cub"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("parts=[orcale]", "oracle"),
        ("networks=[vgg61]", "vgg16"),
        ("methods=[gradcma]", "gradcam"),
        ("contrasts=[weigthed]", "weighted"),
        ("limt=3", "limit"),
        ("parts=oracle,cost", "parts=[oracle,cost]"),
        ("dataset=cub", "networks=[...]"),
    ],
)
def test_a_wrong_choice_is_one_line(argument: str, message: str, cli: Callable[..., Any]) -> None:
    done = cli("verify", argument)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
