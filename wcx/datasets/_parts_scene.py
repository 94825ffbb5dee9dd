"""The pictures of `parts`: pose, scenery and light drawn from a generator, then painted around a bird."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw

from wcx.datasets._parts_bird import PARTS, Colour, Look, Pose, Shape, bird, curve, oval, place, shade

SUPERSAMPLING = 3  # each pixel is the mean of 3 x 3
SKIES = (  # colours of the far background, above and below
    ((168, 200, 222), (196, 208, 190)),  # open sky
    ((96, 128, 84), (62, 92, 58)),  # woodland
    ((206, 190, 150), (170, 146, 108)),  # dry grass
    ((140, 168, 176), (104, 132, 136)),  # water
    ((214, 206, 196), (186, 178, 172)),  # mist
    ((122, 110, 92), (88, 80, 70)),  # rock
)
LEAVES = ((86, 120, 58), (120, 140, 62), (60, 92, 60))
PLANTS = (*LEAVES, (150, 128, 70), (112, 86, 60), (172, 160, 96))
BERRIES = ((200, 62, 52), (228, 150, 52), (236, 206, 90), (150, 110, 170), (236, 230, 220), (60, 66, 90))
SOILS = ((150, 132, 100), (128, 134, 92), (176, 166, 148))
BARK = (112, 88, 66)
LEAF = curve("0,0 30,-32 100,0 30,32")


class Scene:
    """One picture without its bird: all of it is drawn from `rng` here, before any species is known.

    So two species that are painted in one scene differ where the species differ, and nowhere else.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        self.pose = draw_pose(rng)
        above, below = np.array(SKIES[rng.integers(len(SKIES))], dtype=float) + rng.normal(0, 10, 3)
        sky = np.linspace(above, below, 6)[:, None] + rng.normal(0, 10, (6, 6, 1)) + rng.normal(0, 4, (6, 6, 3))
        self.sky = sky.clip(0, 255).astype(np.uint8)
        plants = [PLANT[rng.integers(len(PLANT))](rng) for _ in range(rng.integers(3, 9))]
        floor = branch(rng, self.pose) if rng.random() < 0.6 else ground(rng, self.pose)
        self.behind = [*chain.from_iterable(plants), *floor]
        self.before = [occluder(rng, self.pose) for _ in range(rng.integers(0, 3))]
        self.light = (rng.uniform(0.82, 1.12) * rng.normal(1, 0.035, 3)).astype(np.float32)
        self.noise = rng.integers(-3, 4, (size, size, 1))

    def paint(self, species: Mapping[str, Look]) -> Image.Image:
        """Return the picture with a bird of this species: RGB, size x size."""
        side = self.size * SUPERSAMPLING
        image = Image.fromarray(self.sky).resize((self.size, self.size), Image.Resampling.BICUBIC)
        image = image.resize((side, side), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(image)
        for shape in self.shapes(species):
            fill(draw, shape, side, shape.fill, shade(shape.fill, shape.edge) if shape.edge else None)
        pixels = np.asarray(image.reduce(SUPERSAMPLING)) * self.light + self.noise
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    def labels(self, species: Mapping[str, Look]) -> np.ndarray:
        """Return int (size, size): 1 + the index in PARTS of the part that a pixel shows, 0 for scenery.

        A pixel that several share belongs to the part that has most of it; to the scenery only where no part shows.
        """
        shares = self.shares(species)
        return np.where(shares.any(0), 1 + shares.argmax(0), 0)

    def shares(self, species: Mapping[str, Look]) -> np.ndarray:
        """Return int (parts, size, size): how many of the SUPERSAMPLING^2 points of a pixel show each of PARTS."""
        side = self.size * SUPERSAMPLING
        image = Image.new("L", (side, side))
        draw = ImageDraw.Draw(image)
        for shape in self.shapes(species):
            label = 1 + PARTS.index(shape.part) if shape.part else 0
            fill(draw, shape, side, label, label if shape.edge else None)
        blocks = np.asarray(image).reshape(self.size, SUPERSAMPLING, self.size, SUPERSAMPLING)
        return np.stack([(blocks == 1 + part).sum((1, 3)) for part in range(len(PARTS))])

    def shapes(self, species: Mapping[str, Look]) -> list[Shape]:
        """Return all shapes in the order of painting."""
        return [*self.behind, *bird(species, self.pose), *self.before]


def fill(draw: ImageDraw.ImageDraw, shape: Shape, side: int, colour: Colour | int, edge: Colour | int | None) -> None:
    """Paint one shape on a canvas of `side` x `side`, with its outline in colour `edge`."""
    points = (shape.points * side).view(np.float64).tolist()
    if shape.width:
        draw.line(points, colour, max(1, round(shape.width * side)), joint="curve")
        return
    draw.polygon(points, colour)
    if edge is not None:
        draw.line(points + points[:2], edge, max(1, round(0.007 * side)))


def bounding_box(species: Mapping[str, Look], pose: Pose) -> tuple[float, float, float, float]:
    """Return x, y, w, h of the whole bird, hidden parts included, cut off at the picture's edges; in its sides."""
    points = np.concatenate([shape.points for shape in bird(species, pose)])
    start, end = np.clip([points.real.min(), points.real.max()], 0, 1)
    top, bottom = np.clip([points.imag.min(), points.imag.max()], 0, 1)
    return start, top, end - start, bottom - top


# ---- what varies -------------------------------------------------------------------------------------------------------


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose in which (nearly) the whole bird lies in the picture, whatever the species."""
    scale = rng.uniform(0.38, 0.49)
    mirrored = rng.random() < 0.5
    x = rng.uniform(1.02 * scale, 1 - 0.78 * scale)  # of a bird that faces right: room for tail and beak
    return Pose(
        stand=complex(1 - x if mirrored else x, rng.uniform(min(1.5 * scale, 0.8), 0.94)),
        scale=scale,
        mirrored=mirrored,
        looks_back=rng.random() < 0.12,
        tilt=rng.uniform(-0.55, 0.25),
        nod=rng.uniform(-0.3, 0.4),
        neck=complex(rng.uniform(-0.05, 0.06), rng.uniform(-0.06, 0.04)),
        tail=rng.uniform(-0.25, 0.45),
        wing=rng.uniform(-0.12, 0.16),
        step=rng.uniform(0.05, 0.34),
        plump=rng.uniform(0.9, 1.2),
        stretch={part: complex(*rng.normal(1, 0.1, 2).clip(0.75, 1.25)) for part in PARTS},
        tint={part: rng.normal(1, 0.07) * rng.normal(1, 0.04, 3) for part in PARTS},
    )


def branch(rng: np.random.Generator, pose: Pose) -> list[Shape]:
    """A branch under the feet, with some leaves."""
    width = rng.uniform(0.03, 0.055)
    y = pose.stand.imag + 0.45 * width
    start, end = y + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.08, 0.08)
    line = np.array([complex(-0.05, start), complex(pose.stand.real, y), complex(1.05, end)])
    bark = shade(BARK, rng.uniform(0.7, 1.2))
    wood = [Shape("", line, shade(bark, 0.7), width=width), Shape("", line - 0.12j * width, bark, width=0.75 * width)]
    return wood + [leaf(rng, complex(x, y), rng.uniform(0.08, 0.16)) for x in rng.uniform(0, 1, rng.integers(1, 5))]


def ground(rng: np.random.Generator, pose: Pose) -> list[Shape]:
    """Ground from a little above the feet downwards, with stones."""
    y = pose.stand.imag - rng.uniform(0.02, 0.08)
    soil = shade(SOILS[rng.integers(len(SOILS))], rng.uniform(0.7, 1.15))
    middle = complex(0.5, y + rng.uniform(-0.02, 0.02))
    outline = np.array([-0.1 + 1.1j, complex(-0.1, y), middle, complex(1.1, y), 1.1 + 1.1j])
    shapes = [Shape("", outline, soil, edge=0.85)]
    for r in rng.uniform(0.015, 0.05, rng.integers(2, 7)):
        at = complex(rng.uniform(0, 1), rng.uniform(y + 0.02, 1))
        shapes.append(Shape("", oval(at, r, 0.6 * r, 12), shade(soil, rng.uniform(0.7, 1.2))))
    return shapes


def leaf(rng: np.random.Generator, at: complex, length: float) -> Shape:
    """A leaf that grows at `at` in any direction."""
    points = at + length * place(LEAF, 0, rng.uniform(0, 2 * np.pi))
    return Shape("", points, shade(LEAVES[rng.integers(len(LEAVES))], rng.uniform(0.7, 1.3)), edge=0.8)


def anywhere(rng: np.random.Generator) -> complex:
    """A point of the picture."""
    return complex(*rng.uniform(0, 1, 2))


def plant_colour(rng: np.random.Generator) -> Colour:
    """Some green or brown."""
    return shade(PLANTS[rng.integers(len(PLANTS))], rng.uniform(0.7, 1.3))


def twig(rng: np.random.Generator) -> list[Shape]:
    """A straight thin twig."""
    at = anywhere(rng)
    end = at + rng.uniform(0.15, 0.45) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    return [Shape("", np.array([at, end]), plant_colour(rng), width=rng.uniform(0.008, 0.022))]


def berries(rng: np.random.Generator) -> list[Shape]:
    """Three berries, in the colours that beaks, crests and feet have too."""
    at, colour = anywhere(rng), shade(BERRIES[rng.integers(len(BERRIES))], rng.uniform(0.8, 1.1))
    return [
        Shape("", oval(at + complex(*rng.normal(0, 0.05, 2)), r, r, 12), colour) for r in rng.uniform(0.012, 0.03, 3)
    ]


def leaves(rng: np.random.Generator) -> list[Shape]:
    """Two leaves."""
    at = anywhere(rng)
    return [leaf(rng, at, rng.uniform(0.08, 0.2)) for _ in range(2)]


def tuft(rng: np.random.Generator) -> list[Shape]:
    """Some blades of grass from one point upwards."""
    at, colour = anywhere(rng), plant_colour(rng)
    tips = at + rng.uniform(0.06, 0.2, 4) * np.exp(1j * rng.uniform(-0.75, -0.25, 4) * np.pi)
    return [Shape("", np.array([at, tip]), colour, width=0.013) for tip in tips]


PLANT = (twig, berries, leaves, tuft)


def occluder(rng: np.random.Generator, pose: Pose) -> Shape:
    """Something small before the bird: a blade of grass from below, or a leaf."""
    x = pose.stand.real + rng.uniform(-0.4, 0.4)
    if rng.random() < 0.3:
        return leaf(rng, complex(x, pose.stand.imag - rng.uniform(0, 0.3)), rng.uniform(0.06, 0.12))
    tip = rng.uniform(-0.15, 0.15) + 1j * rng.uniform(0.45, 0.9)
    points = x + np.array(
        [-0.015 + 1.02j, -0.010 + 0.5j * (1 + tip.imag), tip, 0.014 + 0.5j * (1 + tip.imag), 0.015 + 1.02j]
    )
    return Shape("", points, plant_colour(rng), edge=0.8)
