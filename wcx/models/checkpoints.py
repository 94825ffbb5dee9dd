"""Checkpoints: a fine-tuned network in one safetensors file, with all that is needed to use it and to know what it is.

The tensors are the state dict; the metadata is one JSON text under the key "wcx": model, class_names, transform,
recipe, accuracy, seed and more (see `wcx.training`), and a SHA-256 over all of them and the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from wcx.errors import WcxError
from wcx.models.state_dicts import read_weights, weights_hash

_KEY = "wcx"
_SUM = "sha256"


def file_name(model: str) -> str:
    """Return a network's name in files and tables: a folder's last part, a hub's name with -- for the slash."""
    return Path(model).resolve().name if Path(model).is_dir() else model.replace("/", "--")


def checkpoint_path(
    checkpoints_dir: str | Path, dataset: str, model: str, class_names: Sequence[str], seed: int = 0
) -> Path:
    """Return `<checkpoints_dir>/<dataset>/<model>-<hash of class list>.safetensors`; seeds but 0 add `-seed<seed>`."""
    digest, model = hashlib.sha256(json.dumps(list(class_names)).encode()).hexdigest()[:10], file_name(model)
    return Path(checkpoints_dir) / dataset / f"{model}-{digest}{f'-seed{seed}' if seed else ''}.safetensors"


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically. `meta` holds plain JSON values, among them `class_names`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state_dict.items()
    }
    part = path.with_name(path.name + ".part")
    facts = json.loads(json.dumps(dict(meta)))
    facts[_SUM] = _sum(tensors, facts)
    safetensors.torch.save_file(tensors, part, metadata={_KEY: json.dumps(facts)})
    part.chmod(0o644)  # safetensors makes files that nobody else can read
    part.replace(path)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (state dict, metadata) of a checkpoint.

    Raises:
        WcxError: the file is missing, damaged, or not a checkpoint of ours.
    """
    meta, state = read_meta(path), dict(read_weights(path))
    if meta.pop(_SUM, None) not in (None, _sum(state, meta)):  # None: made before sums were kept
        raise WcxError(f"checkpoint {path} is damaged (SHA-256); fetch it, or fine-tune again with force=true")
    return state, meta


def read_meta(path: str | Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint alone; raises as `read_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise WcxError(f"no checkpoint at {path}; check model.checkpoint")
    not_ours = (
        f"{path} is not a checkpoint of scripts/finetune.py (no class names inside); "
        f"a bare state dict goes to model.weights"
    )
    if path.suffix != ".safetensors":
        read_weights(path)  # says what is wrong, should it not even be plain tensors
        raise WcxError(not_ours)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
        meta = json.loads(text or "{}")
    except (safetensors.SafetensorError, ValueError) as error:
        raise WcxError(f"checkpoint {path} is damaged ({error}); delete it and fine-tune again") from error
    if "class_names" not in meta:
        raise WcxError(not_ours)
    return meta


def _sum(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) over the tensors, as they are read, and the metadata."""
    read = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return hashlib.sha256((weights_hash(read) + json.dumps(meta, sort_keys=True)).encode()).hexdigest()
