"""make check-gpu, smaller, on this CPU: every part but Ray's, whose test is in tests/extras."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wcx.checks import gpu

SMALL = [
    "dataset=parts", "networks=[small_cnn]", "fast=[squeezenet1_1]", "model.weights=random", "dataset.size=48",
    "images=4",
]  # fmt: skip


@pytest.fixture
def check(
    cli: Callable[..., Any], tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, dict]]:
    """Run the check of three contrasts, of which one varies along a path: what is compared is whole maps."""
    monkeypatch.setattr(gpu.contrasts, "names", lambda: ["original", "weighted", "probability"])

    def call(*arguments: str) -> tuple[Any, dict]:
        done = cli("check_gpu", *SMALL, "device=cpu", f"paths.results_dir={tmp_path}", *arguments)
        file = tmp_path / "check_gpu.json"
        return done, json.loads(file.read_text()) if file.exists() else {}

    return call


def test_all_parts_on_a_cpu(check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as where Ray is not installed
    done, facts = check("seconds=86400")  # all parts begin on a slow machine, too
    assert done.returncode == 0, done.stdout
    assert facts["left_out"] == {"ray": "Ray is not installed (pip install 'wcx[ray]')"}
    assert {finding["part"] for finding in facts["findings"]} == set(gpu.PARTS) - {"ray"}
    [batch] = [f["value"] for f in facts["findings"] if "batch in the end" in f["subject"]]
    assert batch == 2, "the network refused more than two images"
    errors = [f["value"] for f in facts["findings"] if f["part"] == "agreement"]
    assert all(0 < error < 0.02 for error in errors), "float32 against float64; integrated gradients cross kinks"
    table = (tmp_path / "check_gpu.md").read_text().splitlines()
    assert len(table) == 2 + len(facts["findings"]) + 1
    assert {line.count("|") for line in table} == {5}


def test_maps_that_are_off_here_and_not_on_the_cpu_are_missed(check, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, calls = gpu._maps, []

    def wrong(*arguments: object) -> dict:
        calls.append(arguments)
        return {cell: phi * (1.05 if len(calls) == 3 else 1) for cell, phi in maps(*arguments).items()}

    monkeypatch.setattr(gpu, "_maps", wrong)  # called for float64, the CPU, and the device
    monkeypatch.setattr(gpu.methods, "of_gradients", lambda: ["gradcam", "input_x_gradient", "lrp"])
    done, facts = check("parts=[agreement]")
    assert done.returncode == 1
    assert not any(finding["kept"] for finding in facts["findings"])


def test_a_method_that_a_network_does_not_take_is_left_out_with_its_reason(
    check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the default networks: LRP has no rule for its squeeze and excitation."""
    monkeypatch.setattr(gpu.methods, "of_gradients", lambda: ["gradcam", "lrp", "xgradcam"])
    results = tmp_path / "not" / "there"
    done, _ = check("parts=[agreement]", "networks=[mobilenet_v3_small]", f"paths.results_dir={results}")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((results / "check_gpu.json").read_text())
    subjects = [finding["subject"] for finding in facts["findings"]]
    assert subjects == [f"mobilenet_v3_small {method}, float32 error" for method in ("gradcam", "xgradcam")]
    [(left_out, reason)] = facts["left_out"].items()
    assert left_out == "agreement: mobilenet_v3_small lrp"
    assert "no rule" in reason
    assert f"left out: {reason}" in (results / "check_gpu.md").read_text()


def test_no_part_begins_after_the_time(check) -> None:
    done, facts = check("seconds=0")
    assert done.returncode == 0
    assert facts["left_out"] == dict.fromkeys(gpu.PARTS, "0 s are over")
