"""Letters of any script: which fonts draw them, and what is written where none does.

DejaVu Sans, which Matplotlib ships, comes first. What it lacks (Chinese, Japanese, Korean, Devanagari, Thai, ...) is drawn by a
Noto font, of the system or of the extra ``fonts``, else by any font of the system that has it. From Matplotlib 3.11 on, text is
shaped and runs from right to left where it should (libraqm); with an older one, a script that needs this has no font.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, lru_cache
from importlib.metadata import distributions

import matplotlib as mpl
from matplotlib import ft2font
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager, get_font

FIRST = "DejaVu Sans"
PACKAGES = ("noto-cjk-", "fontpkg-noto-")  # names of the extra's distributions begin so
SHAPES = hasattr(ft2font, "__libraqm_version__")
_SHAPED = {
    *("DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA"),
    *("THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "MONGOLIAN"),
}
_JOINER = "\u200d"  # of two letters into one sign
_NOT_LETTERS = re.compile("Emoji|Last ?Resort|Fallback|Symbol")  # in names of fonts that draw boxes, or in colours


@lru_cache(4096)
def families(text: str) -> tuple[str, ...]:
    """Return the names of the fonts that draw a text together, for Matplotlib to try in their order."""
    place = _place(text)
    drawing = [_family(letter, place) for letter in text]
    return tuple(filter(None, dict.fromkeys([FIRST, *drawing])))


def missing(text: str) -> set[str]:
    """Return the scripts of a text's letters that no font here draws: "CJK", "Devanagari"."""
    return {_script(letter).title().replace("Cjk", "CJK") for letter in text if not _family(letter)}


def remedy(scripts: Iterable[str]) -> str:
    """Return what is to be said of scripts without a font, and how to get one."""
    cure = "pip install 'wcx[fonts]', or install Noto fonts on the system (Debian: fonts-noto-cjk, fonts-noto-core)"
    if not SHAPES:
        cure += f"; right-to-left and Indic scripts need matplotlib >= 3.11, not {mpl.__version__}"
    return f"No font here has these scripts, their letters are written as codes: {', '.join(sorted(scripts))}. Remedy: {cure}."


def clusters(word: str) -> list[str]:
    """Return the letters of a word, each with the marks that belong to it: what no line break may tear apart.

    Those that no font here draws are written as Python does: an empty box would tell nothing.
    """
    parts: list[str] = []
    for letter in word:
        if parts and (unicodedata.category(letter)[0] == "M" or _JOINER in (letter, parts[-1][-1])):
            parts[-1] += letter
        else:
            parts.append(letter)
    return [part if all(map(_family, part)) else part.encode("unicode_escape").decode() for part in parts]


def is_right_to_left(text: str) -> bool:
    """Return whether a text has letters that run from right to left: beside them "0.2 → 0.3" would read as 0.3 → 0.2.

    Unicode's invisible marks would keep the order, but in a PDF Matplotlib leaves room for them.
    """
    return any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text)


@lru_cache(4096)
def _place(text: str) -> str:
    """Return whose forms Chinese characters have in a text: Japanese beside kana, Korean beside hangul, else simplified."""
    scripts = {_script(letter) for letter in text}
    return "JP" if scripts & {"HIRAGANA", "KATAKANA"} else "KR" if "HANGUL" in scripts else "SC"


@lru_cache(4096)
def _script(letter: str) -> str:
    """Return the first word of a letter's Unicode name, which is its script; "symbols" if it is no letter."""
    is_letter = unicodedata.category(letter)[0] in "LM"
    return unicodedata.name(letter, "unnamed").partition(" ")[0] if is_letter else "symbols"


@lru_cache(4096)
def _family(letter: str, place: str = "SC") -> str | None:
    """Return the name of the font that draws a letter; None if none does."""
    needs_shaping = unicodedata.bidirectional(letter) in ("R", "AL") or _script(letter) in _SHAPED
    if needs_shaping and not SHAPES:
        return None
    if ord(letter) in _letters(FIRST):
        return FIRST
    for family in sorted(_installed(), key=lambda family: f"CJK {place}" not in family):
        if ord(letter) in _letters(family):
            _register_weights(family)
            return family
    return None


@cache
def _letters(family: str) -> frozenset[int]:
    """Return the code points that a font draws, regular and bold."""
    weights = _weights(family)
    letters = [_charmap(family, weight) for weight in weights & {400, 700} or sorted(weights, key=str)[:1]]
    return frozenset.intersection(*letters)


@cache
def _charmap(family: str, weight: str | int) -> frozenset[int]:
    try:
        return frozenset(get_font(findfont(FontProperties(family=family, weight=weight))).get_charmap())
    except (OSError, RuntimeError):  # a file of the system that FreeType does not read
        return frozenset()


def _weights(family: str) -> set[str | int]:
    return {face.weight for face in fontManager.ttflist if (face.name, face.style) == (family, "normal")}


@cache
def _installed() -> dict[str, FontEntry]:
    """Return a face of each font by name, Noto's first; those of the extra are made known to Matplotlib."""
    for distribution in distributions():
        if (distribution.metadata["Name"] or "").lower().replace("_", "-").startswith(PACKAGES):
            for file in distribution.files or ():
                if file.suffix in (".otf", ".ttc", ".ttf"):
                    fontManager.addfont(str(distribution.locate_file(file)))
    upright = [face for face in fontManager.ttflist if face.style == "normal"]
    upright.sort(key=lambda face: face.weight in (400, "normal"))  # of one name the last is kept
    faces = {face.name: face for face in upright if not _NOT_LETTERS.search(face.name)}
    order = sorted(faces, key=lambda name: (not name.startswith("Noto Sans"), "Mono" in name, name))
    return {name: faces[name] for name in order}


def _register_weights(family: str) -> None:
    """Let a font that has but one weight stand in for regular and bold: Matplotlib would warn at every text."""
    for weight in {400, 700} - _weights(family):
        fontManager.ttflist.append(replace(_installed()[family], weight=weight))
