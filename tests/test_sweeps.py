"""A sweep's failures are told at the end, wherever its jobs ran."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import hydra
import pytest

from wcx.cli import application, sweeps


def test_notes_of_other_processes_are_told_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sweep() -> None:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # as joblib starts its workers
            assert pool.apply(sweeps.note, ("failed", "cub vgg16", "not there"))
        assert sweeps.note("skipped", "parts small_cnn", "no such thing")

    with pytest.raises(SystemExit, match="1"), sweeps.reported(tmp_path / "sweeps"):
        sweep()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["failed: cub vgg16: not there", "skipped: parts small_cnn: no such thing"]
    assert not list((tmp_path / "sweeps").iterdir())


def test_what_was_skipped_is_no_failure_and_an_error_of_the_sweep_hides_no_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sweep() -> None:
        sweeps.note("failed", "b", "what")
        raise KeyError("launcher")

    with sweeps.reported(tmp_path):
        sweeps.note("skipped", "a", "why")
    with pytest.raises(KeyError), sweeps.reported(tmp_path):
        sweep()
    assert capsys.readouterr().err.splitlines() == ["skipped: a: why", "failed: b: what"]
    assert not sweeps.note("failed", "c", "nowhere"), "no sweep is running"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers_compose(launcher: str) -> None:
    plugin = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    pytest.importorskip(plugin, reason="pip install -e '.[launchers]'")
    with hydra.initialize_config_dir(str(application.CONF), version_base="1.3"):
        cfg = hydra.compose("config", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert launcher.partition("_")[0] in cfg.hydra.launcher._target_
