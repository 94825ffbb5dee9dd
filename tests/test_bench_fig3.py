"""scripts/bench_fig3.py: what it counts and compares; and the same fault elsewhere: an unknown name taken for another."""

from __future__ import annotations

import sys

import pytest
import torch
import torchvision
from torch import Tensor

from scripts import bench, bench_fig3, cli, fig3, jobs, verify_oracle, verify_perturbation
from scripts.spread import Block
from tests import nets
from tests.test_found_by_reading import by_hand
from wcx import contrasts, pipeline
from wcx.errors import WcxError
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


class TestUnknownContrasts:
    """bench_fig3 and verify_perturbation took any contrast that they did not know for probability."""

    @pytest.mark.parametrize("name", contrasts.names())
    def test_the_reference_in_float64_has_every_contrast(self, name: str) -> None:
        net, image = nets.conv_batchnorm().double(), nets.images(1).double()[0]
        leaf = image.clone().requires_grad_()
        y = net(leaf[None])[0]
        phi = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in y])
        v = torch.tensor(by_hand(name, y.tolist(), 3, [0, 1, 2, 4, 5]), dtype=torch.float64)
        got = verify_perturbation.explanation(net, image, 3, name)
        torch.testing.assert_close(got, torch.einsum("s,schw->chw", v, phi), rtol=1e-9, atol=1e-12)

    def test_and_no_other(self) -> None:
        for name in ("wieghted", "softmax", ""):
            with pytest.raises(WcxError, match=f"unknown contrast of the reference in float64 '{name}'"):
                verify_perturbation.explanation(nets.conv_batchnorm(), nets.images(1)[0], 0, name)

    @pytest.mark.parametrize("options", [["contrast.gamma=2.0", "contrast.k=1"], ["foils=[1,2,5]"], []])
    @pytest.mark.parametrize("name", ["finer", "max"])
    def test_bench_walks_where_the_experiment_walks(self, name: str, options: list[str]) -> None:
        """The last images of the naive loop are the engine's: but for single pixels whose gradient is nearly 0."""
        small = ["dataset=parts", "model.weights=random", "batch_size=2", "iterations=[1,2]", f"contrasts=[{name}]"]
        if name != "finer" and "contrast.k=1" in options:
            options = ["foils=2"]
        job = fig3.job(Block("small_cnn", ["bench_fig3.py", *small, *options]))[0]
        batch = list(items.read(job.dataset, [3, 11]))
        ends: dict[str, list[Tensor]] = {"ours": [], "naive": []}
        for key, run in (("ours", bench_fig3.ours), ("naive", bench_fig3.naive)):
            handle = job.loaded.model.register_forward_pre_hook(
                lambda _module, arguments, key=key: (
                    None if torch.is_grad_enabled() else ends[key].append(arguments[0].clone())
                )
            )
            run(job, batch)
            handle.remove()
        start = torch.stack([item.pixels for item in batch])
        walked = {key: [x for x in images if not torch.equal(x, start)] for key, images in ends.items()}
        assert len(walked["ours"]) == len(walked["naive"]) == 2
        for a, b in zip(walked["ours"], walked["naive"], strict=True):
            assert float(((a - b).abs() > 1e-5).double().mean()) < 0.002

    def test_a_method_that_bench_does_not_compare_with_is_refused(self) -> None:
        small = ["dataset=parts", "model.weights=random", "method=input_x_gradient"]
        job = fig3.job(Block("small_cnn", ["bench_fig3.py", *small]))[0]
        with pytest.raises(WcxError, match="unknown method to compare with 'input_x_gradient'"):
            bench_fig3.measure(job, 1, 1)

    @pytest.mark.parametrize("script", [bench, bench_fig3])
    def test_a_part_that_there_is_not_is_refused(self, script: object, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["bench.py", "parts=[tiem]"])
        with pytest.raises(WcxError, match=r"unknown part 'tiem'\. Did you mean 'time'"):
            script.main()

    def test_the_naive_loop_of_masking_knows_masks_by_sign(self) -> None:
        cfg = cli.compose(["model.weights=random", "mask=fraction"])
        with pytest.raises(WcxError, match="unknown mask of the naive loop 'fraction'"):
            bench.naive(jobs.masking_job([cfg]), [])

    def test_captum_is_asked_for_probability_under_that_name_only(self) -> None:
        variant = verify_oracle.Variant("integrated_gradients", "integrated_gradients")
        with pytest.raises(WcxError, match="unknown contrast along a path that captum is asked for 'mine'"):
            verify_oracle._ask(None, variant, "mine", lambda logits: logits, [0])
