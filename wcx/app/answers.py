"""A question as the page asks it, its answer, and what makes the same: a command, Python lines, files."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from wcx import contrasts, methods
from wcx.app.networks import Network
from wcx.datasets import parts
from wcx.datasets.base import decode
from wcx.experiments import Subject, photo
from wcx.experiments.photo import Question
from wcx.experiments.pictures import Picture
from wcx.images import Transform
from wcx.methods.activation import ActivationMethod
from wcx.report.commands import as_text
from wcx.report.pictures import draw
from wcx.report.pictures import photo as report
from wcx.report.pictures.sentences import Photograph

METHOD, CONTRAST = "linear_approximation", "weighted"  # of a photograph, in conf/
PYTHON = """from pathlib import Path

import wcx
from wcx.datasets import as_transform
from wcx.datasets.base import decode

{network}
image = as_transform({transform})(decode(Path({file!r})))[None]
maps = wcx.explain({arguments})
"""


@dataclass(frozen=True)
class Upload:
    """A photograph in memory; it lies on no disk.

    Attributes:
        name: of its file.
        content: of its file.
        seen: its pixels by the transform.
    """

    name: str
    content: bytes = field(repr=False)
    seen: dict[Transform, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def pixels(self, transform: Transform) -> Tensor:
        """Return (channels, H, W) in [0, 1]: what a network sees.

        Raises:
            DataError: it is no image that can be read.
        """
        if transform not in self.seen:
            self.seen[transform] = transform(decode(Path(self.name), content=self.content))
        return self.seen[transform]


@dataclass(frozen=True)
class Asked:
    """What is asked about a photograph; names as they are shown.

    Attributes:
        target: None is the likeliest class.
        foils: none is the likeliest other; the target is left out.
        method, contrast: as on the command line.
        layer: of methods in activation space; None is the network's own.
        strongest: see `Question`.
    """

    target: str | None = None
    foils: Sequence[str] = ()
    method: str = METHOD
    contrast: str = CONTRAST
    layer: str | None = None
    strongest: float = 1.0

    def question(self, classes: Sequence[str]) -> Question:
        """Return it with ids for names.

        Raises:
            WcxError: a class that the network does not have.
        """
        target = None if self.target is None else photo.class_id(self.target, classes)
        foils = tuple(photo.class_id(name, classes) for name in self.foils if name != self.target)
        names = tuple(dict.fromkeys(("original", self.contrast)))
        return Question(target, foils or None, names, strongest=self.strongest)


@dataclass(frozen=True)
class Answer:
    """An answer, and what makes the same.

    Attributes:
        network, upload, asked: what was asked.
        photograph: what was found.
    """

    network: Network
    upload: Upload
    asked: Asked
    photograph: Photograph

    @property
    def picture(self) -> Picture:
        """Maps, hidden images, logits."""
        return self.photograph.picture

    @property
    def foils(self) -> list[str]:
        """The names of the classes that the target is contrasted with, the likeliest first."""
        return [self.picture.names[index] for index in self.photograph.asked(0)]

    @property
    def remarks(self) -> Sequence[str]:
        """What is to be said of method and layer where the visitor chose neither."""
        is_default = self.asked.method == METHOD and self.asked.layer in (None, self.network.layer)
        return self.network.remarks if is_default else ()

    @property
    def shown(self) -> Asked:
        """The question as the form shows it: with what was left open."""
        return replace(self.asked, target=self.photograph.pair[0], foils=self.foils, layer=self.photograph.layer)

    def command(self) -> str:
        """Return the command line that makes the same, beside the photograph's file."""
        asked = self.asked
        words = [f"image={_typed(self.upload.name)}", *self.network.overrides]
        words += [f"target={_typed(self.photograph.pair[0])}", f"foils=[{','.join(map(_item, self.foils))}]"]
        words += [f"method={asked.method}"] if asked.method != METHOD else []
        words += [f"contrast={asked.contrast}"] if asked.contrast != CONTRAST else []
        is_layered = self.photograph.layer is not None and asked.layer not in (None, self.network.layer)
        words += [f"model.layer={self.photograph.layer}"] if is_layered else []
        words += [f"strongest={asked.strongest}"] if asked.strongest != 1 else []
        return f"wcx {shlex.join([*words, 'scale=method'])}"

    def python(self) -> str:
        """Return Python lines that make the maps about the target: alone, and against the foils."""
        layer, [target, _] = self.photograph.layer, self.picture.targets
        arguments = {"target": target, "foils": self.photograph.asked(0), "method": self.asked.method}
        arguments |= {"contrast": list(dict.fromkeys(["original", self.asked.contrast]))}
        arguments |= {"layer": layer} if layer else {}
        stated = ", ".join(["loaded.model", "image", *(f"{key}={value!r}" for key, value in arguments.items())])
        transform = asdict(self.network.transform)
        return PYTHON.format(network=self.network.python, transform=transform, file=self.upload.name, arguments=stated)

    def files(self) -> Mapping[str, bytes]:
        """Return the figure and the raw maps as files, by their names, and the photograph of an example."""
        figure, stem = report.photograph_figure(self.photograph), self.photograph.name
        with TemporaryDirectory() as folder:
            paths = draw.write_figure(figure, Path(folder, stem), ("png", "pdf"), report.DPI)
            files = {path.name: path.read_bytes() for path in paths}
        own = {self.upload.name: self.upload.content} if self.upload in examples() else {}
        return files | {f"{stem}.npz": report.npz(self.picture)} | own


def answer(network: Network, upload: Upload, asked: Asked) -> Answer:
    """Answer a question about a photograph.

    Raises:
        WcxError: an image that cannot be read; a class, layer or method that does not fit.
    """
    question, pixels = asked.question(network.classes), upload.pixels(network.transform)
    method = methods.create(asked.method)
    layer = (asked.layer or network.layer) if isinstance(method, ActivationMethod) else None
    subject = Subject(network.loaded.model, layer, {asked.method: method})  # of this question alone
    with network.turn:
        picture = photo.answer(subject, pixels, network.classes, question)
    return _told(network, upload, asked, picture, subject.layer if isinstance(method, ActivationMethod) else None)


def hidden(answer: Answer, strongest: float) -> Answer:
    """Return an answer with another share of the pixels blurred; its maps stay."""
    asked, network = replace(answer.asked, strongest=strongest), answer.network
    picture = replace(answer.picture, hidden={})
    with network.turn:
        photo.hide(Subject(network.loaded.model, None, {}), picture, asked.question(network.classes))
    return _told(network, answer.upload, asked, picture, answer.photograph.layer)


def following(before: Answer | None, network: Network, upload: Upload, asked: Asked) -> Answer:
    """Answer a question that may follow another about the same photograph; see `answer`.

    Where another share of the pixels is all that is new, the maps stay; a layer that was looked for is looked for again.
    """
    if before is None or before.network is not network:
        return answer(network, upload, asked)
    if replace(before.shown, strongest=asked.strongest) == asked:
        return hidden(before, asked.strongest)
    layer = before.asked.layer if asked.layer == before.shown.layer else asked.layer
    return answer(network, upload, replace(asked, layer=layer))


def _told(network: Network, upload: Upload, asked: Asked, picture: Picture, layer: str | None) -> Answer:
    loaded, file = network.loaded, Path(upload.name)
    name = report.file_name(file.stem, loaded.name, asked.method, asked.contrast)
    photograph = Photograph(
        file, picture, loaded.name, loaded.weights, layer, name, strongest=asked.strongest, scale="method"
    )
    return Answer(network, upload, asked, photograph)


def _typed(text: str) -> str:
    """Return a text so that the command line takes it as it is."""
    return as_text(text) if text[:1] in ("'", '"', "[") or text.lower() == "null" else text


def _item(text: str) -> str:
    """Return a text of a list; in double quotes where they do, for the shell's are single."""
    return as_text(text) if re.search(r'["\\]|\$\{', text) else f'"{text}"'


@cache
def examples() -> tuple[Upload, ...]:
    """Return drawn birds, two of each family, as PNG files."""
    drawn = parts.load(Path(), "test", test_per_class=1)
    uploads = []
    for i in range(0, len(drawn), 2):
        buffer = io.BytesIO()
        drawn.image(i).save(buffer, "PNG")
        name = drawn.class_names[drawn.labels[i]].replace(" ", "_").replace("-", "_")
        uploads.append(Upload(f"{name}.png", buffer.getvalue()))
    return tuple(uploads)


def method_names() -> list[str]:
    """Return the methods, those for transformers last."""
    usual = methods.names(transformers=False)
    return [*usual, *(name for name in methods.names() if name not in usual)]


def contrast_names() -> list[str]:
    """Return the contrasts beside `original`, which stands beside each of them."""
    return [name for name in contrasts.names() if name != "original"]
