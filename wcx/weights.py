"""Weight files: where a model's ImageNet weights come from, how a file is read, and how it is loaded into a network.

The order (design, "Weights"): what was asked for; `<weights_dir>/<torchvision's file name>`; `<weights_dir>/<model>.*`
or `<model>_features*.*`, reported as a stand-in; torchvision's download, pinned. Only plain tensors are unpickled.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from wcx.errors import WcxError, choose

if TYPE_CHECKING:
    import torchvision  # imported where it is needed: it takes as long as torch itself

log = logging.getLogger("wcx")

SUFFIXES = (".pth", ".pt", ".safetensors")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # GoogLeNet's and Inception's extra heads: used in training only


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
                f"download of {entry.url} failed ({_first_line(error)}); put the file there (WCX_WEIGHTS_DIR), or give "
                f"model.weights=<file> or model.weights=random"
            ) from error
    return Weights(entry.name, path, entry.name)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict (.pth, .pt or .safetensors); float16 and bfloat16 become float32.

    Raises:
        WcxError: the file is missing, damaged, or holds anything but plain named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WcxError(f"weights file not found: {path}")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WcxError(
            f"{path} holds more than plain tensors, or is damaged; pickled objects are never loaded: "
            f"save the network's state_dict() instead"
        ) from error
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = _first_line(error)
        raise WcxError(f"{path} cannot be read, it may be incomplete ({reason}); fetch or write it again") from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WcxError(f"{path} is not a state dict (names and plain tensors): save the network's state_dict()")
    half = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in half else value for key, value in state.items()}


def head_name(net: nn.Module) -> str:
    """Return the name of the classifying submodule: `classifier`, `fc`, or else the last child that has parameters."""
    children = {name for name, child in net.named_children() if any(True for _ in child.parameters())}
    for name in ("classifier", "fc"):
        if name in children:
            return name
    last = [name for name, _ in net.named_children() if name in children]
    if not last:
        raise WcxError(f"{type(net).__name__} has no submodule with parameters, hence no classifying head")
    return last[-1]


def fill(net: nn.Module, state: Mapping[str, Tensor], source: str, fine_tuning: bool = False) -> None:
    """Load `state` into `net`.

    Args:
        net: the network, changed in place.
        state: names and tensors; auxiliary heads that `net` does not have are ignored.
        source: what the error messages call the weights.
        fine_tuning: tensors of the head that are absent (a file with the convolutional part only), and those of the
            head's last layer with another shape (other classes), keep their fresh values.

    Raises:
        WcxError: a name or shape does not fit.
    """
    own = net.state_dict()  # filled and loaded back as a whole: some networks (MNASNet) ask for its version attribute
    head = head_name(net) + "."
    last_layer = [key for key in own if key.startswith(head)][-1].rpartition(".")[0] + "."
    state = {_modern(key): value for key, value in state.items() if key in own or not key.startswith(_AUXILIARY)}
    unknown = [key for key in state if key not in own]
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    misshapen = [key for key in state if key in own and state[key].shape != own[key].shape]
    if missing and not unknown and all(key.startswith(head) for key in missing) and not fine_tuning:
        raise WcxError(
            f"{source} holds the convolutional part only, and its classifier would be random: fine-tune it (python "
            f"scripts/finetune.py dataset=<dataset> model=<model>), or give complete weights (model.weights=<file>)"
        )
    if fine_tuning:
        missing = [key for key in missing if not key.startswith(head)]
        misshapen = [key for key in misshapen if not key.startswith(last_layer)]
    for kind, keys in (("lacks", missing), ("has the unknown", unknown), ("has another shape at", misshapen)):
        if keys:
            key, count = keys[0], f"{len(keys)} such of {len(own)}"
            shapes = f" {tuple(state[key].shape)}, expected {tuple(own[key].shape)}" if keys is misshapen else ""
            raise WcxError(
                f"{source} does not fit {type(net).__name__}: it {kind} {key!r}{shapes} ({count}); "
                f"check model.name and model.weights"
            )
    own.update((key, value) for key, value in state.items() if value.shape == own[key].shape)
    net.load_state_dict(own)


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) over the names, dtypes, shapes and bytes of `state`, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _modern(key: str) -> str:
    """Rename torchvision's oldest DenseNet keys, as torchvision does on loading: norm.1.weight -> norm1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
