"""scripts/bench_fig3.py: what it counts and compares."""

from __future__ import annotations

import pytest
import torch
import torchvision

from scripts import bench_fig3, fig3
from scripts.spread import Block
from wcx import pipeline
from wcx.experiments import items
from wcx.experiments.sign_perturbation import Settings


@pytest.fixture(scope="module")
def job() -> pipeline.PerturbationJob:
    small = ["dataset=parts", "model.weights=random", "batch_size=2"]
    return fig3.job(Block("small_cnn", ["bench_fig3.py", *small]))[0]


def test_flops_are_torchvisions() -> None:
    """Its own count is of products alone: half of ours; the first layer's backward pass reaches the pixels."""
    forward, backward = bench_fig3.flops("squeezenet1_1")
    assert forward / 2e9 == pytest.approx(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.meta["_ops"], rel=0.02)
    assert backward == forward


def test_estimate_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_fig3, "flops", lambda name: {"a": (1e9, 1e9), "b": (2e9, 3e9)}[name])
    table = bench_fig3.estimate(["a", "b"], Settings(), 4, images=1000).set_index("model")
    assert list(table.TFLOP) == pytest.approx([0.097, (2 * 53 + 3 * 44) / 1000, 0.097 + 0.238])
    assert table.hours_float32["all"] == pytest.approx(335e12 / bench_fig3.SUSTAINED["float32"] / 3600)


def test_bare_does_as_many_passes_as_needed_and_naive_does_the_same_work(job: pipeline.PerturbationJob) -> None:
    batch = list(items.read(job.dataset, [0, 1, 2]))
    passes = bench_fig3.ours(job, batch)
    counted: list[bool] = []
    backward: list[int] = []

    def watch(_: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        counted.extend([output.requires_grad] * len(args[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    handle = job.loaded.net.register_forward_hook(watch)
    bench_fig3.bare(job, batch)
    assert counted.count(True) == passes["forward"]
    assert counted.count(False) == passes["evaluation"]
    assert sum(backward) == passes["backward"]
    counted.clear()
    bench_fig3.naive(job, batch)
    handle.remove()
    assert len(counted) == 3 * 4 * (13 + 6)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in job.loaded.net.parameters())
