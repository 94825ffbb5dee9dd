"""An export without pyarrow, and what columns mean; with it: tests/extras."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wcx import experiments
from wcx.cli import main as command_line
from wcx.report.sharing import results


@pytest.mark.parametrize("arguments", [[], ["experiment=twins", "dataset.size=48", "model.weights=random", "limit=2"]])
def test_without_pyarrow_one_line_names_the_extra(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as where it is not installed
    monkeypatch.setattr(sys, "argv", ["wcx", "export", *arguments, f"paths.results_dir={tmp_path}"])
    with pytest.raises(SystemExit) as end:
        command_line()
    assert end.value.code == 2
    line = "error: wcx export needs pyarrow: pip install 'wcx[export]', or from a checkout -e '.[export]'."
    assert capsys.readouterr().err.splitlines() == [line]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", experiments.names())
def test_every_column_of_every_experiment_has_a_meaning(name: str) -> None:
    experiment = experiments.get(name)
    columns = experiment.columns(experiment.protocol(), boxes=True)
    assert not [column for column in columns if results.meaning(name, column).startswith("see wcx.")]
    assert results.meaning(name, "nothing/of/it") == f"see wcx.experiments.{name}"


def test_meanings_by_hand() -> None:
    assert results.meaning("masking", "y_t2") == "logit of class t_i"
    assert results.meaning("masking", "box_fraction") == "share of the image that the object's box covers"
    assert results.meaning("twins", "verified/q1") == "of them those that the network answers by the parts swapped"
    assert "a changed pixel has a larger value" in results.meaning("twins", "auroc/q1/all")
    assert results.meaning("insertion_deletion", "srg/t_1/blur/p").endswith("(curve / target / baseline / value)")
    assert results.meaning("bench", "seconds") == "see wcx.checks.bench"
