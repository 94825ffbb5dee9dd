"""Training samples: augmented images whose randomness depends on (seed, epoch, index) alone, and their order.

A sample is asked for by the pair (epoch, index), so neither the number of workers nor an interruption changes anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from wcx.datasets.base import ImageDataset
from wcx.errors import WcxError
from wcx.training.recipe import Recipe, derive


@contextmanager
def brief_errors() -> Iterator[None]:
    """Restore the one line of a WcxError that a DataLoader's worker has wrapped into its traceback."""
    try:
        yield
    except WcxError as error:
        last = str(error).strip().splitlines()[-1]
        raise type(error)(re.sub(r"^[\w.]*Error: ", "", last)) from None


def loader(samples: Dataset, num_workers: int, **options: Any) -> DataLoader:
    """Return a DataLoader of at most `num_workers` processes, and no more than there are cores for this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return DataLoader(samples, num_workers=min(num_workers, cores), **options)


class Pixels(Dataset):
    """The transformed images of a dataset as uint8 (3, H, W), kept in memory when there is room."""

    def __init__(self, dataset: ImageDataset, cache_bytes: float = 2 * 2**30, num_workers: int = 0) -> None:
        self.dataset = dataset
        first = self._decode(0)
        self.side = first.shape[-1]
        self.cache: Tensor | None = None
        if len(dataset) > 1 and first.nbytes * len(dataset) <= cache_bytes:
            cache = torch.empty((len(dataset), *first.shape), dtype=torch.uint8)
            batches = loader(self, num_workers, batch_size=16)
            with brief_errors():
                for start, (images, _) in enumerate(tqdm(batches, "reading images", disable=None, leave=False)):
                    cache[16 * start : 16 * start + len(images)] = images
            self.cache = cache

    def _decode(self, index: int) -> Tensor:
        return self.dataset[index][0].mul(255).round().to(torch.uint8)  # exact: the transform ends in 8 bits

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return (uint8 (3, H, W), label)."""
        return self._decode(index) if self.cache is None else self.cache[index], self.dataset.labels[index]


class Augmented(Dataset):
    """Pixels behind a random augmentation."""

    def __init__(self, pixels: Pixels, augmentation: v2.Transform, seed: int) -> None:
        self.pixels, self.augmentation, self.seed = pixels, augmentation, seed

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        """Return (uint8 (3, H, W), label) of (epoch, index)."""
        epoch, index = key
        image, label = self.pixels[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "sample", epoch, index))
            return F.pil_to_tensor(self.augmentation(F.to_pil_image(image))), label


class Views(Dataset):
    """Each image as the front of a network sees it: as it is, `recipe.variants` augmented ones, and the mirror images of all."""

    def __init__(self, pixels: Pixels, recipe: Recipe) -> None:
        self.pixels, self.variants, self.mirror = pixels, recipe.variants, recipe.mirror
        # of any run: other seeds share them
        self.augmented = Augmented(pixels, recipe.augmentation(pixels.side), seed=0)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return (uint8 (views, 3, H, W), label)."""
        image, label = self.pixels[index]
        views = torch.stack([image, *(self.augmented[number, index][0] for number in range(self.variants))])
        return torch.cat([views, views.flip(-1)]) if self.mirror else views, label


class Features(Dataset):
    """Inputs of a `Tail`, computed before, `array` (views, n, ...): sample k is view k // n of image k % n."""

    def __init__(self, array: np.ndarray, labels: Sequence[int]) -> None:
        self.array, self.labels = array, labels

    def __len__(self) -> int:
        return self.array.shape[0] * self.array.shape[1]

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, int]:
        """Return (input (...) as it is kept, label) of (epoch, index) or index."""
        view, image = divmod(key[1] if isinstance(key, tuple) else key, self.array.shape[1])
        return torch.from_numpy(np.array(self.array[view, image])), self.labels[image]


class Batches:
    """The batches of one epoch, from batch `start` on: lists of (epoch, index), shuffled by (seed, epoch)."""

    def __init__(self, indices: Sequence[int], batch_size: int, seed: int) -> None:
        self.indices, self.batch_size, self.seed = list(indices), batch_size, seed
        self.epoch, self.start = 0, 0
        left_over = len(self.indices) % batch_size
        single = left_over == 1 and len(self.indices) > 1
        self.steps = len(self.indices) // batch_size + (left_over > 0 and not single)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
        order = torch.randperm(len(self.indices), generator=generator).tolist()
        for step in range(self.start, self.steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(self.epoch, self.indices[k]) for k in chosen]


def choose_indices(count: int, recipe: Recipe, seed: int) -> tuple[list[int], list[int]]:
    """Return the images (of `count`) to train on, and those to choose the best epoch on; ascending.

    The latter are a seeded random share `recipe.holdout`, at least one image, if recipe.select is "best", else none.
    """
    if recipe.select == "last":
        return list(range(count)), []
    generator = torch.Generator().manual_seed(derive(seed, "holdout"))
    order = torch.randperm(count, generator=generator).tolist()
    cut = max(1, round(count * recipe.holdout))
    return sorted(order[cut:]), sorted(order[:cut])
