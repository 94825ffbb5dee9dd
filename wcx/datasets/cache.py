"""A cache of decoded images, so that nine networks do not decode 50,000 JPEGs nine times.

    <folder>/imagenet-test-<fingerprint>.npy        uint8 (n, channels, H, W): every image after the transform
    <folder>/imagenet-test-<fingerprint>-sums.npy   uint64 (n,): 0, or 2^32 + CRC-32 of the image's bytes

The fingerprint covers the dataset's listing, the transform and the decoder's version: another one is another file. Pixels are
written before their sum and checked against it when they are read, so that a kill at any moment, a damaged disk or two
processes at once can only lead to an image being decoded again. What is read is bit by bit what the dataset would give; a
file that cannot be read is never stored, and raises its DataError at every access. The file is sparse: images that nobody
asked for take no room.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from wcx import files
from wcx.datasets.base import ImageDataset
from wcx.errors import DataError, WcxError
from wcx.images import Transform
from wcx.paths import home

log = logging.getLogger("wcx")
_THERE = 1 << 32  # a sum of 0 then means: not stored
_BLOCK = 256  # images decoded between two looks at what went wrong


class CachedImages(ImageDataset):
    """A dataset whose transformed images come from the cache, or go into it at their first access.

    Args:
        dataset: opened with its transform, which stays.
        folder: of the cache; made if need be.

    Raises:
        WcxError: the folder cannot be written, or the dataset has no files.
    """

    def __init__(self, dataset: ImageDataset, folder: Path) -> None:
        if dataset.root is None:
            raise WcxError(f"dataset {dataset.name} is drawn, not decoded: leave cache=true out.")
        vars(self).update({name: value for name, value in vars(dataset).items() if name != "transform"})
        self._images, self._listing = dataset, dataset.listing_hash()
        self.folder, side = Path(folder), dataset.transform.size
        self._damaged = False
        facts = {"listing": self._listing, "transform": asdict(dataset.transform), "decoder": PIL.__version__}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        self._stem = self.folder / f"{dataset.name}-{dataset.split}-{name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock():
                self._pixels, _ = files.memmap(
                    self.file, (len(dataset), dataset.transform.channels, side, side), np.uint8, "r"
                )
                self._sums, _ = files.memmap(self._sums_file, (len(dataset),), np.uint64)
            self._out = self.file.open("r+b", buffering=0)
        except OSError as error:
            raise self._unusable(error) from error

    @property
    def file(self) -> Path:
        """The pixels."""
        return self._stem.with_name(f"{self._stem.name}.npy")

    @property
    def transform(self) -> Transform:
        """The transform of what is stored; it cannot be changed any more."""
        return self._images.transform

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Return what the dataset would: (float32 (channels, H, W) in [0, 1], label)."""
        i = range(len(self))[i]
        pixels = self._read(i)
        return torch.from_numpy(self._store(i) if pixels is None else pixels).to(torch.float32) / 255, self.labels[i]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a worker process open the files itself."""
        return CachedImages, (self._images, self.folder)

    def listing_hash(self) -> str:
        """Return the dataset's own, as it was when the cache was opened."""
        return self._listing

    def fill(self, indices: Sequence[int] | None = None, workers: int = 1, quiet: bool = False) -> None:
        """Decode what is missing of some images, or of all; another process that does so is waited for.

        Images that cannot be read are passed over: their error is raised where they are used.

        Raises:
            WcxError: there is not enough room on the disk.
        """
        absent = range(len(self)) if indices is None else indices
        if not self._missing(absent):
            return
        with self._lock(), ThreadPoolExecutor(max(1, workers)) as pool:
            missing = self._missing(absent)
            self._require_room(len(missing))
            bar = tqdm(total=len(missing), unit="image", desc=f"decoding into {self.file.name}", disable=quiet)
            with bar:
                for start in range(0, len(missing), _BLOCK):
                    for _ in pool.map(self._try, missing[start : start + _BLOCK]):
                        bar.update()

    def _missing(self, indices: Sequence[int]) -> list[int]:
        return [i for i in indices if not self._sums[i]]

    def _try(self, i: int) -> None:
        try:
            self._store(i)
        except DataError as error:
            log.debug("not cached: %s", error)

    def _read(self, i: int) -> np.ndarray | None:
        """Return the stored pixels, uint8 (channels, H, W); None if they are not there or damaged."""
        if not self._sums[i]:
            return None
        pixels = np.array(self._pixels[i])
        if self._sums[i] == _sum(pixels):
            return pixels
        log.log(
            logging.DEBUG if self._damaged else logging.WARNING, "%s: damaged, decoded again: image %d", self.file, i
        )
        self._damaged = True  # the others of a damaged disk are not worth a line each
        return None

    def _store(self, i: int) -> np.ndarray:
        """Decode an image, store its pixels and return them, uint8 (channels, H, W)."""
        exact = self._images[i][0]
        stored = (exact * 255).round().to(torch.uint8)
        if not torch.equal(stored.to(torch.float32) / 255, exact):
            raise WcxError(f"dataset {self.name} has pixels that are not of 8 bits: leave cache=true out.")
        pixels = np.ascontiguousarray(stored.numpy())
        try:  # not through the memory map, where a full disk would end the process
            os.pwrite(self._out.fileno(), pixels.tobytes(), self._pixels.offset + i * pixels.nbytes)
        except OSError as error:
            raise self._unusable(error) from error
        self._sums[i] = _sum(pixels)
        return pixels

    def _require_room(self, images: int) -> None:
        need, free = images * self._pixels[0].nbytes, shutil.disk_usage(self.folder).free
        if need > free:
            raise WcxError(
                f"the cache needs {need / 1e9:.1f} GB more in {self.folder}, where {free / 1e9:.1f} GB are free; make room, "
                f"give another paths.cache_dir (WCX_CACHE_DIR), or leave cache=true out."
            )

    def _lock(self) -> AbstractContextManager[None]:
        def wait() -> None:
            log.warning("waiting for another process that decodes into %s", self.file)

        return files.locked(self._stem.with_name(f"{self._stem.name}.lock"), wait)

    @property
    def _sums_file(self) -> Path:
        return self._stem.with_name(f"{self._stem.name}-sums.npy")

    def _unusable(self, error: OSError) -> WcxError:
        reason = " ".join(str(error).split())
        return WcxError(
            f"the cache in {self.folder} cannot be used: {reason}; give another paths.cache_dir (WCX_CACHE_DIR), or leave "
            f"cache=true out."
        )


def cached(dataset: ImageDataset, folder: str | Path) -> CachedImages:
    """Return the dataset with its transformed images cached in a folder (see `CachedImages`)."""
    return CachedImages(dataset, home(folder))


def _sum(pixels: np.ndarray) -> np.uint64:
    return np.uint64(_THERE | zlib.crc32(pixels))
