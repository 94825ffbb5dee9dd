"""The species of `parts`: families whose members share all but some parts, each of which has several looks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

from wcx.datasets._parts_bird import Look

Species = Mapping[str, Look]  # part -> its look

BLACK, SLATE, PINK, HORN = (48, 46, 50), (92, 92, 104), (150, 112, 100), (232, 196, 120)
NAVY, RUSSET, BLUE, GOLD, CREAM = (44, 48, 76), (168, 92, 62), (44, 66, 130), (236, 190, 84), (238, 232, 204)
OLIVE, WHITE = (110, 118, 66), (240, 236, 228)
EYE = Look("round", BLACK)


class Family(NamedTuple):
    """What its species share, and the looks of each part in which they differ, by name; all combinations are species."""

    common: Species
    looks: Mapping[str, Mapping[str, Look]]


_WORDS = {"feet": "foot"}

SINGLE: dict[str, Family] = {  # four species a family, which differ in one part
    "river finch": Family(
        {
            "body": Look("plain", (150, 122, 78), (214, 192, 150)),
            "head": Look("plain", (164, 80, 54), (190, 120, 84)),
            "wing": Look("plain", (104, 84, 60)),
            "tail": Look("square", (92, 74, 54)),
            "feet": Look("short", PINK),
            "eye": EYE,
        },
        {
            "beak": {
                "cone": Look("cone", HORN),
                "hooked": Look("hooked", SLATE),
                "needle": Look("needle", HORN),
                "sickle": Look("sickle", SLATE),
            }
        },
    ),
    "blue jay": Family(
        {
            "body": Look("plain", (84, 124, 184), (208, 214, 226)),
            "head": Look("plain", (66, 102, 168), (226, 228, 232)),
            "wing": Look("plain", (56, 86, 150)),
            "tail": Look("fan", (50, 76, 140)),
            "beak": Look("short", BLACK),
            "feet": Look("short", SLATE),
            "eye": EYE,
        },
        {
            "crest": {
                "fan": Look("fan", BLUE),
                "plume": Look("plume", BLUE),
                "spike": Look("spike", GOLD),
                "swept": Look("swept", GOLD),
            }
        },
    ),
    "dusk swallow": Family(
        {
            "body": Look("plain", (62, 68, 100), (226, 204, 178)),
            "head": Look("plain", (54, 58, 92), (186, 98, 66)),
            "wing": Look("plain", (46, 50, 80)),
            "beak": Look("fine", BLACK),
            "feet": Look("short", SLATE),
            "eye": EYE,
        },
        {
            "tail": {
                "fan": Look("fan", RUSSET),
                "forked": Look("forked", NAVY),
                "pin": Look("pin", NAVY),
                "square": Look("square", RUSSET),
            }
        },
    ),
    "meadow warbler": Family(
        {
            "body": Look("plain", (214, 184, 66), (238, 222, 138)),
            "head": Look("plain", (196, 172, 62), (232, 208, 96)),
            "tail": Look("square", (104, 106, 62)),
            "beak": Look("fine", SLATE),
            "feet": Look("short", PINK),
            "eye": EYE,
        },
        {"wing": {style: Look(style, OLIVE, CREAM) for style in ("barred", "plain", "spotted", "tipped")}},
    ),
    "shore plover": Family(
        {
            "body": Look("banded", (156, 138, 120), WHITE),
            "head": Look("plain", (140, 122, 106), WHITE),
            "wing": Look("plain", (124, 108, 94)),
            "tail": Look("pin", (98, 86, 78)),
            "beak": Look("short", BLACK),
            "eye": EYE,
        },
        {
            "feet": {
                "black": Look("long", (56, 54, 60)),
                "orange": Look("long", (212, 106, 46)),
                "red": Look("long", (196, 54, 48)),
                "yellow": Look("long", (224, 158, 56)),
            }
        },
    ),
}

FACTORIAL: dict[str, Family] = {  # three parts in two looks each, and all eight combinations are species
    "marsh finch": Family(
        {
            "body": Look("plain", (142, 128, 92), (216, 206, 176)),
            "head": Look("plain", (112, 98, 70), (196, 182, 146)),
            "feet": Look("short", PINK),
            "eye": EYE,
        },
        {
            "beak": {"cone": Look("cone", HORN), "needle": Look("needle", SLATE)},
            "tail": {"forked": Look("forked", NAVY), "square": Look("square", RUSSET)},
            "wing": {"barred": Look("barred", (98, 84, 66), CREAM), "plain": Look("plain", (98, 84, 66))},
        },
    ),
    "crag jay": Family(
        {
            "body": Look("plain", (92, 128, 180), (212, 218, 230)),
            "head": Look("plain", (70, 104, 164), (226, 228, 232)),
            "wing": Look("plain", (58, 88, 148)),
            "beak": Look("short", BLACK),
            "eye": EYE,
        },
        {
            "crest": {"spike": Look("spike", GOLD), "fan": Look("fan", (196, 60, 70))},
            "tail": {"fan": Look("fan", (50, 76, 140)), "pin": Look("pin", WHITE)},
            "feet": {"black": Look("long", (50, 48, 56)), "orange": Look("long", (226, 116, 44))},
        },
    ),
    "dune plover": Family(
        {
            "head": Look("plain", (150, 130, 112), WHITE),
            "wing": Look("plain", (128, 112, 98)),
            "tail": Look("pin", (98, 86, 78)),
            "eye": EYE,
        },
        {
            "body": {
                "banded": Look("banded", (164, 146, 126), WHITE),
                "plain": Look("plain", (164, 146, 126), WHITE),
            },
            "beak": {"hooked": Look("hooked", (222, 120, 52)), "sickle": Look("sickle", BLACK)},
            "feet": {"red": Look("long", (198, 52, 48)), "yellow": Look("long", (232, 190, 62))},
        },
    ),
    "glade thrush": Family(
        {
            "body": Look("plain", (104, 112, 84), (222, 196, 130)),
            "tail": Look("square", (84, 78, 58)),
            "beak": Look("fine", SLATE),
            "feet": Look("short", SLATE),
            "eye": EYE,
        },
        {
            "head": {
                "grey": Look("plain", (126, 130, 134), (176, 180, 184)),
                "russet": Look("plain", (166, 74, 48), (206, 122, 84)),
            },
            "crest": {"plume": Look("plume", NAVY), "swept": Look("swept", NAVY)},
            "wing": {"spotted": Look("spotted", OLIVE, CREAM), "tipped": Look("tipped", OLIVE, CREAM)},
        },
    ),
}
FAMILIES = {"single": SINGLE, "factorial": FACTORIAL}


def species(families: Mapping[str, Family]) -> dict[str, Species]:
    """Return the species of families by the names of their classes, e.g. "hooked-beak river finch"."""
    return {
        " ".join([*(f"{variant}-{_WORDS.get(part, part)}" for part, variant in chosen.items()), family]): {
            **common,
            **{part: looks[part][variant] for part, variant in chosen.items()},
        }
        for family, (common, looks) in families.items()
        for chosen in (dict(zip(looks, variants, strict=True)) for variants in product(*looks.values()))
    }


SPECIES = {choice: species(families) for choice, families in FAMILIES.items()}
