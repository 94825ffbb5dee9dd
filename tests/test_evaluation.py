"""Evaluation passes: a copy gives the logits of the network, or is not taken and says why."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests import nets
from wcx import datasets, methods, models, pipeline
from wcx.errors import WcxError
from wcx.experiments import Cell, Subject, get
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking, Settings
from wcx.images import Normalized
from wcx.models import evaluation
from wcx.models.evaluation import Evaluation, evaluation_of


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def model() -> nn.Module:
    return Normalized(nets.conv_batchnorm()).eval()


def norms(evaluated: Evaluation) -> int:
    network = evaluated.network or evaluated.model
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_folding_gives_the_logits_without_batchnorm_and_leaves_the_network_alone(
    model: nn.Module, pixels: Tensor
) -> None:
    model, pixels = model.double(), pixels.double()
    before, expected = {k: v.clone() for k, v in model.state_dict().items()}, model(pixels).detach()
    folded = evaluation_of(model, pixels[:2])
    assert (folded.kind, folded.reason, norms(folded)) == ("folded", "", 0)
    torch.testing.assert_close(folded.logits(pixels), expected, rtol=1e-12, atol=1e-12)  # float64
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(pixels), expected)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121", "googlenet"])
def test_every_kind_of_torchvision_network_keeps_its_logits(name: str) -> None:
    net = models.load(name, weights="random", num_classes=10).model
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    x = torch.rand(2, 3, 64, 64, generator=generator)
    folded = evaluation_of(net, x)
    assert folded.kind == "folded"
    assert norms(folded) < norms(Evaluation(net))
    with torch.no_grad():
        expected = net(x)
    assert float((folded.logits(x) - expected).abs().max() / expected.abs().max()) <= evaluation.TOLERANCE


class Shared(nn.Module):
    """A convolution before two BatchNorms, one whose output a function takes too, and one behind an in-place ReLU."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case = case
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        for norm in (self.norm, self.other):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 4)."""
        y = self.conv(x)
        if self.case == "two":
            z = self.norm(y) + self.other(y)
        elif self.case == "function":
            z = self.norm(y) + y
        elif self.case == "in place":
            z = self.norm(self.relu(y))
        else:
            z = self.norm(y) + self.norm(self.conv(x * 2))
        return z.mean((2, 3))


@pytest.mark.parametrize("case", ["two", "function", "in place", "twice"])
def test_what_cannot_be_folded_stays_as_it_is(case: str, pixels: Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Normalized(Shared(case)).eval()
    evaluated = evaluation_of(model, pixels)
    assert evaluated.kind == "eager"
    assert ("differ by" if case == "function" else "no BatchNorm follows") in evaluated.reason
    with torch.no_grad():
        assert torch.equal(evaluated.logits(pixels), model(pixels))
    with pytest.raises(WcxError, match=r"evaluation=folded.*give auto or eager"):
        evaluation_of(model, pixels, "folded")


def test_a_network_that_cannot_be_copied_is_taken_as_it_is(
    model: nn.Module, pixels: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    model.model.register_buffer("lock", None)
    model.model.thing = (item for item in ())  # a generator cannot be copied
    with caplog.at_level(logging.INFO, "wcx"):
        evaluated = evaluation_of(model, pixels)
    assert evaluated.kind == "eager"
    assert "cannot be copied" in caplog.text
    assert evaluation_of(model, pixels, "eager").kind == "eager"


def test_hidden_images_are_normalised_before_or_after_with_the_same_bits(model: nn.Module, pixels: Tensor) -> None:
    eager = evaluation_of(model, pixels, "eager")
    mask = torch.rand(5, 1, 16, 16) < 0.5
    colour = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)
    hidden = torch.where(mask, eager.prepare(colour), eager.prepare(pixels))
    with torch.no_grad():
        assert torch.equal(eager(hidden), model(torch.where(mask, colour, pixels)))


def test_bfloat16_computes_in_it_but_for_the_last_layer(model: nn.Module, pixels: Tensor) -> None:
    coarse = evaluation_of(model, pixels, numbers="bfloat16")
    dtypes = Counter(parameter.dtype for parameter in coarse.network.parameters())
    assert dtypes == {torch.float32: 2, torch.bfloat16: sum(1 for _ in coarse.network.parameters()) - 2}
    logits, expected = coarse.logits(pixels), model(pixels).detach()
    assert logits.dtype == torch.float32
    error = float(((logits - expected).abs().amax(1) / expected.abs().amax(1)).max())
    assert 1e-5 < error < 0.03  # 8 bits
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_tf32_is_allowed_in_its_passes_alone(model: nn.Module, pixels: Tensor) -> None:
    seen: list[bool] = []
    model.model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32))
    before = torch.backends.cuda.matmul.allow_tf32
    evaluation_of(model, pixels, "eager", "tf32").logits(pixels)
    evaluation_of(model, pixels, "eager", "float32").logits(pixels)
    assert (seen, torch.backends.cuda.matmul.allow_tf32) == ([True, False], before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "fodled"}, "Did you mean 'folded'"),
        ({"numbers": "float16"}, "evaluation_precision"),
        ({}, "no compiler"),
    ],
)
def test_wrong_settings_are_one_clear_line(
    model: nn.Module, pixels: Tensor, arguments: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.shutil, "which", lambda _: None)
    with pytest.raises(WcxError, match=message):
        evaluation_of(model, pixels, **({"kind": "compiled"} | arguments))


def test_rows_are_those_of_the_network_itself(model: nn.Module) -> None:
    items = [Item(i, str(i), 0, torch.rand(3, 16, 16)) for i in range(3)]
    pixels, cell = torch.stack([item.pixels for item in items]), Cell("gradcam", "weighted")
    rows = {}
    for kind in ("eager", "folded"):
        subject = Subject(model, "2", {"gradcam": methods.create("gradcam")})
        subject = replace(subject, passes=Counter(), evaluation=evaluation_of(model, pixels, kind))
        rows[kind] = Masking(subject, [cell], Settings(select="all")).rows(items)[cell]
    for eager, folded in zip(*rows.values(), strict=True):
        assert eager == pytest.approx(folded, abs=2e-6)  # float32
    assert rows["eager"] != rows["folded"]


def job(tmp_path: Path, **options: object) -> pipeline.Job:
    """A block of drawn birds whose network has BatchNorm."""
    settings = Settings(threshold=0.0, evaluation_precision=str(options.pop("precision", "float32")))
    loaded = models.load("small_cnn", weights="random", num_classes=16)
    dataset = datasets.load("parts", tmp_path / "data", "test", test_per_class=1)
    cells = [Cell("gradcam", "weighted")]
    return pipeline.Job(get("masking"), dataset, loaded, cells, settings, results_dir=tmp_path, **options)


def test_what_auto_comes_to_is_in_fingerprint_and_manifest(tmp_path: Path) -> None:
    [auto], [eager] = job(tmp_path).shards(), job(tmp_path, evaluation="eager").shards()
    assert (auto.parts["evaluation"], eager.parts["evaluation"]) == ("folded", "eager")
    assert auto.path == job(tmp_path, evaluation="folded").shards()[0].path != eager.path
    assert job(tmp_path, precision="bfloat16").shards()[0].path != auto.path
    pipeline.run(job(tmp_path, limit=2), quiet=True)
    [made] = job(tmp_path, limit=2).shards()
    facts = json.loads((made.path / "manifest.json").read_text())
    assert (facts["evaluation"], facts["evaluation_reason"]) == ("folded", "")


def test_a_compiled_copy_takes_full_batches_and_the_folded_one_the_rest(
    model: nn.Module, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the compiler, which takes half a minute: what it returned is called."""
    sizes: list[int] = []

    def compile_(network: nn.Module, **_: object) -> object:
        return lambda images: sizes.append(len(images)) or network(images)

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(evaluation.shutil, "which", lambda name: name)
    compiled = evaluation_of(model, pixels[:3], "compiled", batch=4)
    assert compiled.kind == "compiled"
    for images in (pixels[:4], pixels):
        torch.testing.assert_close(compiled.logits(images), model(images).detach(), rtol=1e-5, atol=1e-5)  # float32
    assert sizes == [4, 4], "of the comparison, and the full batch"


def scarce(model: nn.Module, most: int) -> nn.Module:
    """Return the network, which now has memory for so many images at most."""

    def refuse(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(refuse)
    return model


def test_the_comparison_needs_no_memory_beyond_that_of_an_image(model: nn.Module, pixels: Tensor) -> None:
    assert evaluation_of(scarce(model, most=1), pixels).kind == "folded"


def test_too_little_memory_for_a_copy_is_one_line_that_names_the_remedy(model: nn.Module, pixels: Tensor) -> None:
    """Not another choice without a word: it is part of the fingerprint."""
    with pytest.raises(WcxError, match=r"no memory for a copy of the network.*give evaluation=eager"):
        evaluation_of(scarce(model, most=0), pixels)
