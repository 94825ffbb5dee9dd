"""One photograph: what the network sees in it, and why this class, but not that one, in maps and in numbers.

The question names two classes (or more), and its answer is their contrast; the contrast with all other classes, and each class
alone, stand beside it. One forward pass, one backward pass per (class, contrast, set of foils), and one forward pass per blurred
image. Nothing is drawn here (wcx/report/pictures/photo.py does).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from wcx import contrasts
from wcx.datasets.listing import IMAGE_SUFFIXES
from wcx.errors import DataError, WcxError
from wcx.experiments import pictures
from wcx.experiments.base import Cell, FoilSetting, Subject
from wcx.experiments.images import Item
from wcx.experiments.pictures import Asked, Picture, View
from wcx.images import blur
from wcx.paths import exists, visible

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")  # of the images in a folder; a file that is named may have any


@dataclass(frozen=True)
class Question:
    """Why the target, but not its foils?

    Attributes:
        target: class id; None is the most probable class.
        foils: class ids, an int k for the k most probable others, ``confused:k``, or None for the most probable other. The
            most probable of them is the rival, and explained like the target; about it, the target is one of the foils.
        contrasts: their names; each is asked about both classes, against the classes of the question and against all others.
        blur_sigma, blur_kernel: in pixels of an image of side 224, as in the masking experiment; likewise the next.
        align_corners: of the up-sampling.
        strongest: the share of the pixels against a class that is blurred, the strongest first.
    """

    target: int | None = None
    foils: FoilSetting = None
    contrasts: tuple[str, ...] = ("original", "weighted")
    blur_sigma: float = 15.0
    blur_kernel: int = 101
    align_corners: bool = False
    strongest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strongest <= 1:
            raise WcxError(f"strongest = {self.strongest!r}: give a share from 0 to 1 of the pixels against a class.")


def answer(subject: Subject, pixels: Tensor, names: Sequence[str], question: Question) -> Picture:
    """Answer a question about one image; where it names all classes there are, no view is against ``others``.

    Args:
        subject: a network that takes [0, 1] pixels, and one method.
        pixels: (channels, H, W) in [0, 1].
        names: of the model's outputs.
        question: what is asked.

    Raises:
        WcxError: a class out of range, no foil beside the target, or a model of one class.
    """
    [method] = subject.methods
    cells = {name: Cell(method, name) for name in question.contrasts}
    against = [cell for name, cell in cells.items() if contrasts.get(name).uses_foils]
    alone = [cell for cell in cells.values() if cell not in against]
    foils: list[int] = []

    def ask(logits: Tensor) -> tuple[Tensor, Asked]:
        ids = pair(subject, logits[0], question.target, question.foils)
        targets = torch.tensor(ids, device=logits.device)[:, None]  # (2, 1)
        onehot = nn.functional.one_hot(targets, logits.shape[1]).bool()  # (2, 1, C)
        asked = onehot.any(0)
        if question.foils is not None:
            asked |= subject.foil_masks(logits, targets[0], question.foils)
        foils.extend((asked & ~onehot)[0, 0].nonzero().flatten().tolist())
        masks = {"asked": asked & ~onehot} | ({} if asked.all() else {"others": ~onehot})
        views = {View(*cell, "none"): ~onehot for cell in alone}
        return targets, views | {View(*cell, name): mask for (name, mask), cell in product(masks.items(), against)}

    [picture] = pictures.explain(subject, [Item(0, "", -1, pixels.cpu())], names, ask, question.align_corners)
    picture.foils = foils
    hide(subject, picture, question)
    return picture


def hide(subject: Subject, picture: Picture, question: Question) -> None:
    """Give an answer its blurred images, or others in their place, as the question has them."""
    baseline = blur(picture.pixels[None], question.blur_sigma, question.blur_kernel)[0]
    pictures.hide(subject, picture, baseline, question.strongest)


def pair(subject: Subject, logits: Tensor, target: int | None, foils: FoilSetting) -> tuple[int, int]:
    """Return the target, by default the most probable class of logits (C,), and the most probable of its foils.

    Raises:
        WcxError: a class out of range, no foil beside the target, or a model of one class.
    """
    if len(logits) < 2:
        raise WcxError("the model has one class: there is no other to explain it against.")
    if target is None:
        target = int(contrasts.most_probable(logits[None], 1))
    mask = subject.foil_masks(logits[None], contrasts.as_targets(target, logits[None]), foils)[0]
    return target, int(contrasts.most_probable(logits.masked_fill(~mask, -torch.inf)[None], 1))


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files that are meant by `paths`: files as they are, and of a folder those with an image's suffix, sorted.

    Raises:
        DataError: nothing there, or a folder without an image of its own.
    """
    files: list[Path] = []
    for path in map(Path, map(str, paths)):
        if not exists(path):
            raise DataError(f"no image or folder at {path}; check image=...")
        inside = [path]
        if path.is_dir():
            inside = sorted(
                p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()
            )
            if not inside:
                raise DataError(
                    f"no image in the folder {path} (looked for {', '.join(SUFFIXES)}; folders inside it are not searched)."
                )
        files += inside
    return list(dict.fromkeys(files))


def class_id(name: str | int, names: Sequence[str]) -> int:
    """Return the id of a class given by its name, upper or lower case and _ as a blank allowed, or else by its id.

    Raises:
        WcxError: no such class, with the names that resemble it; several of the name; an id out of range.
    """
    text = visible(str(name)).strip()
    alike = [i for i, class_name in enumerate(names) if _plain(class_name) in (_plain(text), f"{_plain(text)} ({i})")]
    same = [i for i in range(len(names)) if names[i] == text] or alike
    if len(same) > 1:
        raise WcxError(f"class {text!r} is the name of {len(same)} classes; give an id: {', '.join(map(str, same))}.")
    if same:
        return same[0]
    if text.removeprefix("-").isdigit():
        if 0 <= int(text) < len(names):
            return int(text)
        raise WcxError(f"class id {text} is out of range: the model has {len(names)} classes, 0 to {len(names) - 1}.")
    plain = {_plain(class_name): class_name for class_name in names}
    close = [plain[text] for text in difflib.get_close_matches(_plain(text), plain, n=5, cutoff=0.5)]
    close += [class_name for class_name in names if _plain(text) in _plain(class_name) and class_name not in close][:5]
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    listing = f"one of: {', '.join(names)}" if len(names) <= 30 else f"one of its {len(names)} classes, or an id"
    raise WcxError(f"the model has no class {text!r}.{hint} Choose {listing}.")


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")
