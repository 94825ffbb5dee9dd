"""The checks' figures against the formulas, written again slowly; and that a wrong number would show."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import wcx
from tests import nets
from tests.checks.asked import Drawn, loaded, small
from wcx import checks, contrasts, methods, pipeline
from wcx.checks import captum, cost, figure, oracle, processes, proportional, specimens, stability
from wcx.checks.base import unfolded
from wcx.checks.rounds import Rounds
from wcx.experiments import Cell
from wcx.methods import Method
from wcx.records import Shard

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {variant.label: variant for variant in oracle.variants()}


def records(name: str, folder: Path, **asked: Any) -> list[Shard]:
    shards = []
    for job in checks.get(name).jobs(small(folder, **asked)):
        shards += pipeline.run(job, quiet=True)[0]
    return shards


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum() / a.double().norm() / b.double().norm())


def test_variants_cover_every_method() -> None:
    assert {variant.method for variant in VARIANTS.values()} == {
        name for name in methods.of_gradients() if methods.get(name).linear
    }


@pytest.mark.parametrize("network", specimens.SMALL)
@pytest.mark.parametrize("method", methods.names())
def test_the_oracles_agree(method: str, network: str, tmp_path: Path) -> None:
    """Within the issue's tolerances of the sum over classes and of captum; what cannot be compared says why."""
    if not methods.get(method).linear or method not in methods.of_gradients():
        pytest.skip("no sum over classes")
    shards = records("oracle", tmp_path, networks=[network], methods=[method], contrasts=contrasts.names())
    rows = oracle.errors(shards)
    assert set(rows.contrast) == set(contrasts.names())
    assert set(rows.method) == {variant.label for variant in VARIANTS.values() if variant.method == method}
    assert rows[rows.oracle == "classes"].error.notna().all()
    assert (rows.error.isna() == (rows.reason != "")).all()
    assert oracle.Oracle.disagreements(shards) == 0
    assert rows.foils.unique() == [nets.CLASSES - 1]


def test_an_oracle_that_disagrees_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The brute force gets another contrast: every error is over the tolerance."""
    other = wcx.cotangent
    monkeypatch.setattr(wcx, "cotangent", lambda logits, target, _name, foils: other(logits, target, "mean", foils))
    shards = records("oracle", tmp_path)
    assert oracle.Oracle.disagreements(shards) == 4
    assert oracle.Oracle.remark(shards) == "4 cells, 4 measured, 4 over the tolerance"


def method_of(label: str) -> Method:
    return methods.create(VARIANTS[label].method, **VARIANTS[label].options)


def test_brute_force_knows_when_alpha_varies() -> None:
    """Along a path, frozen and varying cotangents give different sums."""
    net, image = nets.conv_batchnorm().double(), nets.images(1).double()
    net[9].weight.data *= 200
    brute = oracle.BruteForce(net, image, method_of("integrated_gradients"), None, range(nets.CLASSES))
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
    answer = captum.reason_against(method, nets.residual(), options)
    assert reason in answer
    assert bool(answer) == bool(reason)


def test_stability_tells_the_two_apart(tmp_path: Path) -> None:
    """At logit gaps beyond 18 the float32 softmax gradient is lost, and the weighted one is not."""
    rows = stability.gathered(records("stability", tmp_path, sharp=2000.0), "target")
    lost = rows[(rows.target == "t_1") & (rows.gap > 18)]
    assert set(lost.contrast) == {"weighted", "probability"}
    weighted, probability = lost[lost.contrast == "weighted"], lost[lost.contrast == "probability"]
    assert (weighted.relative_error < 1e-3).all()
    assert (weighted.cosine > 0.999999).all()
    assert (probability.relative_error > 0.1).all()


def test_stability_is_the_formula(tmp_path: Path) -> None:
    """For t_1 under probability against autograd through a softmax in float64, one image at a time."""
    rows = stability.gathered(records("stability", tmp_path), "target")
    model = loaded().model
    for row in rows[(rows.target == "t_1") & (rows.contrast == "probability")].to_dict("records"):
        x = model.normalise(Drawn().pixels[row["index"]][None])
        gradients = []
        for net, image in ((model.model, x), (copy.deepcopy(model.model).double(), x.double())):
            leaf = image.clone().requires_grad_()
            gradients += torch.autograd.grad(net(leaf).softmax(1).max(), leaf)
        rounded, exact = gradients[0].double(), gradients[1]
        error = float((rounded - exact).norm() / exact.norm())
        assert error == pytest.approx(row["relative_error"], rel=0.9, abs=3e-7)  # rounding of another order
        top = model.model(x).double().topk(2).values[0]
        assert row["gap"] == pytest.approx(float(top[0] - top[1]), rel=1e-5)


def test_mean_is_the_formula(tmp_path: Path) -> None:
    shards = [shard for shard in records("mean", tmp_path) if shard.key[1] == "squeezenet1_1"]
    model = loaded().model
    for shard in shards:
        layer = None if shard.key[2] == "gradient" else "3"
        for row in shard.read().to_dict("records"):
            x = Drawn().pixels[row["index"]][None]
            for rank, target in enumerate(model(x).topk(2).indices[0].tolist(), start=1):
                maps = wcx.explain(model, x, target, shard.key[2], ["original", shard.key[3]], layer=layer)
                distance = float((maps[1] - maps[0]).norm() / maps[0].norm())
                assert row[f"distance/t_{rank}"] == pytest.approx(distance, rel=1e-4)
                assert row[f"cosine/t_{rank}"] == pytest.approx(cosine(maps[0], maps[1]), rel=1e-4)
    assert len(shards) == 6


def test_integrated_gradients_are_the_formulas(tmp_path: Path) -> None:
    model = loaded().model
    for shard in records("ig", tmp_path):
        for row in shard.read().to_dict("records"):
            x = model.normalise(Drawn().pixels[row["index"]][None])
            for rank, target in enumerate(model.model(x).topk(2).indices[0].tolist(), start=1):
                maps = wcx.explain(
                    model.model, x, target, "integrated_gradients", ["weighted", "probability"], steps=32
                )
                assert row[f"cosine/t_{rank}"] == pytest.approx(cosine(*maps), rel=1e-4)
    shards = [shard for shard in records("completeness", tmp_path) if shard.parts["method"]["steps"] == 4]
    assert len(shards) == 5, "a rule each"
    for shard in shards:
        options = {key: shard.parts["method"][key] for key in ("steps", "rule")}
        for row in shard.read().to_dict("records"):
            x = model.normalise(Drawn().pixels[row["index"]][None])
            v = wcx.cotangent(model.model(x), model.model(x).argmax(1), "weighted")
            change = float((v * (model.model(x) - model.model(torch.zeros_like(x)))).sum())
            total = float(
                wcx.explain(model.model, x, int(model.model(x).argmax()), "integrated_gradients", **options).sum()
            )
            assert row["change"] == pytest.approx(change, rel=1e-4, abs=1e-5)
            assert row["residual"] == pytest.approx(abs(total - change), rel=1e-2, abs=1e-5)


def test_probability_parts_from_weighted_only_where_it_is_lost(tmp_path: Path) -> None:
    moderate = pd.concat([shard.read() for shard in records("proportional", tmp_path / "moderate")])
    assert moderate.apart.max() < 0.01, "moderate p_t: proportional in float32, too"
    sharp = pd.concat([shard.read() for shard in records("proportional", tmp_path / "sharp", sharp=2000.0)])
    assert sharp.apart.max() > 0.1


def test_partings_are_binned_by_p_t() -> None:
    changes = dict.fromkeys(proportional.CHANGES, 0.5)
    rows = pd.DataFrame({"network": "a", "p_t": [0.2, 0.95, 1.0], "apart": [0.0, 0.2, 0.4], "zero_gradient": [0, 0, 1]})
    table = proportional.partings(rows.assign(**changes)).set_index("p_t")
    assert list(table.index) == ["0-0.5", "0.9-0.99", "1-1", "all"]
    assert table.loc["all", ["n", "apart", "apart_1%", "zero"]].tolist() == pytest.approx([3, 0.2, 2 / 3, 1])


@pytest.mark.parametrize("method", cost.DESIGN)
def test_passes_are_those_of_the_design(method: str) -> None:
    settings = cost.CostSettings("passes", 1, images=3)
    job = Rounds(cost.Cost, specimens.Noise(3), loaded(), [Cell(method, "together")], settings, batch_size=3)
    (row,) = job.opened(job.cells).rows(job.read([0]))[job.cells[0]]
    forward, backward = cost.DESIGN[method]
    if method == "occlusion":  # the design's is of side 224; of this one the window is rounded
        occlusion, side = methods.create(method), job.dataset[0][0].shape[-1]
        forward += occlusion.count(side, side) - occlusion.count(224, 224)
    # For the logits of the image itself, and two that tell whether steps may share a batch.
    clean = 3 if method == "integrated_gradients" else 0
    assert row["forward"] == forward + clean
    assert row["backward"] == backward
    assert row["backward_to_image"] == (0 if methods.get(method).space == "activation" else backward)


def test_the_costs_ratios_are_of_medians(tmp_path: Path) -> None:
    seconds = {"original": [1.0, 3.0, 2.0], "weighted": [4.0, 4.0, 9.0], "together": [5.0] * 3, "separate": [10.0] * 3}
    times = [pd.DataFrame({"contrast": call, "wall": s, "cpu": s, "measures": "times"}) for call, s in seconds.items()]
    brute = {"one_class": [60.0, 80.0], "weighted": [2.0, 2.0]}
    classes = [
        pd.DataFrame({"contrast": call, "wall": s, "cpu": s, "measures": "classes"}) for call, s in brute.items()
    ]
    passes = pd.DataFrame({"measures": ["passes"], "forward": 1.0, "backward": 4.0, "backward_to_image": 0.0})
    line = cost._line(("a", "gradcam"), pd.concat([*times, *classes, passes]))
    assert (line["original_s"], line["weighted/original cpu"], line["together/separate wall"]) == (2.0, 2.0, 0.5)
    assert line["brute/weighted cpu"] == 70.0
    assert (line["backward"], line["design_backward"]) == (4, 4)


def test_a_table_of_costs_has_no_column_for_what_was_measured_of_no_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """methods=[lrp]: no thousand classes; elsewhere than on Linux: no memory."""
    seconds = pd.DataFrame({"contrast": cost.CALLS, "wall": 1.0, "cpu": 2.0})
    frames = {"times": seconds, "passes": pd.DataFrame({"forward": [1.0], "backward": 4.0, "backward_to_image": 4.0})}
    monkeypatch.setattr(cost, "gathered", lambda shards: shards[0].frame.assign(network="a", method="lrp"))
    shards = [SimpleNamespace(frame=frame, parts={"settings": {"measures": name}}) for name, frame in frames.items()]
    tables = cost.Cost.summaries(shards)
    assert [table.title.partition(",")[0] for table in tables] == ["Seconds", "Passes of four contrasts together"]
    assert "brute" not in tables[0].to_text()


def test_a_process_of_its_own_has_a_peak() -> None:
    assert processes.alone(processes.mebibytes, "VmHWM") > 1


def test_columns_become_rows() -> None:
    frame = pd.DataFrame({"index": [7, 8], "error/a/1": [0.1, 0.2], "error/b/1": [0.3, 0.4]})
    rows = unfolded(frame, ["kind", "n"])
    assert rows[["index", "error", "kind", "n"]].to_numpy().tolist() == [
        [7, 0.1, "a", "1"],
        [8, 0.2, "a", "1"],
        [7, 0.3, "b", "1"],
        [8, 0.4, "b", "1"],
    ]


@pytest.mark.parametrize("name", ["stability", "ig", "completeness"])
def test_pictures_are_drawn(name: str, tmp_path: Path) -> None:
    shards = records(name, tmp_path)
    file = tmp_path / "drawn.png"
    picture = checks.get(name).picture(shards)
    assert picture is not None
    picture.savefig(file)
    assert file.stat().st_size > 5000
    [ax] = picture.axes
    box, top = picture._suptitle.get_window_extent(), ax.get_tightbbox().y1
    assert top < box.y0 < box.y1 <= picture.bbox.y1, "above the drawing"
    assert 0 <= box.x0 < box.x1 <= picture.bbox.x1, "not cut"
    title = picture._suptitle.get_text().replace("\N{NO-BREAK SPACE}", " ")
    [count] = {len(shard.read()) for shard in shards}
    for fact in (shards[0].key[1], shards[0].key[2], shards[0].labels["weights"], f"n = {count} images"):
        assert fact in title
    low, least = ax.get_ylim()[0], min(min(line.get_ydata()) for line in ax.lines)
    assert ax.transData.transform((0.5, least))[1] > ax.bbox.y0 + 3, "no dot is cut"
    ticks = [*ax.get_yticks(), *ax.get_yticks(minor=True)]
    assert min(tick for tick in ticks if tick >= low) < 3 * least, "a number beside each"
    told = [line.get_marker() for line in ax.lines if not line.get_label().startswith("_")]
    assert len(set(told)) == len(told) > 1, "not by colour alone"


def test_methods_x_contrasts_has_the_formats_and_the_style_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was a PNG in colour, whatever was asked for."""
    styles: list[str] = []
    monkeypatch.setattr(figure, "drawing", lambda _, style: styles.append(style) or Figure((1, 1)))
    request = SimpleNamespace(network=lambda name: name)
    files = figure.drawn(request, tmp_path / "verify", ["png", "pdf"], "print")
    assert [file.name for file in files] == ["methods_x_contrasts.png", "methods_x_contrasts.pdf"]
    assert all(file.is_file() for file in files)
    assert styles == ["print"]


def test_a_random_networks_norms_are_calibrated() -> None:
    net, image = nets.conv_batchnorm(), nets.images(1)
    specimens.calibrate(net, image)
    first = net[0][0]
    assert isinstance(first, nn.Conv2d)
    noise = torch.randn(8, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net[0][1].running_mean, first(image + noise).mean((0, 2, 3)))
    assert not net.training
    assert net[0][1].momentum == 0.1
