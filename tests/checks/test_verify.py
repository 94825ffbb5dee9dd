"""The checks on small networks: the oracle table, what is counted and compared, resuming, and `wcx verify`."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import wcx
from tests import nets
from wcx import checks, contrasts, methods
from wcx.checks import captum, cells, cost, ig, oracle, processes, specimens, stability
from wcx.checks.specimens import Specimen
from wcx.cli import grid
from wcx.cli import main as command_line
from wcx.errors import WcxError, choose

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {variant.label: variant for variant in oracle.variants()}


def small(network: str, count: int) -> Specimen:
    return Specimen(network, "random", specimens.SMALL[network](), nets.images(count))


def test_variants_cover_every_method() -> None:
    assert {variant.method for variant in VARIANTS.values()} == {
        name for name in methods.names() if methods.get(name).linear
    }


@pytest.mark.parametrize("network", specimens.SMALL)
@pytest.mark.parametrize("label", VARIANTS)
def test_oracle(label: str, network: str) -> None:
    """Within the issue's tolerances of the sum over classes and of captum; what cannot be compared says why."""
    for dtype in oracle.TOLERANCE:
        rows = oracle.compare(small(network, 1), VARIANTS[label], dtype, contrasts.names())
        assert [(row["contrast"], row["oracle"]) for row in rows] == [
            (name, kind) for name in contrasts.names() for kind in ("sum over classes", "captum")
        ]
        assert {row["status"] for row in rows if row["oracle"] == "sum over classes"} == {"ok"}
        for row in rows:
            assert row["status"] == "ok" or (row["status"] == "not in captum" and row["reason"]), row


def test_oracle_sees_a_wrong_contrast() -> None:
    net, image = nets.conv_batchnorm().double(), nets.images(1).double()
    brute = oracle.BruteForce(net, image, VARIANTS["gradcam"], None, range(nets.CLASSES))
    expected, size = brute.combine(wcx.cotangent(net(image), 0, "weighted"))
    wrong = wcx.explain(net, image, 0, "gradcam", "mean")[0]
    assert float((wrong - expected).norm()) / size > 1e-3


def test_brute_force_knows_when_alpha_varies() -> None:
    """Along a path, frozen and varying cotangents give different sums."""
    net, image = nets.conv_batchnorm().double(), nets.images(1).double()
    net[9].weight.data *= 200
    brute = oracle.BruteForce(net, image, VARIANTS["integrated_gradients"], None, range(nets.CLASSES))
    varying, _ = brute.combine(lambda logits: wcx.cotangent(logits, 0, "probability"))
    frozen, _ = brute.combine(wcx.cotangent(net(image), 0, "probability"))
    got = wcx.explain(net, image, 0, "integrated_gradients", "probability", steps=oracle.STEPS)[0]
    torch.testing.assert_close(got, varying)
    assert float((got - frozen).norm() / got.norm()) > 0.01


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("deeplift", "only once: ReLU"),
        ("lrp", "does not see the function add, mean; captum allows a module only once: ReLU"),
        ("xgradcam", "no such method"),
        ("gradient", ""),
    ],
)
def test_captum_is_not_asked_for_what_it_cannot_see(method: str, reason: str) -> None:
    options = {"composite": "lrp_0"} if method == "lrp" else {}
    found = captum.reason_against(method, nets.residual(), options)
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("method", methods.names())
def test_passes_are_those_of_the_design(method: str) -> None:
    (row,) = cost.passes(cost.Case(small("conv_batchnorm", 3), method))
    # For the logits of the image itself, and two that tell whether steps may share a batch.
    clean = 3 if method == "integrated_gradients" else 0
    assert row["forward"] == row["design forward"] + clean
    assert row["backward"] == row["design backward"]
    assert row["backward to the image"] == (0 if methods.get(method).space == "activation" else row["backward"])


def test_stability_tells_the_two_apart() -> None:
    """At logit gaps beyond 18 the float32 softmax gradient is lost, and the weighted one is not."""
    net = nets.conv_batchnorm()
    net[9].weight.data *= 2000
    rows = stability.compare(net, _double(net), nets.images(), range(3))
    first = [row for row in rows if row["target"] == "t1" and row["gap"] > 18]
    assert first
    for row in first:
        if row["contrast"] == "weighted":
            assert row["relative_error"] < 1e-3
            assert row["cosine"] > 0.999999
        else:
            assert row["relative_error"] > 0.1


def _double(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).double()


def test_cells_resume_and_know_their_settings(tmp_path: Path) -> None:
    made: list[int] = []

    def compute() -> list[dict[str, object]]:
        made.append(1)
        return [{"error": float("nan"), "reason": ""}]

    for settings in ({"n": 1}, {"n": 1}, {"n": 2}):
        table = cells.Cells(tmp_path, "mean", [], settings).rows("a cell", compute)
        assert table.error.isna().all()
        assert table.reason[0] == ""
    assert len(made) == 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_cell_depends_on_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "WCX", tmp_path)
    monkeypatch.setattr(cells, "_EVERYWHERE", ())
    (tmp_path / "methods").mkdir()
    files = tmp_path / "models.py", tmp_path / "methods" / "lrp.py"
    for file in files:
        file.write_text("a")
    stamps = [cells.code_hash(["models", "methods"])]
    for file in files:
        file.write_text("b")
        stamps.append(cells.code_hash(["models", "methods"]))
    assert len(set(stamps)) == 3
    with pytest.raises(FileNotFoundError, match=r"weights\.py"):
        cells.code_hash(["weights"])


def test_every_part_is_a_check_whose_code_exists() -> None:
    modules = {
        name: importlib.import_module(f"wcx.checks.{name}") for _, name, _ in pkgutil.iter_modules(checks.__path__)
    }
    parts = {name: module for name, module in modules.items() if hasattr(module, "check")}
    assert set(parts) == set(grid.settings("verify")["parts"])
    assert set(grid.settings("verify")["networks"]) == set(specimens.NETWORKS)
    for name, module in parts.items():
        assert cells.code_hash([f"checks/{name}", *getattr(module, "CODE", ())])


def test_a_process_of_its_own_returns_a_value_or_raises() -> None:
    assert processes.alone(processes.mebibytes, "VmHWM") > 1
    with pytest.raises(WcxError, match="Did you mean 'cub'"):
        processes.alone(choose, "dataset", "cubs", ["cub"])


def test_without_captum_the_oracle_is_one_line(tmp_path: Path, root: Path) -> None:
    script = (
        "import sys; sys.modules['captum'] = None\n"
        f"sys.argv = ['wcx', 'verify', 'parts=[stability,oracle]', 'paths.results_dir={tmp_path}']\n"
        "from wcx.cli import main; main()"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.count("\n") == 1
    assert "pip install captum" in process.stderr
    assert cells._version("no such library") == ""


def test_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["parts=[oracle]", "networks=[bias_free]", "methods=[gradcam,xgradcam]", "contrasts=[weighted]"]
    monkeypatch.setattr("sys.argv", ["verify.py", *lists, f"paths.results_dir={tmp_path}"])
    for _ in range(2):
        command_line("verify")
        out = capsys.readouterr().out
        assert "8 cells, 6 measured, 0 over the tolerance" in out
        assert "(1) captum has no such method" in out
    assert (tmp_path / "verify" / "oracle.csv").is_file()
    assert len(list((tmp_path / "verify" / "cells").rglob("*.csv"))) == 4


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
def test_script_names_a_wrong_choice(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verify.py", argument])
    with pytest.raises(SystemExit) as stopped:
        command_line("verify")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_pictures_are_drawn(tmp_path: Path) -> None:
    complete = pd.DataFrame(
        {"image": [0, 0], "rule": "midpoint", "steps": [4, 8], "residual": [0.1, 0.01], "change": 1.0}
    )
    cosine = pd.DataFrame({"image": 0, "target": ["t1", "t2"], "p_t": [0.9, 0.1], "cosine": [0.8, 1.0]})
    ig.picture(complete, cosine).savefig(tmp_path / "ig.png")
    net = nets.conv_batchnorm()
    rows = pd.DataFrame(stability.compare(net, _double(net), nets.images(), range(3)))
    stability.picture(rows).savefig(tmp_path / "stability.png")
    assert set(stability.bins(rows).columns) >= {"n", "error_median", "exactly_zero", "wrong_sign"}
