"""Options of another type than they are annotated with: one line each, of every method, experiment and recipe."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

import wcx
from tests import nets
from wcx import datasets, experiments, images, methods, models
from wcx.cli import application, opening
from wcx.errors import WcxError, construct
from wcx.experiments.gallery import GallerySettings
from wcx.experiments.masking import Settings
from wcx.training.recipe import Recipe

WRONG = ("x", "no", 2.5, -1, 0, None, [1], ("x",), True, "1e-3", float("nan"), {})


def options() -> Iterator[tuple[str, Callable[..., object], dict[str, object]]]:
    for name in methods.names():
        parameters = inspect.signature(methods.get(name)).parameters
        yield name, methods.get(name), {key: parameter.default for key, parameter in parameters.items()}
    for name in experiments.names():
        fields = dataclasses.fields(experiments.get(name).protocol)
        yield name, experiments.get(name).protocol, {field.name: field.default for field in fields}
    yield "recipe", Recipe, {field.name: field.default for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize(("kind", "defaults"), [pytest.param(*each[1:], id=each[0]) for each in options()])
def test_a_value_of_another_type_is_one_line(kind: Callable[..., object], defaults: Mapping[str, object]) -> None:
    """`relu="no"` once was true, and `epsilon="1e-3"` a traceback."""
    needed, lines = {"name": "x"} if kind is Recipe else {}, []
    for name, default in defaults.items():
        for value in WRONG:
            try:
                construct("", kind, needed | {name: value})
            except WcxError as error:
                lines.append(str(error))
                continue
            assert not isinstance(default, bool) or isinstance(value, bool), f"{name}={value!r} is taken"
            is_text = (
                name in ("foils", "name") or default is None or isinstance(default, str)
            )  # confused:k is looked at later
            assert is_text or not isinstance(value, str), f"{name}={value!r} is taken"
    assert not any("\n" in line for line in lines)


def test_the_line_says_what_was_given_and_what_is_wanted() -> None:
    for method, option, line in (
        ("gradcam", {"relu": "no"}, "method gradcam: relu = 'no': give true or false."),
        ("lrp", {"epsilon": "1e-3"}, "method lrp: epsilon = '1e-3': give a number."),
        (
            "lrp",
            {"low": "black"},
            "method lrp: low = 'black': give a number or a list, each item a number or Tensor or null.",
        ),
        (
            "integrated_gradients",
            {"batch_size": 2.5},
            "method integrated_gradients: batch_size = 2.5: give a whole number.",
        ),
    ):
        with pytest.raises(WcxError) as caught:
            methods.create(method, **option)
        assert str(caught.value) == line
    with pytest.raises(WcxError, match=r"^threshold = 'high': give a number\.$"):
        construct("", Settings, {"threshold": "high"})


@pytest.mark.parametrize("sigma", [(1.0,), (1.0, 2.0, 3.0), (3.0, 1.0), (), 0.0, float("nan")])
def test_a_range_of_sigmas_has_two_ends(sigma: object) -> None:
    with pytest.raises(WcxError, match=r"blur_sigma = .*; give a width in pixels, or a range"):
        Settings(blur_sigma=sigma)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [0, -1, -100])
def test_a_kernel_without_a_width_is_one_line(kernel: int) -> None:
    """0 blurred nothing, without a word."""
    with pytest.raises(WcxError, match=f"blur: kernel = {kernel} is no width"):
        images.blur(nets.images(), 15.0, kernel)


def test_numpys_numbers_are_numbers() -> None:
    method = methods.create("integrated_gradients", batch_size=4, sigma=np.float32(3))
    assert wcx.explain(nets.conv_batchnorm(), nets.images(1), 0, method).shape == (1, 3, 16, 16)


def test_an_images_id_of_digits_is_taken_as_it_is_typed() -> None:
    """Hydra reads ids=[12] as a number."""
    settings = opening.settings(application.compose(["experiment=gallery", "ids=[12,00012,bird]"]), GallerySettings)
    assert settings.ids == (12, "00012", "bird")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.load("small_cnn", weights="random", num_classes=0), "num_classes = 0: give a whole number"),
        (lambda: models.load("small_cnn", weights="random", num_classes=-3), "num_classes = -3: give"),
        (lambda: datasets.as_transform("crop"), "transform = 'crop'; give its arguments"),
        (lambda: datasets.as_transform({"size": "x"}), "transform: size = 'x': give a whole number"),
        (lambda: datasets.as_transform({"sise": 3}), "Choose one of: channels, interpolation, kind, resize, size.$"),
        (
            lambda: methods.create("gradient", samples=2, noise=float("nan")).run(nets.bias_free(), nets.images()),
            "noise=nan",
        ),
    ],
)
def test_numbers_that_are_none_are_one_line(call: Callable[[], object], message: str) -> None:
    """num_classes=0 was 1000, and noise=nan a map of NaN."""
    with pytest.raises(WcxError, match=message):
        call()
