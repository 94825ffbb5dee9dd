"""Checkpoints: a fine-tuned network in one safetensors file, with all that is needed to use it and to know what it is.

The tensors are the state dict; the metadata is one JSON text under the key "wcx": model, class_names, transform,
recipe, accuracy, seed and more (see `wcx.training`), and a SHA-256 over all of them and the tensors.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from wcx.errors import WcxError
from wcx.files import part_of
from wcx.models.state_dicts import read_weights, weights_hash

_KEY = "wcx"
_SUM = "sha256"


def file_name(model: str) -> str:
    """Return a network's name in files and tables: a folder's last part, a hub's name with -- for the slash."""
    return Path(model).resolve().name if Path(model).is_dir() else model.replace("/", "--")


def checkpoint_path(
    checkpoints_dir: str | Path,
    dataset: str,
    model: str,
    class_names: Sequence[str],
    seed: int = 0,
    recipe: str | None = None,
    usual: str | None = None,
) -> Path:
    """Return `<checkpoints_dir>/<dataset>/<model>-<hash of class list>.safetensors`; seeds but 0 add `-seed<seed>`.

    Recipes but the network's usual one add `-<recipe>` before that. A file without a recipe in its name is that of the recipe that
    stands in it.

    Args:
        checkpoints_dir: the folder of all checkpoints.
        dataset: its name.
        model: the network's.
        class_names: the dataset's.
        seed: of the training.
        recipe: its name; None: whichever has made the only checkpoint there is.
        usual: the recipe that the network recommends.

    Raises:
        WcxError: several checkpoints, and no recipe to choose by; a file without a recipe in its name that is damaged.
    """
    folder, end = Path(checkpoints_dir) / dataset, f"-seed{seed}" if seed else ""
    begin = f"{file_name(model)}-{hashlib.sha256(json.dumps(list(class_names)).encode()).hexdigest()[:10]}"
    unnamed = folder / f"{begin}{end}.safetensors"
    if recipe is not None:
        named = folder / f"{begin}-{recipe.replace('/', '--')}{end}.safetensors"
        fits = recipe_of(unnamed) == recipe if unnamed.is_file() else recipe == usual
        return unnamed if fits and not named.is_file() else named
    candidates = [path for path in sorted(folder.glob(f"{glob.escape(begin)}-*.safetensors")) if _seed(path) == seed]
    present = list(dict.fromkeys([*(path for path in candidates if path != unnamed), *[unnamed] * unnamed.is_file()]))
    if len(present) > 1:
        recipes = sorted(map(recipe_of, present))
        raise WcxError(
            f"{len(present)} checkpoints of {model} on {dataset} in {folder}, by recipes {', '.join(recipes)}; say which: "
            f"checkpoint_recipe={recipes[0]}"
        )
    return present[0] if present else unnamed


def recipe_of(path: str | Path) -> str:
    """Return the name of the recipe that stands in a checkpoint; raises as `read_meta`."""
    return str(read_meta(path).get("recipe", {}).get("name"))


def others(path: str | Path, model: str) -> str:
    """Return what to say where there is no checkpoint at `path`: which of the network lie beside it, by which recipes; or ""."""
    begin = re.match(re.escape(file_name(model)) + r"-[0-9a-f]{10}", Path(path).name)
    beside = sorted(Path(path).parent.glob(f"{glob.escape(begin[0])}*.safetensors")) if begin else []
    recipes = sorted({recipe_of(file) for file in beside if _seed(file) == _seed(Path(path))})
    return f" (there is one by recipe {' and by '.join(recipes)}: checkpoint_recipe={recipes[0]})" if recipes else ""


def _seed(path: Path) -> int:
    """Return the seed that a checkpoint's name tells."""
    match = re.search(r"-seed(\d+)$", path.stem)
    return int(match[1]) if match else 0


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically. `meta` holds plain JSON values, among them `class_names`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state_dict.items()
    }
    facts = json.loads(json.dumps(dict(meta)))
    facts[_SUM] = _sum(tensors, facts)
    with part_of(path) as part:
        safetensors.torch.save_file(tensors, part, metadata={_KEY: json.dumps(facts)})
        part.chmod(0o644)  # safetensors makes files that nobody else can read


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
        f"{path} is not a checkpoint of wcx finetune (no class names inside); a bare state dict goes to model.weights"
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
