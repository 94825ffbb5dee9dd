"""State dicts: what a weight file holds, and which of its tensors, under which names, are a network's.

A file is tried as it is. Else the one unwrapping is taken that makes all names and shapes fit, and the log says which:

- an entry of the file: {"state_dict": ..., "epoch": 3};
- a prefix in front of all names, in the file ("model.", of Lightning and others) or in the network;
- the names that wrappers put between: DataParallel's "module", torch.compile's "_orig_mod" and FSDP's.

Only plain tensors are unpickled.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.models.weights import first_line

log = logging.getLogger("wcx")

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # GoogLeNet's and Inception's extra heads: used in training only
_COUNTERS = ("num_batches_tracked", "n_averaged")  # BatchNorm's and AveragedModel's: of no use to an eval-mode network
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class Reading:
    """One way to read a file's tensors as a network's.

    Attributes:
        state: the tensors by the network's names.
        entry: the keys that lead to them in the file; () is the file itself.
        prefix: taken off the names in the file.
        level: put in front instead: what all names in the network begin with.
        unwrapped: the names of wrappers were taken out.
        unused: names in the file that lack the prefix.
    """

    state: dict[str, Tensor]
    entry: tuple[str, ...] = ()
    prefix: str = ""
    level: str = ""
    unwrapped: bool = False
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the unwrapping in words; "" for none."""
        steps = {
            f"its entry {'.'.join(self.entry)!r}": self.entry,
            f"without the prefix {self.prefix!r}": self.prefix,
            f"with {self.level!r} in front": self.level,
            "without the names of wrappers (module, _orig_mod)": self.unwrapped,
        }
        return ", ".join(step for step, is_taken in steps.items() if is_taken)


@dataclass(frozen=True)
class Misfit:
    """The names at which a state dict differs from a network's; false where there are none."""

    missing: list[str]
    unknown: list[str]
    misshapen: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.misshapen)


def read_weights(path: str | Path) -> Mapping[str, Any]:
    """Read a weight file: tensors by name, maybe inside entries of it (see `fill`).

    Args:
        path: .safetensors, or what torch.save wrote (.pth, .pt, .ckpt, .bin, .tar, ...).

    Raises:
        WcxError: the file is missing, damaged, or holds anything but plain values and tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WcxError(f"weights file not found: {path}; check model.weights")
    if zipfile.is_zipfile(path) and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        raise WcxError(f"{path} is a TorchScript archive: save the network's state_dict() instead")
    try:
        if path.suffix.lower() == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        raise WcxError(
            f"{path} holds more than plain tensors ({kind[1] if kind else 'or is damaged'}), and pickled objects are never "
            f"loaded: where you trust it, save network.state_dict(), or what the file has of it, torch.save(torch.load('"
            f"{path.name}', weights_only=False)['state_dict'], 'weights.pth')"
        ) from error
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise WcxError(f"{path} cannot be read, it may be incomplete ({reason}); fetch or write it again") from error
    if not isinstance(content, Mapping) or not any(True for _ in _entries(content)):
        raise WcxError(f"{path} is not a state dict (names and plain tensors): save the network's state_dict()")
    return content


def fill(net: nn.Module, content: Mapping[str, Any], source: str, fine_tuning: bool = False) -> None:
    """Load the tensors in a file's `content` into `net`, as they are or by the one unwrapping that fits.

    Args:
        net: the network, changed in place.
        content: from `read_weights`; auxiliary heads that `net` does not have are ignored, and numbers take its dtype.
        source: what log and error messages call the weights.
        fine_tuning: tensors of the head that are absent (a file with the convolutional part only), and those of the
            head's last layer with another shape (other classes), keep their fresh values.

    Raises:
        WcxError: a name or shape does not fit, or several sets of weights in the file do.
    """
    state = net.state_dict()  # filled and loaded back as a whole: some networks (MNASNet) ask for its version attribute
    expected = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    head = _head(net)
    optional, resizable = _fresh(expected, head) if fine_tuning else ((), ())
    fits: list[Reading] = []
    misfits: list[tuple[Reading, Misfit]] = []
    for reading in _readings(content, expected, head):
        misfit = _compare(reading.state, expected, optional, resizable)
        if misfit:
            misfits.append((reading, misfit))
        elif not any(_same(reading.state, fit.state) for fit in fits):
            fits.append(reading)
        if not misfit and not str(reading):
            break
    if len(fits) > 1:
        raise WcxError(
            f"{source} holds {len(fits)} different sets of weights that fit {type(net).__name__} ("
            f"{'; '.join(str(fit) for fit in fits)}): save the one that is meant in a file of its own"
        )
    if not fits:
        nearest = max(misfits, key=lambda pair: len(pair[0].state.keys() & expected.keys()))
        raise _mistake(net, source, expected, head, *nearest)
    [fit] = fits
    if str(fit):
        unused = f"; not used: {fit.unused[0]!r} ({len(fit.unused)} such)" if fit.unused else ""
        log.info("%s: read as %s%s", source, fit, unused)
    for key, value in fit.state.items():
        if key in expected and value.shape == expected[key].shape:
            state[key] = value
    net.load_state_dict(state)


def head_name(net: nn.Module) -> str:
    """Return the name of the classifying submodule: `classifier`, `fc`, or else the last child that has parameters.

    Raises:
        WcxError: no submodule has parameters.
    """
    children = [name for name, child in net.named_children() if [*child.parameters()]]
    if not children:
        raise WcxError(f"{type(net).__name__} has no submodule with parameters, hence no classifying head")
    return next((name for name in ("classifier", "fc") if name in children), children[-1])


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) over the names, dtypes, shapes and bytes of `state`, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(key for key, value in state.items() if isinstance(value, Tensor)):  # not a module's extra state
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _entries(content: Mapping[Any, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Yield the tensors by name at every level of a file that has any: (keys that lead there, {name: tensor})."""
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and all(isinstance(key, str) for key in tensors):
        yield place, tensors
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _entries(value, (*place, str(key)))


def _readings(content: Mapping[str, Any], expected: Mapping[str, Tensor], head: tuple[str, ...]) -> Iterator[Reading]:
    """Yield every way to read a file in which the first of the `expected` tensors is found; each entry as it is comes first.

    The first outside of the `head`, that is: a file may lack those.
    """
    counted = [name for name in expected if not name.endswith(_COUNTERS)]
    anchor = next((name for name in counted if not name.startswith(head)), next(iter(counted), ""))
    for entry, tensors in _entries(content):
        yield Reading({_modern(key): value for key, value in tensors.items()}, entry)
        for rename in (_modern, _unwrapped):
            names = {rename(name): name for name in expected}
            keys = {rename(key): key for key in tensors}
            if len(names) < len(expected) or len(keys) < len(tensors):
                continue  # two tensors of one name
            for level in _levels([rename(name) for name in counted]):
                for prefix in _prefixes(keys, rename(anchor).removeprefix(level)):
                    inside = {level + key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
                    yield Reading(
                        {names.get(name, name): tensors[keys[key]] for name, key in inside.items()},
                        entry,
                        prefix,
                        level,
                        rename is _unwrapped,
                        tuple(keys[key] for key in keys if not key.startswith(prefix)),
                    )


def _levels(names: Sequence[str]) -> list[str]:
    """Return what all names begin with, up to each dot: "", "model.", "model.net." ..."""
    levels = [""]
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        levels.append(f"{levels[-1]}{parts[0]}.")
    return levels


def _prefixes(keys: Mapping[str, str], stem: str) -> list[str]:
    """Return what stands in front of `stem` in the names that end with it, up to a dot; the shortest first."""
    prefixes = {key.removesuffix(stem) for key in keys if key.endswith(stem)}
    return sorted((prefix for prefix in prefixes if not prefix or prefix.endswith(".")), key=len)


def _unwrapped(key: str) -> str:
    return ".".join(part for part in _modern(key).split(".") if part not in _WRAPPERS)


def _modern(key: str) -> str:
    """Rename torchvision's oldest DenseNet keys, as torchvision does on loading: norm.1.weight -> norm1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)


def _head(net: nn.Module) -> tuple[str, ...]:
    """Return what names of the classifying head begin with; () for a network without submodules."""
    return (head_name(net) + ".",) if any([*child.parameters()] for child in net.children()) else ()


def _fresh(expected: Mapping[str, Tensor], head: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what names of tensors that a fine-tuning may start fresh begin with: where absent, and where of another shape."""
    inside = [name for name in expected if name.startswith(head)]
    return head, (inside[-1].rpartition(".")[0] + ".",) if inside else ()


def _compare(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: tuple[str, ...], resizable: tuple[str, ...]
) -> Misfit:
    """Compare tensors with the network's; names that begin with `optional` may be absent, with `resizable` of another shape."""
    needed = [key for key in expected if not key.endswith(_COUNTERS) and not key.startswith(optional)]
    shared = [key for key in state if key in expected and not key.startswith(resizable)]
    missing = [key for key in needed if key not in state]
    unknown = [key for key in state if key not in expected and not key.startswith(_AUXILIARY)]
    return Misfit(missing, unknown, [key for key in shared if state[key].shape != expected[key].shape])


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts hold the same values, counters apart."""
    keys = [key for key in a if not key.endswith(_COUNTERS)]
    return set(keys) == {key for key in b if not key.endswith(_COUNTERS)} and all(torch.equal(a[k], b[k]) for k in keys)


def _mistake(
    net: nn.Module, source: str, expected: Mapping[str, Tensor], head: tuple[str, ...], reading: Reading, misfit: Misfit
) -> WcxError:
    """Return the error that says why the reading nearest to the network does not fit."""
    if misfit.missing and not misfit.unknown and all(key.startswith(head) for key in misfit.missing):
        return WcxError(
            f"{source} holds the convolutional part only, and its classifier would be random: fine-tune it "
            f"(wcx finetune dataset=<dataset> model=<model>), or give complete weights (model.weights=<file>)"
        )
    total, place, problems = len(expected), f" ({reading})" if str(reading) else "", []
    if misfit.missing:
        problems.append(f"lacks {misfit.missing[0]!r} ({len(misfit.missing)} such of {total})")
    if misfit.unknown:
        problems.append(f"has the unknown {misfit.unknown[0]!r} ({len(misfit.unknown)} such)")
    if misfit.misshapen:
        key, count = misfit.misshapen[0], f"{len(misfit.misshapen)} such of {total}"
        shapes = f"{tuple(reading.state[key].shape)}, expected {tuple(expected[key].shape)}"
        problems.append(f"has another shape at {key!r} {shapes} ({count})")
    return WcxError(
        f"{source}{place} does not fit {type(net).__name__}: it {', '.join(problems)}; check the network and model.weights"
    )
