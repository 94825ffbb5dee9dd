"""scripts/verify.py on small networks: the oracle table, what is counted and compared, resuming, and the command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import wcx
from scripts import cli, verify, verify_captum, verify_cells, verify_cost, verify_ig, verify_oracle, verify_stability
from tests import nets
from wcx import contrasts, methods

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {variant.label: variant for variant in verify_oracle.variants()}


def test_variants_cover_every_method() -> None:
    assert {variant.method for variant in VARIANTS.values()} == set(methods.names())


@pytest.mark.parametrize("network", verify_cells.SMALL)
@pytest.mark.parametrize("label", VARIANTS)
def test_oracle(label: str, network: str) -> None:
    """Within the issue's tolerances of the sum over classes and of captum; what cannot be compared says why."""
    subject = verify_cells.subject(network, 1)
    for dtype in verify_oracle.TOLERANCE:
        rows = verify_oracle.cell(subject, VARIANTS[label], dtype, contrasts.names())
        assert [(row["contrast"], row["oracle"]) for row in rows] == [
            (name, oracle) for name in contrasts.names() for oracle in ("sum over classes", "captum")
        ]
        assert {row["status"] for row in rows if row["oracle"] == "sum over classes"} == {"ok"}
        for row in rows:
            assert row["status"] == "ok" or (row["status"] == "not in captum" and row["reason"]), row


def test_oracle_sees_a_wrong_contrast() -> None:
    net, image = nets.conv_batchnorm().double(), nets.images(1).double()
    brute = verify_oracle.BruteForce(net, image, VARIANTS["gradcam"], None, range(nets.CLASSES))
    expected, size = brute.combine(wcx.cotangent(net(image), 0, "weighted"))
    wrong = wcx.explain(net, image, 0, "gradcam", "mean")[0]
    assert float((wrong - expected).norm()) / size > 1e-3


def test_brute_force_knows_when_alpha_varies() -> None:
    """Along a path, frozen and varying cotangents give different sums."""
    net, image = nets.conv_batchnorm().double(), nets.images(1).double()
    net[9].weight.data *= 200
    brute = verify_oracle.BruteForce(net, image, VARIANTS["integrated_gradients"], None, range(nets.CLASSES))
    varying, _ = brute.combine(lambda logits: wcx.cotangent(logits, 0, "probability"))
    frozen, _ = brute.combine(wcx.cotangent(net(image), 0, "probability"))
    got = wcx.explain(net, image, 0, "integrated_gradients", "probability", steps=verify_oracle.STEPS)[0]
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
    found = verify_captum.reason_against(method, nets.residual(), options)
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("method", methods.names())
def test_passes_are_those_of_the_design(method: str) -> None:
    subject = verify_cells.subject("conv_batchnorm", 3)
    (row,) = verify_cost.passes(verify_cost.Case(subject, method))
    # For the logits of the image itself, and two that tell whether steps may share a batch.
    clean = 3 if method == "integrated_gradients" else 0
    assert row["forward"] == row["design forward"] + clean
    assert row["backward"] == row["design backward"]
    assert row["backward to the image"] == (0 if methods.get(method).space == "activation" else row["backward"])


def test_stability_tells_the_two_apart() -> None:
    """At logit gaps beyond 18 the float32 softmax gradient is lost, and the weighted one is not."""
    net = nets.conv_batchnorm()
    net[9].weight.data *= 2000
    rows = verify_stability.compare(net, _double(net), nets.images(), range(3))
    first = [row for row in rows if row["target"] == "t1" and row["gap"] > 18]
    assert first
    for row in first:
        if row["contrast"] == "weighted":
            assert row["relative_error"] < 1e-3
            assert row["cosine"] > 0.999999
        else:
            assert row["relative_error"] > 0.1


def _double(net: nn.Module) -> nn.Module:
    return verify_cells.Subject("", "", net, nets.images()).to(torch.float64)[0]


def test_cells_resume_and_know_their_settings(tmp_path: Path) -> None:
    made: list[int] = []

    def compute() -> list[dict[str, object]]:
        made.append(1)
        return [{"error": float("nan"), "reason": ""}]

    for settings in ({"n": 1}, {"n": 1}, {"n": 2}):
        table = verify_cells.Cells(tmp_path, "part", [], settings).rows("a cell", compute)
        assert table.error.isna().all()
        assert table.reason[0] == ""
    assert len(made) == 2
    assert not list(tmp_path.rglob("*.part"))


def test_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["parts=[oracle]", "networks=[bias_free]", "methods=[gradcam,xgradcam]", "contrasts=[weighted]"]
    monkeypatch.setattr("sys.argv", ["verify.py", *lists, f"paths.results_dir={tmp_path}"])
    for _ in range(2):
        verify.main()
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
    ],
)
def test_script_names_a_wrong_choice(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verify.py", argument])
    with pytest.raises(SystemExit) as stopped:
        cli.guarded(verify.main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_pictures_are_drawn(tmp_path: Path) -> None:
    complete = pd.DataFrame(
        {"image": [0, 0], "rule": "midpoint", "steps": [4, 8], "residual": [0.1, 0.01], "change": 1.0}
    )
    cosine = pd.DataFrame({"image": 0, "target": ["t1", "t2"], "p_t": [0.9, 0.1], "cosine": [0.8, 1.0]})
    verify_ig.picture(complete, cosine).savefig(tmp_path / "ig.png")
    net = nets.conv_batchnorm()
    rows = pd.DataFrame(verify_stability.compare(net, _double(net), nets.images(), range(3)))
    verify_stability.picture(rows).savefig(tmp_path / "stability.png")
    assert set(verify_stability.bins(rows).columns) >= {"n", "error_median", "exactly_zero", "wrong_sign"}
