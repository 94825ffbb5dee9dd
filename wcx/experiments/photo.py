"""One photograph: what the network sees in it, and why this class, but not that one, in maps and in numbers.

The question names two classes (or more), and its answer is their contrast; the contrast with all other classes, and each class
alone, stand beside it. One forward pass, one backward pass per (class, contrast, set of foils), and one forward pass per blurred
image. Nothing is drawn here (wcx/report/photo.py does).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wcx import contrasts
from wcx.datasets.listing import IMAGE_SUFFIXES
from wcx.errors import DataError, WcxError
from wcx.experiments import hiding
from wcx.explainer import Explainer, cotangents, upsample
from wcx.images import blur
from wcx.methods.base import Cotangent
from wcx.paths import exists, visible

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")  # of the images in a folder; a file that is named may have any


@dataclass(frozen=True)
class Question:
    """Why the target, but not its foils?

    Attributes:
        target: class id; None is the most probable class.
        foils: class ids, an int k for the k most probable others, or None for the most probable other. The most probable of
            them is the rival, and explained like the target; about it, the target is one of the foils.
        contrasts: their names; each is asked about both classes, against the classes of the question and against all others.
        contrast_options: for each contrast by name.
        blur_sigma, blur_kernel: in pixels of an image of side 224, as in the masking experiment; likewise the next.
        align_corners: of the up-sampling.
    """

    target: int | None = None
    foils: int | tuple[int, ...] | None = None
    contrasts: tuple[str, ...] = ("original", "weighted")
    contrast_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blur_sigma: float = 15.0
    blur_kernel: int = 101
    align_corners: bool = False


class View(NamedTuple):
    """What a class is explained by.

    Attributes:
        contrast: its name.
        foils: ``asked``: the other classes of the question; ``others``: all other classes; ``none``: the class stands alone.
    """

    contrast: str
    foils: str


@dataclass
class Answer:
    """The explanation of one class in one view, and what blurring the pixels against it does.

    Attributes:
        raw: the signed map as the method gives it: (h, w) at the layer's resolution, or (3, H, W).
        attribution: (H, W): that, up-sampled, or summed over the channels.
        blurred: (3, H, W): the image with the pixels of negative attribution blurred.
        masked_fraction: share of the pixels that are.
        logits: (C,) of the blurred image.
    """

    raw: Tensor
    attribution: Tensor
    blurred: Tensor
    masked_fraction: float
    logits: Tensor


@dataclass
class Explained:
    """What is found about one photograph; all on the CPU.

    Attributes:
        pixels: (3, H, W) in [0, 1]: what the network sees.
        logits: (C,).
        pair: the target's class id and its rival's.
        foils: class ids: the other classes of the question, the rival among them.
        layer: name of the activation layer; None for input methods.
        answers: for each view, about the target and about its rival. Where the question names all classes there are, no view
            is against ``others``.
    """

    pixels: Tensor
    logits: Tensor
    pair: tuple[int, int]
    foils: list[int]
    layer: str | None
    answers: dict[View, tuple[Answer, Answer]]

    @property
    def probabilities(self) -> Tensor:
        """float64 (C,)."""
        return self.logits.double().softmax(0)

    def asked(self, index: int) -> list[int]:
        """Return the classes of the question that the target (`index` = 0) or its rival (1) is contrasted with.

        The most probable first; of equals the lower id.
        """
        ids = {self.pair[0], *self.foils} - {self.pair[index]}
        return sorted(ids, key=lambda foil: (-float(self.logits[foil]), foil))

    def share(self, index: int, logits: Tensor) -> float:
        """Return p_a / (p_a + p_b) at logits (C,): a is the target (`index` = 0) or its rival (1), b the other."""
        a, b = self.pair[index], self.pair[1 - index]
        return float(torch.sigmoid(logits[a].double() - logits[b].double()))


def explain(explainer: Explainer, pixels: Tensor, question: Question) -> Explained:
    """Answer a question about one image.

    Args:
        explainer: of a model that takes [0, 1] pixels, on its device.
        pixels: (3, H, W) in [0, 1].
        question: what is asked.

    Raises:
        WcxError: a class out of range, no foil beside the target, or a model of one class.
    """
    device = next(explainer.model.parameters()).device
    run = explainer(pixels[None].to(device))
    logits = run.logits
    target, rival = pair(logits[0], question.target, question.foils)
    targets = torch.tensor([[target], [rival]], device=device)
    onehot = nn.functional.one_hot(targets, logits.shape[1]).bool()  # (2, 1, C)
    asked = onehot.any(0)
    if question.foils is not None:
        asked |= contrasts.foil_masks(logits, targets[0], _listed(question.foils))
    foils = {"asked": asked & ~onehot, "others": ~onehot, "none": ~onehot}
    kinds = ["asked"] if bool(asked.all()) else ["asked", "others"]
    views = [
        View(name, kind)
        for name in question.contrasts
        for kind in (kinds if contrasts.get(name).uses_foils else ["none"])
    ]
    options = question.contrast_options
    v = _stacked([cotangents([view.contrast], logits, targets, foils[view.foils], options) for view in views])
    raw = run.explain(v)
    raw, (height, width) = raw[:, 0], pixels.shape[1:]
    attributions = (
        raw.sum(1) if raw.ndim == 4 else upsample(raw, (height, width), question.align_corners)
    )  # 4: (K, 3, H, W)
    hidden = hiding.by_sign(attributions, "positive")
    blurred, changed = _blur(explainer, pixels.to(device), hidden, question, logits)
    answers = [
        Answer(r, a, b, float(h.double().mean()), y)
        for r, a, b, h, y in zip(raw.cpu(), attributions.cpu(), blurred.cpu(), hidden.cpu(), changed.cpu(), strict=True)
    ]
    among = foils["asked"][0, 0].nonzero().flatten().tolist()
    pairs = dict(zip(views, zip(answers[::2], answers[1::2], strict=True), strict=True))
    return Explained(pixels.cpu(), logits[0].cpu(), (target, rival), among, run.layer, pairs)


def pair(logits: Tensor, target: int | None, foils: int | tuple[int, ...] | None) -> tuple[int, int]:
    """Return the target, by default the most probable class of logits (C,), and the most probable of its foils.

    Raises:
        WcxError: a class out of range, no foil beside the target, or a model of one class.
    """
    if len(logits) < 2:
        raise WcxError("the model has one class: there is no other to explain it against.")
    if target is None:
        target = int(contrasts.most_probable(logits[None], 1))
    mask = contrasts.foil_masks(logits[None], contrasts.as_targets(target, logits[None]), _listed(foils))[0]
    return target, int(contrasts.most_probable(logits.masked_fill(~mask, -torch.inf)[None], 1))


def _listed(foils: int | tuple[int, ...] | None) -> int | list[int] | None:
    return list(foils) if isinstance(foils, tuple) else foils


def _stacked(parts: Sequence[Cotangent]) -> Cotangent:
    """Return the cotangents (K, N, C) of all parts; a function of the logits where one of them is."""

    def at(logits: Tensor) -> Tensor:
        return torch.cat([part(logits) if callable(part) else part for part in parts])

    frozen = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(frozen) if len(frozen) == len(parts) else at


def _blur(
    explainer: Explainer, pixels: Tensor, hidden: Tensor, question: Question, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the image with each mask (K, H, W) blurred, (K, 3, H, W), and their logits (K, C)."""
    soft = blur(pixels[None], question.blur_sigma, question.blur_kernel)
    blurred = torch.where(hidden[:, None], soft, pixels)
    with torch.inference_mode():
        changed = explainer.model(blurred)
    is_changed = hidden.flatten(1).any(1, keepdim=True)  # where nothing is hidden, the same to the last bit
    return blurred, torch.where(is_changed, changed.clone(), logits)


def find(paths: Sequence[str | Path]) -> list[Path]:
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
    same = [i for i, class_name in enumerate(names) if class_name == text] or [
        i for i, class_name in enumerate(names) if _plain(class_name) in (_plain(text), f"{_plain(text)} ({i})")
    ]
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
