"""What lies in a results folder beside the tables: records with their manifests, pictures with what is said of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from wcx import records
from wcx.errors import WcxError
from wcx.manifest import command_line
from wcx.records import Shard
from wcx.report.sections import counted

Facts = Mapping[str, Any]
FRAMES = "frames.json"  # the index of single heatmaps in a folder of their own
_CAPTION = {  # told in the caption itself
    *("figure", "title", "question", "dataset_label", "dataset", "model", "method"),
    *("weights", "subset", "rule", "command", "image"),
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture and what is said of it.

    Attributes:
        path: of the picture (of frames: their index).
        facts: from the JSON file beside it.
    """

    path: Path
    facts: Facts

    def say(self, key: str) -> str:
        """Return what the file says under a key, as text; "" if nothing."""
        value = self.facts.get(key)
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value))
        return "" if value is None else str(value)

    def objects(self, key: str) -> list[dict[str, Any]]:
        """Return the objects of a list that the file holds under a key; [] if it holds none."""
        value = self.facts.get(key)
        return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []

    @property
    def switched(self) -> bool:
        """Whether it is an index of frames."""
        return self.path.name == FRAMES

    @property
    def title(self) -> str:
        """What it shows, in short."""
        return self.say("title") or self.say("question") or self.path.stem.replace("-", " ").replace("_", " ")

    @property
    def methods(self) -> str:
        """The methods it shows, in one line to filter by: that which the file names, or those of its images' maps."""
        maps = chain.from_iterable(image.get("maps") or () for image in self.objects("images"))
        return self.say("method") or " ".join(dict.fromkeys(str(entry["method"]) for entry in maps))

    @property
    def images(self) -> list[str]:
        """What is said of each image; a photograph's file says it of itself."""
        if top := self.objects("predictions"):
            classes = [each.get("class") for each in top]
            probabilities = [each.get("p") for each in top]
            return [_image({"id": Path(self.say("image")).name, "classes": classes, "probabilities": probabilities})]
        return [_image(image) for image in self.objects("images")]

    def beside(self, name: str) -> Path:
        """Return a file of the same folder; a name that leads elsewhere does not."""
        return self.path.parent / Path(name).name

    def particulars(self, folder: Path) -> list[tuple[str, str]]:
        """Return (name, value) of the file, its images, and what else its facts and its manifest tell in short."""
        pairs = [("file", self.path.relative_to(folder).as_posix())]
        pairs += [("images" if i == 0 else "", line) for i, line in enumerate(self.images)]
        for facts in (self.facts, self.manifest):
            brief = {key: value for key, value in facts.items() if isinstance(value, (str, int, float))}
            pairs += [(key.replace("_", " "), str(value)) for key, value in brief.items() if key not in _CAPTION]
        return pairs

    @property
    def manifest(self) -> Facts:
        """What it was made with; {} if the file does not tell."""
        facts = self.facts.get("manifest")
        return facts if isinstance(facts, dict) else {}

    @property
    def command(self) -> str:
        """The command that made it; "" if the file tells none."""
        return self.say("command") or command_line(self.manifest.get("command"))


@dataclass(frozen=True, eq=False)
class RecordSet:
    """The records of one cell, and what they were made with.

    Attributes:
        shard: the records.
        manifest: its manifest.json.
        fault: what is not as it was written; "" if nothing is known to be wrong.
    """

    shard: Shard
    manifest: Facts
    fault: str = ""

    @property
    def dataset(self) -> str:
        """The dataset's name in tables."""
        return str(self.shard.labels.get("dataset", self.shard.key[0]))

    @property
    def state(self) -> str:
        """Whether the records are all there, and what was written."""
        if self.fault:
            return f"damaged: {self.fault}"
        if not self.shard.complete:
            return f"incomplete: {counted(self.shard.chunks(), 'chunk')} so far"
        return "complete, unchecked" if self.shard.unchecked else "complete"

    @property
    def command(self) -> str:
        """The command that made them; "" if that was none of ours."""
        return command_line(self.manifest.get("command"))


@dataclass
class Contents:
    """A results folder; an absent one is empty.

    Attributes:
        folder: where it is.
        refused: a line for each file that is damaged or foreign.
    """

    folder: Path
    refused: list[str] = field(default_factory=list)

    @cached_property
    def sets(self) -> list[RecordSet]:
        """All records of any experiment, ordered by path."""
        return [self._set(shard) for shard in records.find(self.folder, refused=self.refused)]

    @cached_property
    def galleries(self) -> list[Drawn]:
        """The indices of frames, then the other pictures of gallery/ and figures/."""
        files = [*self.folder.glob(f"figures/**/{FRAMES}"), *self.folder.glob(f"gallery/**/{FRAMES}")]
        switches = [drawn for drawn in map(self._drawn, sorted(files)) if drawn.facts]
        return [*switches, *self._pictures("gallery"), *self._pictures("figures")]

    @cached_property
    def photographs(self) -> list[Drawn]:
        """The pictures of images/."""
        return self._pictures("images")

    def label(self, drawn: Drawn) -> str:
        """Return the name in tables of a picture's dataset; "" if it names none."""
        name = drawn.say("dataset")
        return drawn.say("dataset_label") or {each.shard.key[0]: each.dataset for each in self.sets}.get(name, name)

    def _pictures(self, name: str) -> list[Drawn]:
        """Return the pictures below a folder, by path: no frames, and no mere sheet of what there are frames of."""
        framed = {file.parent for file in self.folder.glob(f"{name}/**/{FRAMES}")}
        files = [file for file in sorted(self.folder.glob(f"{name}/**/*.png")) if file.parent not in framed]
        pictures = [file for file in files if file.with_suffix(".json").exists() or file.with_suffix("") not in framed]
        return [self._drawn(file) for file in pictures]

    def _drawn(self, path: Path) -> Drawn:
        """Return a picture with what is said of it; with nothing, and named, if that is not as we write it."""
        index = path.with_suffix(".json")
        drawn = Drawn(path, self._json(index))
        try:
            check = _frames if drawn.switched else _caption
            check(drawn)
        except (KeyError, TypeError, AttributeError, ValueError):
            self.refused.append(f"{index.relative_to(self.folder)} is left out: not as wcx writes it.")
            return Drawn(path, {})
        return drawn

    def _set(self, shard: Shard) -> RecordSet:
        """Return a shard with its manifest, and what is damaged in it; the section of its experiment names that, too."""
        try:
            faults = shard.check().faults if shard.complete else {}
            fault = "; ".join(f"{name} {fault}" for name, fault in faults.items())
        except WcxError as error:
            fault = str(error)
        return RecordSet(shard, self._json(shard.path / "manifest.json"), fault)

    def _json(self, path: Path) -> dict[str, Any]:
        """Return an object from a JSON file; {} if there is none, or if it cannot be read: then it is named."""
        if not path.exists():
            return {}
        try:
            facts = json.loads(path.read_bytes())
        except (ValueError, OSError, RecursionError):
            facts = None
        if isinstance(facts, dict):
            return facts
        self.refused.append(f"{path.relative_to(self.folder)} is left out: not an object in JSON.")
        return {}


def _image(facts: Facts) -> str:
    """Return an image's id, its class, and what was predicted."""
    truth = f" is {facts['truth']}" if facts.get("truth") else ""
    pairs = zip(facts.get("classes") or (), facts.get("probabilities") or (), strict=False)
    predicted = ", ".join(f"{name} {p:.3f}" if isinstance(p, float) else str(name) for name, p in pairs)
    return f"{facts.get('id', 'image')}{truth}" + (f"; predicted: {predicted}" if predicted else "")


def _caption(drawn: Drawn) -> object:
    """Return what a caption says, if it can be said."""
    return drawn.title, drawn.methods, drawn.images, [str(line) for line in drawn.facts.get("sentences", [])]


def _frames(drawn: Drawn) -> object:
    """Return what a switch shows, if it can be shown (single heatmaps that a page switches)."""
    return [
        (image["photograph"] + image["truth"], float(p), [files[i] + name for files in image["frames"].values()])
        for image in drawn.facts["images"]
        for i, (name, p) in enumerate(zip(image["names"], image["probabilities"], strict=True))
    ]
