"""small_cnn: shapes, the layer to explain, and that it can learn."""

import pytest
import torch
import yaml
from torch import nn

from wcx.models.small_cnn import small_cnn


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return small_cnn(num_classes=5)


def test_shapes(net):
    assert net(torch.randn(2, 3, 96, 96)).shape == (2, 5)
    assert net(torch.randn(2, 3, 50, 75)).shape == (2, 5)
    assert sum(parameter.numel() for parameter in net.parameters()) < 200_000


def test_the_layer_of_the_yaml_is_the_last_activation(root, net):
    config = yaml.safe_load((root / "conf/model/small_cnn.yaml").read_text())
    seen = []
    net.get_submodule(config["layer"]).register_forward_hook(lambda module, inputs, output: seen.append(output))
    net.eval()
    images = torch.randn(2, 3, 96, 96)
    logits = net(images)
    (activation,) = seen
    assert activation.shape == (2, 128, 12, 12)
    assert activation.min() >= 0
    assert torch.equal(activation, net.features(images))
    maxima = activation.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))  # the rest of the network, slowly
    assert torch.allclose(logits, maxima.mean((2, 3)) @ net.classifier.weight.T + net.classifier.bias, atol=1e-6)


def test_pooling_before_batchnorm_and_relu_changes_nothing_for_positive_scales(net):
    """Both are increasing then, and commute with the maximum."""
    conv, pool, norm, relu = net.features[1]
    assert isinstance(pool, nn.MaxPool2d)
    net.eval()
    inputs = torch.randn(1, 16, 8, 8)
    assert torch.allclose(net.features[1](inputs), pool(relu(norm(conv(inputs)))), atol=1e-6)


def test_learns_a_small_batch(net):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        images, labels = torch.randn(10, 3, 48, 48), torch.arange(10) % 5
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(15):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
