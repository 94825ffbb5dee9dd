"""In which forms a network may return its logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from wcx.errors import WcxError


class Returning(nn.Module):
    """Hands on what another network returns, in another form."""

    def __init__(self, model: nn.Module, form: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.model, self.form = model, form

    def forward(self, images: Tensor) -> object:
        return self.form(self.model(images))


@pytest.mark.parametrize("form", [lambda y: {"features": y[:, :2], "logits": y}, lambda y: {"out": y}])
def test_logits_in_a_mapping_are_taken_as_by_the_command_line(form: Callable) -> None:
    model, images = nets.conv_batchnorm(), nets.images()
    for method in ("gradcam", "integrated_gradients", "occlusion"):
        assert torch.equal(
            wcx.explain(Returning(model, form), images, 1, method), wcx.explain(model, images, 1, method)
        )


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda y: (y[:, :2], y), r"returned tuple for \d images; expected logits of shape \(N, C\)"),
        (lambda y: {"scores": y}, "returns a dict with 'scores'; expected logits"),
    ],
)
def test_which_of_several_outputs_are_the_logits_is_not_guessed(form: Callable, message: str) -> None:
    with pytest.raises(WcxError, match=message):
        wcx.explain(Returning(nets.conv_batchnorm(), form), nets.images(), 1)
