"""Networks cut at the input of a module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.nets import residual
from tests.training.tiny import TAIL, Drawn, start
from wcx import models
from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.training import features, fit, samples
from wcx.training.recipe import derive
from wcx.training.tail import Tail

IMAGE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
# Where the last stage of one resolution begins, read off the architectures at 64 pixels.
BLOCKS = {
    "alexnet": "features.6",
    "densenet121": "features.transition3",
    "googlenet": "inception5a",
    "mobilenet_v2": "features.14",
    "resnet18": "layer4",
    "squeezenet1_1": "features.9",
    "vgg11": "features.16",
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kind", ["block", "head"])
def test_the_inputs_of_the_cut_lead_to_the_networks_logits(name: str, kind: str) -> None:
    loaded = models.load(name, weights="random", num_classes=3)
    tail = Tail(loaded.model, None if kind == "block" else models.head_name(loaded.net), IMAGE)
    assert kind == "head" or tail.cut.startswith(BLOCKS[name])
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(tail(tail.inputs_of(images)), loaded.model(images), rtol=1e-4, atol=1e-5)
    names = {key.partition(".")[0] for key in tail.front}
    assert names, "something comes before"
    state = loaded.net.state_dict()
    behind = {tensor.data_ptr() for tensor in tail.state_dict().values()}
    assert {key for key, value in state.items() if value.data_ptr() not in behind} == set(tail.front)
    assert not any("forward" in vars(module) for module in loaded.net.modules()), "the network is as it was"


class Scaled(nn.Module):
    """Uses a parameter of its own before and another one behind its block, a function's dropout, and one ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.early, self.late = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(4, 1, 1))
        self.block = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.conv(images)).mul_(
            self.early
        )  # in place: what stands for the ReLU's output is written to
        maps = self.relu(self.block(maps)) * self.late
        return self.fc(nn.functional.dropout(maps.mean((2, 3)), 0.5, self.training))


def test_what_acts_behind_the_cut_is_trained_and_what_acts_before_it_is_not() -> None:
    net = Scaled()
    tail = Tail(Normalized(net), "block", IMAGE)
    assert set(tail.front) == {"conv.weight", "conv.bias", "early"}
    assert {id(p) for p in tail.parameters()} == {
        id(p) for p in (net.late, *net.block.parameters(), *net.fc.parameters())
    }
    inputs = tail.inputs_of(IMAGE[None])
    assert torch.equal(tail(inputs), tail(inputs)), "in eval mode"
    tail.train()
    draws = [tail(inputs) for _ in range(20)]  # of four numbers, two may drop the same
    assert not all(torch.equal(logits, draws[0]) for logits in draws), "the function drops in training mode"
    assert not net.conv.training


@pytest.mark.parametrize("cut", ["features.1", "features.2", "classifier", "classifier.2"])
def test_training_equals_training_the_whole_network_with_the_front_frozen(cut: str, tmp_path: Path) -> None:
    """In float64, on the image, an augmented variant and their mirror images, against the loop that anybody would write."""
    recipe = replace(TAIL, cut=cut, kept="float64", epochs=2)
    views = samples.Views(samples.Pixels(Drawn("train")), recipe)
    ours, whole = start(), start()
    ours.model.double()
    tail = Tail(ours.model, cut, torch.zeros(3, 16, 16, dtype=torch.float64))
    array = features.keep(tail, views, tmp_path / "f.npy", {}, dtype="float64")
    assert array.shape[:2] == (4, 24)
    indices = range(4 * 24)
    history = fit(tail, samples.Features(array, Drawn("train").labels), recipe, indices=indices)

    whole.model.double()
    modules = [*whole.net.features, *whole.net.classifier]
    first = {"features.1": 1, "features.2": 2, "classifier": 3, "classifier.2": 5}[cut]
    for module in modules[:first]:
        module.requires_grad_(False)
    trained = [p for p in whole.net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, recipe.lr, momentum=0.9)
    losses = []
    for epoch in range(2):
        whole.net.train()
        for module in modules[:first]:
            module.eval()
        batches = samples.Batches(indices, recipe.batch_size, seed=0)
        batches.epoch = epoch
        for step, batch in enumerate(batches):
            pixels = torch.stack([views[k % 24][0][k // 24] for _, k in batch]).double() / 255
            labels = torch.tensor([Drawn("train").labels[k % 24] for _, k in batch])
            torch.manual_seed(derive(0, "step", epoch, step))
            loss = nn.functional.cross_entropy(whole.model(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert history[1]["train_loss"] == pytest.approx(
        sum(losses[12:]) / 12, rel=1e-6
    )  # pixels are scaled in float32 there
    before = start().net.state_dict()
    for key, value in whole.net.state_dict().items():
        torch.testing.assert_close(ours.net.state_dict()[key], value, rtol=1e-5, atol=1e-7)
        assert torch.equal(ours.net.state_dict()[key], before[key].to(value.dtype)) == (key in tail.front), key


@pytest.mark.parametrize(
    ("net", "cut", "part"),
    [
        ("tiny", "features.7", "has no layer 'features.7'"),
        ("tiny", "classifier.9", "has no layer 'classifier.9'; try one of: classifier"),
        ("resnet18", "layer4.0.conv2", "other data flow past it to the logits (is it inside a residual block?); cut at a module "
         "around it (layer4.0, layer4)"),
        ("resnet18", "layer4.1.bn1", "around it (layer4.1, layer4)"),
        ("resnet18", "layer4.0.downsample", "other data flow past it"),
        ("resnet18", "layer4.0.relu", "runs 2 times"),
        ("residual", "conv", "other data flow past it"),
        ("googlenet", "inception5a.branch2", "other data flow past it"),
        ("squeezenet1_1", "classifier.2", "no weights behind it"),
    ],
)  # fmt: skip
def test_a_cut_that_cannot_be_is_one_line(net: str, cut: str, part: str) -> None:
    model = {"tiny": lambda: start().model, "residual": lambda: Normalized(residual())}.get(
        net, lambda: models.load(net, weights="random", num_classes=3).model
    )()
    with pytest.raises(WcxError) as error:
        Tail(model, cut, IMAGE if net != "tiny" else torch.zeros(3, 16, 16))
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_without_maps_asks_for_a_cut() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(WcxError, match=r"recipe\.cut=<module> says from where on"):
        Tail(Normalized(net), None, IMAGE)
    assert set(Tail(Normalized(net), "3", IMAGE).front) == {"1.weight", "1.bias"}
