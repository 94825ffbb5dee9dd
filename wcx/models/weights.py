"""Weight files: where a model's ImageNet weights come from (wcx/state_dicts.py reads them).

The order (design, "Weights"): what was asked for; `<weights_dir>/<torchvision's file name>`; `<weights_dir>/<model>.*`
or `<model>_features*.*`, reported as a stand-in; torchvision's download, pinned.
"""

from __future__ import annotations

import hashlib
import logging
import re
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wcx.errors import WcxError, choose

if TYPE_CHECKING:
    import torchvision  # imported where it is needed: it takes as long as torch itself

log = logging.getLogger("wcx")

SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True)
class Weights:
    """Where a network's weights come from.

    Attributes:
        label: for tables and manifests: "IMAGENET1K_V1", "stand-in: mobilenet_v2.pth", "file: mine.pth" or "random".
        path: the file, or None (random initialisation).
        entry: name of the torchvision entry that the file is, or None.
        stand_in: not the weights that the model's name promises, but others that were found in their place.
    """

    label: str
    path: Path | None = None
    entry: str | None = None
    stand_in: bool = False


RANDOM = Weights("random")


def resolve(name: str, weights: str | Path | None, weights_dir: str | Path | None, pinned: str | None) -> Weights:
    """Find the weights of the torchvision classifier `name`.

    Args:
        name: torchvision's name of the architecture; any other name has no ImageNet weights.
        weights: "auto" (the order in the module's docstring), a torchvision entry ("IMAGENET1K_V1"), a file (as given,
            or in `weights_dir`), or None or "random" (random initialisation).
        weights_dir: folder searched before anything is downloaded; may be absent.
        pinned: the entry that "auto" stands for; None: none, so "auto" is random.

    Raises:
        WcxError: no such entry or file, or the download failed.
    """
    if weights is None or str(weights) == "random" or (str(weights) == "auto" and pinned is None):
        return RANDOM
    entries = torchvision_entries(name)
    folder = Path(weights_dir) if weights_dir else None
    if str(weights) == "auto":
        if not entries:
            return RANDOM
        entry = entries[choose(f"weights entry of {name}", pinned, entries)]
        return _official(entry, folder) or _stand_in(name, folder) or _download(name, entry, folder)
    if str(weights) in entries:
        entry = entries[str(weights)]
        return _official(entry, folder) or _download(name, entry, folder)
    for path in filter(None, (Path(weights), folder and folder / weights)):
        if path.is_file():
            official = [_official(entry, path.parent) for entry in entries.values() if _file_name(entry) == path.name]
            return official[0] if official and official[0] else Weights(f"file: {path.name}", path)
    if Path(weights).suffix in SUFFIXES:
        raise WcxError(f"weights file not found: {weights} (nor in weights_dir: {folder}); check model.weights")
    choose(f"weights of {name}", str(weights), [*entries, "auto", "random", f"<file>{'|'.join(SUFFIXES)}"])
    raise AssertionError("unreachable")


def located(path: str | Path, folder: str | Path | None) -> Path:
    """Return a file's path, or that in `folder` if only this is there."""
    inside = Path(folder, path) if folder else Path(path)
    return inside if inside.is_file() and not Path(path).is_file() else Path(path)


def torchvision_entries(name: str) -> dict[str, torchvision.models.WeightsEnum]:
    """Return torchvision's weight entries of the classifier `name`; {} for models that are not torchvision's."""
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        return {}
    return dict(torchvision.models.get_model_weights(name).__members__)


def _file_name(entry: torchvision.models.WeightsEnum) -> str:
    return entry.url.rsplit("/", 1)[-1]


def _official(entry: torchvision.models.WeightsEnum, folder: Path | None) -> Weights | None:
    """Return torchvision's file in `folder`; one without the checksum that its name tells is a stand-in."""
    path = folder and folder / _file_name(entry)
    if not path or not path.is_file():
        return None
    digits = re.search(r"-([0-9a-f]{8,})\.\w+$", path.name)
    with path.open("rb") as file:
        if digits and not hashlib.file_digest(file, "sha256").hexdigest().startswith(digits[1]):
            log.warning("%s does not match the checksum in its name: treated as a stand-in", path)
            return Weights(f"stand-in: {path.name}", path, stand_in=True)
    return Weights(entry.name, path, entry.name)


def _stand_in(name: str, folder: Path | None) -> Weights | None:
    if not folder or not folder.is_dir():
        return None
    exact = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    parts = sorted(path for path in folder.glob(f"{name}_features*") if path.suffix in SUFFIXES)
    path = next((path for path in [*exact, *parts] if path.is_file()), None)
    return path and Weights(f"stand-in: {path.name}", path, stand_in=True)


def _download(name: str, entry: torchvision.models.WeightsEnum, folder: Path | None) -> Weights:
    """Return torchvision's file in torch's own cache, downloaded and checked if need be."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(entry)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = re.search(r"-([0-9a-f]{8,})\.", path.name)
        log.info("downloading %s", entry.url)
        try:
            torch.hub.download_url_to_file(entry.url, str(path), hash_prefix=digits and digits[1])
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise WcxError(
                f"no weights for {name}: neither {path.name} nor {name}.pth in weights_dir ({folder}), and the "
                f"download of {entry.url} failed ({first_line(error)}); put the file there (WCX_WEIGHTS_DIR), or give "
                f"model.weights=<file> or model.weights=random"
            ) from error
    return Weights(entry.name, path, entry.name)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
