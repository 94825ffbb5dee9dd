"""What a network confuses a class with: its soft confusion on the training images, computed once and kept."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from wcx import files
from wcx.datasets.base import ImageDataset
from wcx.images import device_of
from wcx.models import LoadedModel
from wcx.training.loop import to_device
from wcx.training.samples import Pixels, brief_errors, loader

log = logging.getLogger("wcx")


def soft_confusion(loaded: LoadedModel, train: ImageDataset, batch_size: int = 32, num_workers: int = 0) -> Tensor:
    """Return C (outputs, outputs), float64: C[t, s] = mean of p_s over the training images of class t; NaN without images.

    Args:
        loaded: the network; see `LoadedModel.outputs`. Images of a class without an output are left out.
        train: the training split, with the transform that the network is explained with.
        batch_size: images a pass.
        num_workers: processes that decode images.
    """
    device = device_of(loaded.model)
    outputs = loaded.outputs(train.class_names) or list(range(len(train.class_names)))
    rows = torch.tensor([-1 if output is None else output for output in outputs])
    total = counts = torch.zeros(0, dtype=torch.float64)
    batches = loader(Pixels(train, cache_bytes=0), num_workers, batch_size=batch_size)
    with torch.inference_mode(), brief_errors():
        for images, answers in tqdm(batches, "confusion", unit="batch", disable=None, leave=False):
            p = loaded.model(to_device(images, device)).double().softmax(1).cpu()
            if not len(total):
                total, counts = p.new_zeros(p.shape[1], p.shape[1]), p.new_zeros(p.shape[1])
            labels = rows[answers]
            total.index_add_(0, labels[labels >= 0], p[labels >= 0])
            counts += torch.bincount(labels[labels >= 0], minlength=len(counts))
    return total / counts[:, None]  # 0 / 0 is NaN


def kept_confusion(
    loaded: LoadedModel,
    train: ImageDataset,
    checkpoints_dir: Path,
    batch_size: int = 32,
    num_workers: int = 0,
    computes: bool = True,
) -> Tensor | None:
    """Return the soft confusion from `<checkpoints_dir>/<dataset>/<model>-<hash>.confusion.npy`, computing it first if need be.

    The hash is of the weights, the training images, their outputs and the transform: another of these is another file. Without
    `computes` it is None where there is no such file.
    """
    identity = [loaded.weights_hash, train.listing_hash(), asdict(train.transform), loaded.outputs(train.class_names)]
    digest = sha256(json.dumps(identity).encode()).hexdigest()[:10]
    path = checkpoints_dir / train.name / f"{loaded.name}-{digest}.confusion.npy"
    content, _ = files.load(path)
    if content:
        try:
            return torch.from_numpy(np.load(io.BytesIO(content)))
        except (ValueError, EOFError) as error:
            files.set_aside(path, f"is damaged ({error})")
    if not computes:
        return None
    log.info("the network's confusion on %d training images comes first: %s", len(train), path)
    confusion = soft_confusion(loaded, train, batch_size, num_workers)
    buffer = io.BytesIO()
    np.save(buffer, confusion.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, buffer.getvalue())
    return confusion
