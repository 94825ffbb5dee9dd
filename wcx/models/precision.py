"""Arithmetic: what images and logits are computed in, without leaving a global flag behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from wcx.errors import choose


@dataclass(frozen=True)
class Precision:
    """One way to compute.

    Attributes:
        dtype: of images, weights, and evaluation.
        gradient: autocast's dtype of the passes that a gradient is made of; None: `dtype`, so that their logits serve
            as evaluation, too.
        tf32: NVIDIA's 10-bit mantissa in convolutions and matrix products (PyTorch's own default for convolutions).
    """

    dtype: torch.dtype = torch.float32
    gradient: torch.dtype | None = None
    tf32: bool = False


PRECISIONS = {
    "float32": Precision(),
    "tf32": Precision(tf32=True),
    "bfloat16": Precision(gradient=torch.bfloat16),
    "float64": Precision(dtype=torch.float64),
}


def get(name: str) -> Precision:
    """Return the precision called `name`.

    Raises:
        WcxError: no such precision.
    """
    return PRECISIONS[choose("precision", name, PRECISIONS)]


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the model in `dtype`: itself, or a copy."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.dtype == dtype for tensor in tensors if tensor.is_floating_point()):
        return model
    return copy.deepcopy(model).to(dtype)


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 on a GPU; the flags are as before afterwards, come what may."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = allowed
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
