"""What `wcx bench` counts and compares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torchvision

from wcx import pipeline
from wcx.checks import bench, flops, libraries, workloads
from wcx.checks.bench import Bench, BenchRequest
from wcx.checks.workloads import Workload
from wcx.cli.commands.bench import open_job
from wcx.cli.grid import Grid
from wcx.experiments.sign_perturbation import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWN = ["dataset.size=32", "dataset.transform.size=32"]


def asked(experiment: str, methods: list[str], contrasts: list[str], *typed: str) -> partial:
    lists = {"methods": methods, "contrasts": contrasts}
    eager = "evaluation=eager"  # hooks see the network itself
    overrides = [f"experiment={experiment}", "batch_size=2", eager, *DRAWN, *typed]
    return partial(open_job, Grid("bench", lists, overrides), ("parts", "small_cnn"))


@pytest.fixture(scope="module")
def walks() -> Workload:
    job = asked("sign_perturbation", ["gradient"], ["original", "mean", "max", "weighted"])()
    return workloads.PerturbationWork(job, 3)


def watched(subject: Workload) -> tuple[list[bool], list[int], torch.utils.hooks.RemovableHandle]:
    """Note each image that passes: whether with a graph, and each that goes back."""
    forward: list[bool] = []
    backward: list[int] = []

    def watch(_: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        forward.extend([output.requires_grad] * len(args[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    return forward, backward, subject.job.loaded.net.register_forward_hook(watch)


def test_flops_are_torchvisions() -> None:
    """Its own count is of products alone: half of ours; the first layer's backward pass reaches the pixels."""
    forward, backward = flops.flops("squeezenet1_1")
    assert forward / 2e9 == pytest.approx(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.meta["_ops"], rel=0.02)
    assert backward == forward


def test_estimate_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "flops", lambda name: {"a": (1e9, 1e9), "b": (2e9, 3e9)}[name])
    table = flops.estimate(["a", "b"], Settings(), 4, images=1000).set_index("model")
    assert list(table.TFLOP) == pytest.approx([0.097, (2 * 53 + 3 * 44) / 1000, 0.097 + 0.238])
    assert table.hours_float32["all"] == pytest.approx(335e12 / flops.SUSTAINED["float32"] / 3600)


def test_bare_perturbation_does_as_many_passes_and_naive_the_same_work(walks: Workload) -> None:
    forward, backward, handle = watched(walks)
    walks.bare()
    assert forward.count(True) == walks.passes["forward"]
    assert forward.count(False) == walks.passes["evaluation"]
    assert sum(backward) == walks.passes["backward"]
    forward.clear()
    walks.naive()
    handle.remove()
    assert len(forward) == 3 * 4 * (13 + 6)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in walks.job.loaded.net.parameters())


def test_naive_walks_end_where_the_experiments_do(walks: Workload) -> None:
    """Its last images, seen on their way into the network, are those that the experiment evaluates."""
    ends: dict[str, list[torch.Tensor]] = {"ours": [], "naive": []}
    for name, run in (("ours", walks.ours), ("naive", walks.naive)):

        def keep(_: torch.nn.Module, args: tuple[torch.Tensor], name: str = name) -> None:
            if not torch.is_grad_enabled():
                ends[name].append(args[0].clone())

        handle = walks.job.loaded.net.register_forward_pre_hook(keep)
        run()
        handle.remove()
    # ours: two batches x 4 contrasts x 3 numbers of steps; naive evaluates the clean images before each walk, too
    torch.testing.assert_close(ends["ours"], ends["naive"][1::2])


def test_bare_masking_does_as_many_passes_and_naive_every_mask() -> None:
    subject = workloads.MaskingWork(asked("masking", ["gradcam", "input_x_gradient"], ["original", "weighted"])(), 5)
    forward, _, handle = watched(subject)
    subject.bare()
    assert len(forward) == subject.passes["forward"] + subject.passes["masked"]
    forward.clear()
    subject.naive()
    handle.remove()
    cells, targets, masks = 4, 2, 6
    assert subject.few == 4
    assert len(forward) == 4 * cells * targets * (2 + masks)
    assert subject.compared() == {"forward": 5, "masked": 240}


def test_bare_passes_go_through_the_copy_and_plain_ones_do_not() -> None:
    """In images; the clean ones go through the network itself."""
    subject = workloads.MaskingWork(asked("masking", ["gradcam"], ["weighted"], "evaluation_precision=bfloat16")(), 3)
    seen: Counter[str] = Counter()
    for name, network in (("copy", subject.job.evaluator.network), ("network", subject.job.loaded.net)):
        network.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: len(args[0])}))
    subject.bare()
    assert seen == {"network": subject.passes["forward"], "copy": subject.passes["masked"]}
    seen.clear()
    subject.plain()
    assert set(seen) == {"network"}


def test_ours_is_compared_with_plain_round_by_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a copy."""
    clock = {"ours": iter([1.0, 9.0]), "plain": iter([2.0, 10.0])}
    monkeypatch.setattr(bench, "seconds", lambda call: next(clock.get(call.__name__, iter([1.0]))))
    opener = asked(
        "masking", ["gradcam"], ["weighted"], "evaluation_precision=bfloat16", f"paths.results_dir={tmp_path}"
    )
    (job,) = Bench.jobs(BenchRequest(opener, ["time"], images=2, repeats=2))
    (line,) = Bench.summaries(pipeline.run(job, quiet=True)[0])[0].frame.to_dict("records")
    assert line["ours / plain"] == (1 / 2 + 9 / 10) / 2
    assert line["evaluation"] == "eager bfloat16"


def test_naive_time_is_scaled_to_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is timed on four of five images, or on fewer."""
    monkeypatch.setattr(bench, "seconds", lambda call: {"ours": 2.0, "bare": 1.0, "naive": 3.0}[call.__name__])
    opener = asked("masking", ["gradcam"], ["weighted"], f"paths.results_dir={tmp_path}")
    (job,) = Bench.jobs(BenchRequest(opener, ["time"], images=5, repeats=2))
    (line,) = Bench.summaries(pipeline.run(job, quiet=True)[0])[0].frame.to_dict("records")
    assert (line["ours / bare"], line["naive / ours"]) == pytest.approx((2.0, 3.0 * 5 / 4 / 2.0))


def test_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    """In the lists of the runners: Table 1's two methods x two contrasts, Fig. 3's four contrasts and nine networks."""
    monkeypatch.setattr(flops, "flops", lambda _: (1e9, 1e9))
    common = ["images=2", "repeats=1", "batch_size=2", *DRAWN, f"paths.results_dir={tmp_path}"]
    out = cli("bench", *common, "memory=[1,2]").stdout
    assert re.search(
        r"parts +small_cnn +masking +4 +2 +1 +2 +1 +forward 2, backward 8, masked \d+ +forward 2, masked 96", out
    )
    peaks = pd.read_csv(tmp_path / "tables" / "bench_memory_full.csv")
    assert peaks.images.tolist() == [1, 2]
    assert (peaks.peak_mib > 100).all()
    assert peaks.ratio[0] == 1
    out = cli("bench", *common, "experiment=sign_perturbation", "iterations=[2]", "parts=[time,estimate]").stdout
    passes = "forward 10, backward 16, evaluation 8"
    assert re.search(f"sign_perturbation +4 +2 +1 +2 +1 +{passes} +{passes}", out)
    assert "squeezenet" not in out
    assert len(re.findall(r"^ *\w+ +1\.00 +1\.00 +0\.02", out, re.MULTILINE)) == 9


def test_a_plan_times_nothing(tmp_path: Path, cli: Callable[..., Any]) -> None:
    assert "rounds_left: 7" in cli("bench", "plan=true", "repeats=7", f"paths.results_dir={tmp_path}").stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parts=[tiem]"], "Did you mean 'time'"),
        (["parts=[estimate]"], "unknown part 'estimate'"),
        (["images=0"], "images = 0: give whole numbers of at least 1"),
        (["images=[3]"], "images = [3]"),
        (["memory=[3,x]"], "memory = [3, 'x']"),
        (["experiment=gallery"], "unknown experiment to measure 'gallery'"),
        (["contrasts=[weigthed]"], "Did you mean 'weighted'"),
        (["mask=equal", "parts=[time]"], "mask of the naive loop 'equal'"),
        (["methods=[lrp]", "experiment=sign_perturbation", "parts=[time]"], "method to compare with 'lrp'"),
        (
            ["precision=bfloat16", "experiment=sign_perturbation", "parts=[time]"],
            "precision to compare with 'bfloat16'",
        ),
        (["target_rule=predicted", "experiment=sign_perturbation", "parts=[time]"], "target_rule to compare with"),
        (["methods=gradcam,lrp"], "methods=[gradcam,lrp]"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, cli: Callable[..., Any]) -> None:
    done = cli("bench", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_without_the_peers_a_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    """The rest is measured all the same; asked for by name, it is an error."""
    monkeypatch.setattr(libraries, "INSTALLED", {"captum": "captum", "grad-cam": "no_such_module"})
    line = "peers: grad-cam not installed; pip install 'wcx[peers]'"
    done = cli("bench", "plan=true", f"paths.results_dir={tmp_path}")
    assert line in done.stdout
    assert "rounds_left" in done.stdout
    done = cli("bench", "parts=[peers]", f"paths.results_dir={tmp_path}")
    assert done.returncode == 2
    assert line in done.stderr
