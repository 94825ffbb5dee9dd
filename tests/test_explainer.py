"""`explain` and `Explainer` against a loop over classes; their promises on passes, state, batches, layers, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from tests.methods import linear
from wcx import methods
from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods.base import say

METHODS = ["gradient", "input_x_gradient", "gradcam", "linear_approximation", "xgradcam"]
SPACE = {name: methods.get(name).space for name in METHODS}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("net", nets.ALL)
@pytest.mark.parametrize("method", METHODS)
def test_one_pass_is_the_sum_over_classes(method: str, net: str, dtype: torch.dtype, tolerance: float) -> None:
    """Proposition 3, one class and one image at a time. The tolerances are the issue's."""
    model, images, target = nets.ALL[net]().to(dtype), nets.images().to(dtype), torch.tensor([0, 5, 2])
    rows = [[wcx.explain(model, x[None], s, method, "original")[0] for s in range(nets.CLASSES)] for x in images]
    phis = torch.stack([torch.stack(row) for row in rows])
    linear.check(lambda name: wcx.explain(model, images, target, method, name), phis, model(images), target, tolerance)


def test_activation_methods_by_their_formulas() -> None:
    """Eqs. 2 and 4 and the signed XGradCAM, written out for one image of a float64 net."""
    model, image = nets.bias_free().double(), nets.images(1).double()
    with torch.no_grad():
        a = model[:4](image)
    a.requires_grad_()
    (g,) = torch.autograd.grad(model[4:](a)[0, 3], a)
    a = a.detach()
    expected = {
        "gradcam": sum(g[0, k].mean() * a[0, k] for k in range(10)),
        "linear_approximation": sum(g[0, k] * a[0, k] for k in range(10)),
        "xgradcam": sum((g[0, k] * a[0, k]).sum() / a[0, k].abs().sum() * a[0, k] for k in range(10)),
    }
    for name, phi in expected.items():
        got = wcx.explain(model, image, 3, name, "original", layer="3")[0]
        torch.testing.assert_close(got, phi, rtol=1e-12, atol=1e-14)


def test_xgradcam_of_a_dead_channel_is_zero_not_nan() -> None:
    model = nets.bias_free()
    model[3].weight.data[4] = 0
    assert bool(wcx.explain(model, nets.images(), 1, "xgradcam").isfinite().all())


def test_inplace_relu_behind_the_layer_leaves_the_activation_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), *head)
    images = nets.images()
    clean = model[0](images).detach()
    for layer in ("0", None):
        run = wcx.Explainer(model, "gradcam", layer)(images)
        assert run.layer == "0"
        assert torch.equal(run.activation, clean)
        assert bool((run.activation < 0).any())
    assert model[1].inplace


class Counting(nn.Module):
    """Counts the images that go forward through a net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls, self.first_conv_backward = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.net(x)
        if y.requires_grad:
            y.register_hook(self._count)
        return y

    def _count(self, _gradient: Tensor) -> None:
        self.first_conv_backward += 1


@pytest.mark.parametrize("layer", [None, "given"])
@pytest.mark.parametrize("method", METHODS)
def test_one_forward_and_one_backward_per_cotangent(method: str, layer: str | None) -> None:
    """Whose hooks count each: without them, one pass takes all where linear layers alone follow (tests/methods/test_heads.py)."""
    model = Counting(nets.conv_batchnorm())
    given = "net.2" if layer and SPACE[method] == "activation" else None
    targets = torch.tensor([[0, 1, 2], [3, 4, 5]])
    maps = wcx.explain(model, nets.images(), targets, method, ["original", "mean", "max", "weighted"], layer=given)
    assert maps.shape[:3] == (4, 2, 3)
    assert (model.calls, model.first_conv_backward) == (1, 8)


def test_activation_methods_go_no_further_than_the_layer() -> None:
    model = nets.conv_batchnorm()
    reached: list[str] = []

    class Reached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            reached.append("below")
            return g

    model[1].register_forward_hook(lambda module, args, output: Reached.apply(output))
    wcx.explain(model, nets.images(), 0, "gradcam", layer="2")
    wcx.explain(model, nets.images(), 0, "gradcam")
    assert not reached
    wcx.explain(model, nets.images(), 0, "gradient")
    assert reached


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_does_not_depend_on_its_batch(method: str, dtype: torch.dtype, tolerance: float) -> None:
    """Relative L2; the tolerances are the issue's. Other batch sizes take other convolution kernels: not bit by bit."""
    model, images = nets.conv_batchnorm().to(dtype).train(), nets.images(32).to(dtype)
    together = wcx.explain(model, images, 1, method)
    for i in (0, 13, 31):
        alone = wcx.explain(model, images[i : i + 1], 1, method)[0]
        assert float((alone - together[i]).norm() / alone.norm()) <= tolerance


def test_smoothgrad_is_the_mean_over_noisy_copies() -> None:
    model, images = nets.conv_batchnorm().double(), nets.images().double()
    options = {"samples": 5, "noise": 0.2, "seed": 7}
    expected = torch.zeros_like(images)
    for s in range(5):
        generator = torch.Generator().manual_seed(7 * 1_000_003 + s)
        pattern = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
        spread = images.flatten(1).max(1).values - images.flatten(1).min(1).values
        noisy = images + 0.2 * spread[:, None, None, None] * pattern
        v = wcx.cotangent(model(images), 2, "weighted")
        leaf = noisy.clone().requires_grad_()
        expected += torch.autograd.grad((model(leaf) * v).sum(), leaf)[0] / 5
    for batch_size in (1, 4, 100):
        got = wcx.explain(model, images, 2, "gradient", "weighted", batch_size=batch_size, **options)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
    alone = wcx.explain(model, images[1:2], 2, "gradient", "weighted", **options)
    torch.testing.assert_close(alone[0], expected[1], rtol=1e-10, atol=1e-14)


def test_probability_varies_along_a_path_and_the_others_do_not() -> None:
    model, images = nets.conv_batchnorm().double(), nets.images().double()
    both = wcx.explain(model, images, 2, "gradient", ["probability", "weighted"], samples=3, noise=0.3)
    expected = torch.zeros_like(images)
    for s in range(3):
        pattern = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        spread = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
        leaf = (images + 0.3 * spread * pattern).requires_grad_()
        expected += torch.autograd.grad(model(leaf).softmax(1)[:, 2].sum(), leaf)[0] / 3
    torch.testing.assert_close(both[0], expected, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(both[1], wcx.explain(model, images, 2, "gradient", "weighted", samples=3, noise=0.3))


def test_layer_by_name_by_module_and_through_wrappers() -> None:
    model, images = nets.conv_batchnorm(), nets.images()
    expected = wcx.explain(model, images, 0, layer="2")
    wrapped = Normalized(model, mean=[0.0] * 3, std=[1.0] * 3)
    for given in ({"layer": model[2]}, {"layer": None}):
        torch.testing.assert_close(wcx.explain(model, images, 0, **given), expected)
    for outer in (wrapped, nn.DataParallel(wrapped), nn.Sequential(nn.Identity(), model)):
        run = wcx.Explainer(outer, layer="2")(images)
        assert run.layer.endswith("2")
        torch.testing.assert_close(wcx.explain(outer, images, 0, layer="2"), expected)


def test_squeezenet_like_class_scores_are_no_activation() -> None:
    scores = nn.Sequential(nn.Dropout(), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), scores)
    run = wcx.Explainer(model)(nets.images())
    assert run.layer == "0"
    assert run.activation.shape[1] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 999}, "target 999 is out of range: the model has 6 classes"),
        ({"method": "gradcma"}, "Did you mean 'gradcam'"),
        ({"contrast": "weigthed"}, "Did you mean 'weighted'"),
        ({"layer": "features.99"}, "no layer 'features.99'; try one of: .*2"),
        ({"layer": "6"}, "expected a map"),
        ({"layer": nn.ReLU()}, "not part of the model"),
        ({"layer": "2", "method": "gradient"}, "gradient explains the input, at no layer, got layer='2'; .* gradcam"),
        ({"images": torch.zeros(3, 16, 16)}, r"expected a floating tensor \(N, 3, H, W\)"),
        ({"method": "gradient", "samples": -1}, "samples=-1"),
        ({"method": "gradcam", "samples": 3}, "no option 'samples'"),
        ({"contrast_options": {"gamma": 2}}, "unknown contrast option 'gamma'"),
        ({"model": "vgg16"}, "the model is a str; expected an nn.Module"),
        ({"model": nn.Sequential(nn.Conv2d(3, 4, 3))}, r"expected logits of shape \(N, C\)"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(768, 4))}, "found no convolutional activation"),
        ({"contrast": None}, "contrast = None: give a name, or a list of names, of: original"),
        ({"contrast": ["mean", 3]}, r"contrast = \['mean', 3\]: give a name"),
        ({"method": methods.get("gradcam")}, "method is its class; call it: give a name .*gradcam"),
        ({"method": None}, "method is NoneType: give a name"),
        ({"method": methods.create("gradient"), "samples": 3}, "options samples beside a method that is made already"),
        (
            {
                "model": nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
                "images": torch.rand(3, 3, 2, 2),
            },
            r"takes torch.float32 images \(3, 3, 224, 224\), got .*; give images of 224 x 224 pixels",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: dict, message: str) -> None:
    with pytest.raises(WcxError, match=message) as caught:
        wcx.explain(**({"model": nets.conv_batchnorm(), "images": nets.images(), "target": 0} | arguments))
    assert "\n" not in str(caught.value)


def test_a_layer_that_runs_twice_is_refused_by_name() -> None:
    with pytest.raises(WcxError, match="ran 2 times"):
        wcx.explain(nets.residual(), nets.images(), 0, layer="relu")


def test_upsample() -> None:
    maps = torch.randn(2, 3, 4, 4)
    for align in (False, True):
        expected = nn.functional.interpolate(maps, (9, 7), mode="bilinear", align_corners=align)
        assert torch.equal(wcx.upsample(maps, (9, 7), align), expected)
    assert wcx.upsample(maps[0], 8).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("maps", "size", "message"),
    [
        (torch.rand(2, 3, 3), 0, "size = 0; give"),
        (torch.rand(2, 3, 3), "55", "size = '55'; give"),
        (torch.rand(2, 3, 3), (5, 5, 5), r"size = \(5, 5, 5\); give"),
        (torch.rand(3), 5, r"maps are \(3,\) torch.float32; expected"),
        (torch.ones(3, 3, dtype=torch.long), 5, "maps are .*int64; expected"),
        ([[1.0]], 5, "maps are list"),
    ],
)
def test_maps_or_sizes_that_are_none_are_one_clear_line(maps: object, size: object, message: str) -> None:
    with pytest.raises(WcxError, match=message):
        wcx.upsample(maps, size)  # type: ignore[arg-type]
    assert wcx.upsample(torch.rand(2, 3, 3), np.int64(5)).shape == (2, 5, 5)


def test_a_cotangent_that_is_no_tensor_is_one_clear_line() -> None:
    run = wcx.Explainer(nets.conv_batchnorm(), "gradcam")(nets.images())
    for value in ("weighted", 1, lambda logits: "mean"):
        with pytest.raises(WcxError, match=r"is no tensor; give \(N, C\) or \(K, N, C\), such as wcx.cotangent"):
            run.explain(value)
    with pytest.raises(WcxError, match="logits are a list; expected a floating tensor"):
        wcx.cotangent([[1.0, 2.0]], 1)


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (nn.Softmax(1), "probabilities"),
        (nn.LogSoftmax(1), "log-probabilities"),
        (nn.Identity(), None),
        (nn.ReLU(), None),
    ],
    ids=["softmax", "log_softmax", "logits", "relu"],
)
def test_outputs_that_are_no_logits_are_named(
    last: nn.Module, word: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A network that ends in a softmax was explained without a word: contrasts of its probabilities are no contrasts."""
    say.cache_clear()
    wcx.explain(nn.Sequential(nets.conv_batchnorm(), last), nets.images(), 1)
    assert (f"outputs are {word}, not logits" in caplog.text) == (word is not None)


def test_logits_that_are_rounded_are_named_where_they_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    say.cache_clear()
    wcx.explain(nets.conv_batchnorm(), nets.images(), 1, "occlusion")
    assert "rounded" not in caplog.text
    wcx.explain(nets.conv_batchnorm().bfloat16(), nets.images().bfloat16(), 1, "occlusion")
    assert "those of torch.bfloat16 are rounded" in caplog.text
