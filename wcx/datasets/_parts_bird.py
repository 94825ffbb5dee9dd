"""The birds of `parts`: the outline of every part in every style, put together in a pose.

A point is a complex number x + iy (y down): to turn, scale and move is one product and one sum. In a bird's own frame the
body is one unit long, faces +x and has its centre at 0; a part's own frame has its origin where the part joins the body.
Colours are RGB in 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Colour = tuple[int, int, int]

PARTS = ("tail", "feet", "body", "wing", "crest", "beak", "head", "eye")  # in the order of painting: the eye on top


class Look(NamedTuple):
    """How one part of a species looks: the name of its style, its main colour and that of its markings."""

    style: str
    colour: Colour
    second: Colour | None = None


class Shape(NamedTuple):
    """A filled closed outline or, where `width` > 0, an open stroke of that width. `part` is "" for scenery."""

    part: str
    points: np.ndarray
    fill: Colour
    edge: float = 0.7  # brightness of the outline relative to the fill; 0: no outline
    width: float = 0.0


@dataclass(frozen=True)
class Pose:
    """What varies from bird to bird, whatever the species. Angles in radians, positive ones clockwise on the picture."""

    stand: complex  # where the feet stand, in sides of the picture
    scale: float  # length of the body, in sides of the picture
    mirrored: bool
    looks_back: bool
    tilt: float
    nod: float
    neck: complex  # where the head is, relative to its usual place
    tail: float
    wing: float
    step: float  # from foot to foot
    plump: float
    stretch: Mapping[str, complex]  # part -> its length (real) and breadth (imaginary), about 1
    tint: Mapping[str, np.ndarray]  # part -> factors (3,) of its colours, about 1


def curve(anchors: str, samples: int = 7) -> np.ndarray:
    """Return the closed chain of quadratic Bezier curves through "x,y x,y ..." in hundredths of the body's length.

    The points at even places are on the curve and may be corners; those at odd places are control points.
    """
    points = np.array([complex(*map(float, point.split(","))) for point in anchors.split()]) / 100
    start, control = points[0::2, None], points[1::2, None]
    t = np.arange(samples) / samples
    return ((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * np.roll(start, -1, 0)).ravel()


def oval(centre: complex, rx: float, ry: float, samples: int = 24) -> np.ndarray:
    """Return an ellipse with the half axes `rx` and `ry`."""
    angle = 2 * np.pi * np.arange(samples) / samples
    return centre + rx * np.cos(angle) + 1j * ry * np.sin(angle)


def place(points: np.ndarray | complex, at: complex = 0, angle: float = 0.0, stretch: complex = 1 + 1j) -> np.ndarray:
    """Stretch (real part along x, imaginary part along y), then turn, then move."""
    points = np.asarray(points)
    return at + np.exp(1j * angle) * (points.real * stretch.real + 1j * points.imag * stretch.imag)


# ---- outlines ----------------------------------------------------------------------------------------------------------

BODY = curve("-52,0 -22,-30 18,-27 52,-24 47,4 38,34 2,29 -32,25")
BELLY = curve("44,4 37,31 2,26.5 -30,23 -40,6 5,14")
BAND = curve("47,-6 48,4 44,13 33,7 22,-8 35,-3")
BAND_COLOUR = (45, 40, 40)
HEAD = oval(0, 0.21, 0.20)
CHEEK = oval(0.08 + 0.10j, 0.10, 0.075, 14)
EYE, GLINT = oval(0.08 - 0.04j, 0.052, 0.052, 12), oval(0.095 - 0.06j, 0.018, 0.018, 6)
GLINT_COLOUR = (250, 250, 250)
BEAKS = {  # origin: the middle of the base
    "cone": curve("-4,-17 14,-17 25,4 11,15 -4,16 -4,0"),
    "fine": curve("-4,-5 12,-4 28,1 12,5 -4,6 -4,0"),
    "hooked": curve("-4,-15 40,-22 27,30 15,10 -4,15 -4,0"),
    "needle": curve("-4,-7 20,-6 60,1 20,6 -4,7 -4,0"),
    "short": curve("-4,-9 10,-6 20,3 8,6 -4,9 -4,0"),
    "sickle": curve("-4,-7 54,-16 46,48 33,4 -4,8 -4,0"),
}
CRESTS = {  # origin: the top of the head
    "fan": [curve("-16,10 -26,-12 -14,-20 0,-32 14,-16 17,-5 13,7 0,10")],
    "plume": [curve("-3,5 -1,-10 3,-20 4,-10 4,5 0,10"), oval(0.07 - 0.23j, 0.09, 0.065, 14)],
    "spike": [curve("-14,7 -7,-10 -5,-29 5,-10 11,5 0,10")],
    "swept": [curve("10,4 -8,-15 -40,-14 -22,2 -17,12 0,10")],
}
TAILS = {  # origin: the rump; a tail points to -x
    "fan": curve("10,-8 -15,-12 -40,-28 -60,0 -40,28 -15,12 10,8 10,0"),
    "forked": curve("10,-9 -15,-12 -56,-29 -28,-9 -14,0 -28,9 -56,29 -15,12 10,9 10,0"),
    "pin": curve("10,-8 -24,-10 -66,0 -24,10 10,8 10,0"),
    "square": curve("10,-9 -20,-9 -52,-11 -50,0 -52,11 -20,9 10,9 10,0"),
}
WING = curve("14,0 12,-17 -10,-15 -42,-10 -66,10 -34,19 -10,20 10,18")  # origin: the shoulder
FEATHERS = [
    np.array([-0.10 + 0.09j, -0.34 + 0.10j, -0.56 + 0.10j]),
    np.array([-0.08 + 0.14j, -0.30 + 0.15j, -0.46 + 0.14j]),
]
SPOTS = (-0.02 - 0.06j, -0.06 + 0.08j, -0.17 - 0.03j, -0.20 + 0.09j, -0.31 + 0.01j, -0.34 + 0.10j)
WING_MARKS = {  # inside WING
    "barred": [
        curve("-5,-13 -7,3 -2,17 -7,17 -8,17.5 -13,2 -11,-13 -8,-13"),
        curve("-24,-9 -26,3 -22,15.5 -27,15 -29,15 -32,3 -30,-7.5 -27,-8"),
    ],
    "plain": [],
    "spotted": [oval(z, 0.045, 0.04, 10) for z in SPOTS],
    "tipped": [curve("-30,-7 -50,-1 -64,9.5 -45,16 -25,16 -32,5")],
}
LEGS = {"long": 0.42, "short": 0.16}  # from the belly to the ground
TOES = (0.13 + 0.03j, 0.11 - 0.03j, -0.09 + 0.01j)


# ---- a bird ------------------------------------------------------------------------------------------------------------


def bird(species: Mapping[str, Look], pose: Pose) -> list[Shape]:
    """Return the shapes of a bird in the order of painting; points and widths in sides of the picture.

    Where a part goes is decided by the pose alone, but that long legs (a style of "feet") lift the bird.

    Args:
        species: part -> its look; "crest" may be absent.
    """
    plump = 1 + 1j * pose.plump
    centre = -1j * (0.26 * pose.plump + LEGS[species["feet"].style])

    def on_body(points: np.ndarray | complex) -> np.ndarray:
        return place(points, centre, pose.tilt, plump)

    head_at, nod = on_body(0.36 - 0.30j + pose.neck), 0.5 * pose.tilt + pose.nod

    def on_head(points: np.ndarray | complex) -> np.ndarray:
        return place(-np.conj(points), head_at, -nod) if pose.looks_back else place(points, head_at, nod)

    def colour(part: str) -> Colour:
        return shade(species[part].colour, pose.tint[part])

    def second(part: str) -> Colour:
        return shade(species[part].second or species[part].colour, pose.tint[part])

    def shapes(part: str, outlines: Iterable[np.ndarray], fill: Colour | None = None, **options: float) -> list[Shape]:
        return [Shape(part, outline, fill or colour(part), **options) for outline in outlines]

    def wing(points: np.ndarray) -> np.ndarray:
        return on_body(place(points, 0.14 - 0.05j, pose.wing, pose.stretch["wing"]))

    tail = place(TAILS[species["tail"].style], -0.42 - 0.02j, pose.tail, pose.stretch["tail"])
    neck = np.concatenate([on_body(np.array([0.04 - 0.24j, 0.44 - 0.02j])), on_head(oval(0.02j, 0.19, 0.19, 12))])
    crest = CRESTS[species["crest"].style] if "crest" in species else []
    beak = place(BEAKS[species["beak"].style], 0.18 + 0.03j, 0, pose.stretch["beak"])
    everything = [
        *shapes("tail", [on_body(tail)]),
        *legs(on_body, pose.step, colour("feet")),
        *shapes("body", [hull(neck), on_body(BODY)]),
        *shapes("body", [on_body(BELLY)], second("body"), edge=0),
        *shapes("body", [on_body(BAND)] if species["body"].style == "banded" else [], BAND_COLOUR, edge=0),
        *shapes("wing", [wing(WING)]),
        *shapes("wing", map(wing, FEATHERS), shade(colour("wing"), 0.75), width=0.02),
        *shapes("wing", map(wing, WING_MARKS[species["wing"].style]), second("wing"), edge=0),
        *shapes("crest", [on_head(place(z, -0.01 - 0.19j, 0, pose.stretch["crest"])) for z in crest]),
        *shapes("beak", [on_head(beak)]),
        *shapes("head", [on_head(HEAD)]),
        *shapes("head", [on_head(CHEEK)], second("head"), edge=0),
        *shapes("eye", [on_head(EYE)], edge=0),
        *shapes("eye", [on_head(GLINT)], GLINT_COLOUR, edge=0),
    ]
    return [
        shape._replace(points=in_picture(shape.points, pose), width=shape.width * pose.scale) for shape in everything
    ]


def legs(on_body: Callable[[complex], np.ndarray], step: float, colour: Colour) -> list[Shape]:
    """Return two legs from the hips to the ground (y = 0), the far one darker, with three toes each."""
    shapes = []
    for hip, foot, fill in ((0.0, -0.5 * step, shade(colour, 0.8)), (-0.06, 0.5 * step, colour)):
        top = complex(on_body(hip + 0.22j))
        knee = 0.5 * (top + foot) - 0.05
        shapes.append(Shape("feet", np.array([top, knee, foot]), fill, width=0.05))
        shapes += [Shape("feet", np.array([foot - 0.01j, foot + toe]), fill, width=0.04) for toe in TOES]
    return shapes


def in_picture(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Map the frame of a bird that stands at 0 to the picture (sides of the picture)."""
    return pose.stand + pose.scale * (-points.conj() if pose.mirrored else points)


def shade(colour: Sequence[float], factor: float | np.ndarray) -> Colour:
    """Return `colour` times `factor`, cut off to 0..255."""
    red, green, blue = np.clip(np.asarray(colour) * factor, 0, 255).astype(int).tolist()
    return red, green, blue


def hull(points: np.ndarray) -> np.ndarray:
    """Return the convex hull (Andrew's monotone chain)."""
    ordered = sorted(points.tolist(), key=lambda z: (z.real, z.imag))

    def chain(zs: list[complex]) -> list[complex]:
        out: list[complex] = []
        for z in zs:
            while len(out) > 1 and ((out[-1] - out[-2]).conjugate() * (z - out[-1])).imag <= 0:
                out.pop()
            out.append(z)
        return out[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))
