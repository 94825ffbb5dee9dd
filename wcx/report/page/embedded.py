"""Pictures inside the page, as data URIs: large ones smaller, and all together no more than a stated size."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

AS_IT_IS = 150_000  # bytes: a file up to this size is embedded byte by byte
LONGEST = 1600  # pixels: the width of a larger picture in the page
TALLEST = 6000
LARGEST = 80_000_000  # pixels that are decoded
BUDGET = 24_000_000  # bytes of all pictures of a page

_TYPES = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp"}


@dataclass(frozen=True)
class Embedded:
    """A picture for the page.

    Attributes:
        source: a data URI; "" where it is not shown.
        width, height: as it is shown, pixels.
        note: why it is not shown, or that it is shown smaller; "" otherwise.
    """

    source: str = ""
    width: int = 0
    height: int = 0
    note: str = ""


@dataclass
class Album:
    """The pictures of one page.

    Attributes:
        folder: that file names are told relative to.
        budget: bytes that all of them may take.
        used: bytes taken so far.
        notes: a line for each picture that is shown smaller, or for which there was no room.
        damaged: a line for each that cannot be shown.
    """

    folder: Path
    budget: int = BUDGET
    used: int = 0
    notes: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def embed(self, path: Path) -> Embedded:
        """Return a picture for the page, with the reason where it is not shown as it is."""
        name = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
        try:
            kind, content, (width, height), note = _encode(path)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            self.damaged.append(f"{name} cannot be shown: {' '.join(str(error).split())}")
            return Embedded(note=self.damaged[-1])
        if self.used + len(content) > self.budget:
            self.notes.append(f"{name} is not embedded: the page has reached {self.budget / 1e6:.0f} MB of pictures")
            return Embedded(note=self.notes[-1])
        self.used += len(content)
        if note:
            self.notes.append(f"{name}: {note}")
        source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        return Embedded(source, width, height, note and f"{note}: {name}")


def _encode(path: Path) -> tuple[str, bytes, tuple[int, int], str]:
    """Return type, content, (width, height) and a note of a picture for the page.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large to decode.
    """
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        size = image.size
        if size[0] * size[1] > LARGEST:
            raise ValueError(f"{size[0]} × {size[1]} pixels are too many")
        if len(content) <= AS_IT_IS and image.format in _TYPES and max(size) <= TALLEST:
            return _TYPES[image.format], content, size, ""
        image.load()
        flat = Image.new("RGB", size, "white")
        rgba = image.convert("RGBA")
        flat.paste(rgba, mask=rgba.getchannel("A"))
    ratio = min(1, LONGEST / size[0], TALLEST / size[1])
    reduced = (max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio)))
    if ratio < 1:
        flat = flat.resize(reduced, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    flat.save(buffer, "WEBP", quality=86)
    note = f"shown at {reduced[0]} × {reduced[1]} of {size[0]} × {size[1]} pixels" if ratio < 1 else ""
    return "webp", buffer.getvalue(), reduced, note
