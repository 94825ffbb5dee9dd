"""The interface of all datasets: images, labels, class names, ids, boxes, and the transform to the network's input."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wcx.errors import DataError, WcxError
from wcx.images import Transform
from wcx.paths import native, visible

SPLITS = ("train", "test")
ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientation -> what makes the stored image upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC = "it is HEIC, which telephones write and Pillow does not read; save it as JPEG"
_HEIC_HEADS = {b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1")}
# What Pillow raises on files that are truncated, broken, or no images at all.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class ImageDataset(Dataset):
    """One split of a labelled image dataset. Subclasses may draw their images instead: override `image`.

    Attributes:
        name: the dataset's name, as on the command line.
        split: "train" or "test".
        root: the dataset's folder; None where there are no files.
        ids: one stable, unique name per image: its path relative to `root`, with forward slashes, as `visible` shows it.
        labels: one index into `class_names` per image.
        class_names: readable ("Black footed Albatross"), one per class, as `visible` shows them.
        boxes: float64 (n, 4): x, y, w, h of the object in pixels of the stored image, or None.
        official: the official counts, {"classes": int, "train": int, "test": int}, or None where they do not apply.
        official_split: whether the images were assigned to this split as the dataset's authors did.
        split_note: how `subset` says that they were not.
        transform: applied by `__getitem__`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        root: Path | None,
        ids: Sequence[str],
        labels: Sequence[int],
        *,
        class_names: Sequence[str],
        boxes: np.ndarray | None = None,
        official: Mapping[str, int] | None = None,
        official_split: bool = True,
        split_note: str = "not the official split",
        transform: Transform | None = None,
    ) -> None:
        self.name, self.split, self.root = name, split, root
        self._files, self.ids = list(ids), list(map(visible, ids))
        self.labels, self.class_names = list(map(int, labels)), list(map(visible, class_names))
        self.boxes = None if boxes is None else np.asarray(boxes, dtype=np.float64).reshape(len(self.ids), 4)
        self.official = None if official is None else dict(official)
        self.official_split, self.split_note = official_split, split_note
        self.transform = transform or Transform()
        if not self.ids:
            raise DataError(f"dataset {name}: no {split} images in {root}.")
        if len(self.labels) != len(self.ids) or len(set(self.ids)) != len(self.ids):
            raise DataError(f"dataset {name}: its lists in {root} contradict each other or name an image twice.")
        if not 0 <= min(self.labels) <= max(self.labels) < len(self.class_names):
            raise DataError(f"dataset {name}: a label lies outside the {len(self.class_names)} classes of {root}.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Return (float32 (channels, H, W) in [0, 1], label) of image i after the transform."""
        return self.transform(self.image(i)), self.labels[i]

    def path(self, i: int) -> Path:
        """Return the file of image i."""
        if self.root is None:
            raise WcxError(f"dataset {self.name} has no files.")
        return self.root / native(self._files[i])

    def image(self, i: int) -> Image.Image:
        """Return image i as stored, upright (EXIF) and in RGB.

        Raises:
            DataError: the file is missing, truncated or no image.
        """
        return decode(self.path(i))

    def box(self, i: int) -> np.ndarray | None:
        """Return x, y, w, h of the object in pixels of the transformed image, float64 (4,); None without boxes."""
        if self.boxes is None:
            return None
        with _readable(self.path(i)) as image:
            box, (width, height) = upright_box(self.boxes[i], image.size, image.getexif().get(ORIENTATION, 1))
        return self.transform.box(box, width, height)

    def on_pixels(self, i: int, points: np.ndarray) -> np.ndarray:
        """Map points x, y of the stored image i, float64 (n, 2), to the transformed image; they may lie outside of it."""
        with _readable(self.path(i)) as image:
            size, orientation = image.size, image.getexif().get(ORIENTATION, 1)
        upright = [upright_box((x, y, 0, 0), size, orientation) for x, y in points]
        return np.array([self.transform.point(x, y, *sides) for (x, y, _, _), sides in upright]).reshape(-1, 2)

    @property
    def subset(self) -> str:
        """What is not official about these images, to be said beside every number; "" where all is."""
        notes = []
        if self.official is not None:
            classes, total = self.official["classes"], self.official[self.split]
            present = len(set(self.labels))
            if (present, len(self)) != (classes, total):
                counts = f"{present} of {classes} classes, {len(self)} of {total} {self.split} images"
                notes.append(f"subset: {counts}")
        if not self.official_split:
            notes.append(self.split_note)
        return ", ".join(notes)

    def listing_hash(self) -> str:
        """Return a SHA-256 (hex) over split, classes, boxes and each image's id, label and file size; no decoding."""
        sizes = [0 if self.root is None else _size(self.path(i)) for i in range(len(self))]
        listing = [self.name, self.split, self.class_names, list(zip(self.ids, self.labels, sizes, strict=True))]
        digest = hashlib.sha256(json.dumps(listing).encode())
        if self.boxes is not None:
            digest.update(self.boxes.tobytes())
        return digest.hexdigest()


def decode(path: Path, opaque: bool = False, content: bytes | None = None) -> Image.Image:
    """Read an image file of any mode as an upright RGB image; `content`: what is in it, where that is in memory.

    What is transparent shows white (`opaque`: its own colour, the alpha channel is dropped); 16-bit grey is scaled to 8 bits; of
    an animation the first frame is taken; CMYK is converted without a colour profile; more than 179 million pixels (Pillow's
    limit) are refused before they are decoded.

    Raises:
        DataError: the file is missing, truncated, too large or no image.
    """
    with _readable(path, content) as image:
        try:
            image.load()
            orientation = image.getexif().get(ORIENTATION, 1)
            rgb = image.convert("RGB") if opaque and image.mode == "RGBA" else _to_rgb(image)
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def upright_box(box: Sequence[float], size: tuple[int, int], orientation: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Map a box (x, y, w, h) of the stored image to the upright one; also return the upright (width, height)."""
    width, height = size
    x, y, w, h = (float(v) for v in box)
    if orientation in (2, 3, 7, 8):
        x = width - x - w
    if orientation in (3, 4, 6, 7):
        y = height - y - h
    if orientation in (5, 6, 7, 8):
        x, y, w, h, width, height = y, x, h, w, height, width
    return np.array([x, y, w, h]), (width, height)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; store the image with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow would cut 16-bit values off at 255 instead of scaling them
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels outside 0..65535")
        values = values.astype(np.uint32)
        values *= 255  # in place: such images are large
        values += 32767
        values //= 65535
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _readable(path: Path, content: bytes | None = None) -> Image.Image:
    try:
        return Image.open(path if content is None else io.BytesIO(content))
    except Image.UnidentifiedImageError as error:
        head = (path.read_bytes() if content is None else content)[:12]
        raise _unreadable(path, OSError(_HEIC) if head[4:] in _HEIC_HEADS else error) from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"image file missing: {path}.")
    reason = "not an image file" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
    return DataError(f"cannot read image {path}: {reason.rstrip('.')}. Replace or remove the file.")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
