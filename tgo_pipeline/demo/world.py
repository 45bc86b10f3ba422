"""The small world: captions, the three families of prompts, and the images that belong to them.

A caption names a coloured shape on a background, perhaps its size and its place. `images` draws
a 32×32 image for each caption and spoils many of them (blotches, blur, fading, displacement,
wrong attributes), as images found in the wild are spoilt: a model trained on them can draw well
but often does not, and that is the room preference alignment needs.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np

SIZE_PX = 32
"""So small that a CPU trains everything that ships within hours and samples in seconds (docs/LOG.md)."""
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "orange": (250, 135, 15),
    "yellow": (245, 225, 35),
    "green": (25, 150, 55),
    "blue": (30, 60, 215),
    "purple": (135, 35, 175),
    "pink": (250, 130, 190),
    "brown": (115, 65, 30),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (12, 12, 12),
    "gray": (140, 140, 140),
    "cyan": (140, 225, 235),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
RADII_PX = {"small": 4.0, "large": 7.5}
POSITIONS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
OFFSETS_PX = {"small": 7.5, "large": 5.0}
"""Radius and offset together stay 3.5 pixels from the edge at least: room for jitter, blur and the background."""
FAMILIES = ("plain", "sized", "placed")
SPLITS = ("train", "validation", "test")
HELD_OUT = {"plain": (24, 56), "sized": (48, 64), "placed": (64, 96)}
"""Captions of the validation and of the test split, per family: 136 and 216 in all."""

_GREY = 0.55
"""Where fading leads: near the middle of the range, so that light and dark colours lose contrast alike."""
BLOTCHES = 8
"""Values of noise along a side: blotches of 4 pixels, as wide as what one latent of the small VAE stands for."""
_CAPTION = re.compile(
    r"a (?:(?P<size>{}) )?(?P<colour>{}) (?P<shape>{}) on a (?P<background>{}) background"
    r"(?:, at the (?P<position>{}))?".format(
        *("|".join(names) for names in (RADII_PX, COLOURS, SHAPES, BACKGROUNDS, POSITIONS))
    )
)


@dataclass(frozen=True)
class Scene:
    """What a caption says; `size` and `position` are None where it does not say."""

    colour: str
    shape: str
    background: str
    size: str | None = None
    position: str | None = None

    @property
    def caption(self) -> str:
        """The scene as a sentence of the grammar, which `parse` reads."""
        size = f"{self.size} " if self.size else ""
        place = f", at the {self.position}" if self.position else ""
        return f"a {size}{self.colour} {self.shape} on a {self.background} background{place}"


@cache
def parse(caption: str) -> Scene:
    """The scene that a caption describes; raises `ValueError` for a sentence outside the grammar."""
    found = _CAPTION.fullmatch(" ".join(caption.lower().split()))
    if found is None:
        raise ValueError(
            f"the small world cannot read the caption {caption!r}: it knows sentences such as "
            f"{Scene('red', 'circle', 'white', 'small', 'left').caption!r}, with a colour of "
            f"{', '.join(COLOURS)}, a shape of {', '.join(SHAPES)} and a background of {', '.join(BACKGROUNDS)}."
        )
    return Scene(**found.groupdict())


@cache
def captions(family: str, split: str | None = None) -> tuple[str, ...]:
    """Captions of one family in the order of their hashes; `split` None means all of them.

    The split depends on the text alone: hashes order the captions, the first ones are held out.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: the small world has {', '.join(FAMILIES)}.")
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: a family is split into {', '.join(SPLITS)}.")
    return split_captions(_family(family), split, HELD_OUT[family])


def split_captions(texts: list[str], split: str | None, held_out: tuple[int, int]) -> tuple[str, ...]:
    """Of captions the ones of a split, in the order of their hashes; `held_out` are validation and test captions."""
    ordered = tuple(sorted(texts, key=_hash))
    validation, test = held_out
    bounds = {
        None: (0, len(ordered)),
        "test": (0, test),
        "validation": (test, test + validation),
        "train": (test + validation, len(ordered)),
    }
    start, stop = bounds[split]
    return ordered[start:stop]


def random_captions(count: int, rng: np.random.Generator) -> list[str]:
    """Captions drawn at random with replacement, each family as likely as the others."""
    families = [captions(family) for family in FAMILIES]
    return [str(rng.choice(families[index])) for index in rng.integers(len(families), size=count)]


def _family(family: str) -> list[str]:
    sizes = (None,) if family == "plain" else tuple(RADII_PX)
    places = tuple(POSITIONS) if family == "placed" else (None,)
    parts = itertools.product(COLOURS, SHAPES, BACKGROUNDS, sizes, places)
    return [Scene(*part).caption for part in parts]


def _hash(caption: str) -> bytes:
    return hashlib.sha256(caption.encode()).digest()


@dataclass(frozen=True)
class Drawing:
    """N images as numbers, before they are drawn; every field has N rows."""

    colour: np.ndarray
    """(N, 3), in [0, 1]."""
    background: np.ndarray
    """(N, 3), in [0, 1]."""
    shape: np.ndarray
    """(N,), index into SHAPES."""
    centre: np.ndarray
    """(N, 2), x and y in pixels."""
    radius: np.ndarray
    """(N,), pixels; of the circle that covers the same area."""
    noise: np.ndarray
    """(N,), standard deviation of the blotches in units of the full range."""
    blur: np.ndarray
    """(N,), standard deviation of the Gaussian in pixels."""
    fading: np.ndarray
    """(N,), part of the image replaced by grey."""
    blotches: np.ndarray
    """(N, 8, 8, 3), standard normal."""

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice) -> Drawing:
        return Drawing(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Nuisances:
    """How often and how strongly images are spoilt; probabilities are per image."""

    wrong_colour: float = 0.18
    wrong_shape: float = 0.14
    wrong_size: float = 0.18
    wrong_background: float = 0.08
    displaced: float = 0.35
    noisy: float = 0.45
    blurred: float = 0.35
    faded: float = 0.35
    noise: float = 0.15
    blur: float = 2.0
    fading: float = 0.6

    def scaled(self, strength: float) -> Nuisances:
        """The same nuisances, `strength` times as frequent (0 for none; probabilities stop at 1)."""
        frequencies = (
            "wrong_colour", "wrong_shape", "wrong_size", "wrong_background", "displaced", "noisy", "blurred", "faded"
        )  # fmt: skip
        return replace(self, **{name: min(1.0, strength * getattr(self, name)) for name in frequencies})


def images(texts: list[str], seed: int, strength: float = 1.0) -> np.ndarray:
    """One image for each caption, (N, 32, 32, 3) uint8, spoilt as in the wild (`strength` 0: never)."""
    rng = np.random.default_rng(seed)
    scenes = [parse(text) for text in texts]
    drawing = spoil(ideal(scenes, rng), scenes, Nuisances().scaled(strength), rng)
    return to_bytes(draw(drawing))


def ideal(scenes: list[Scene], rng: np.random.Generator, jitter_px: float = 1.0) -> Drawing:
    """Drawings that keep to their captions; what a caption leaves open is drawn at random."""
    count = len(scenes)
    sizes = [scene.size or rng.choice(list(RADII_PX)) for scene in scenes]
    offsets = [
        OFFSETS_PX[size] * np.array(POSITIONS.get(scene.position or "", (0, 0)))
        for scene, size in zip(scenes, sizes, strict=True)
    ]
    radius = np.array([RADII_PX[size] for size in sizes])
    return Drawing(
        colour=rgb(COLOURS, [scene.colour for scene in scenes]),
        background=rgb(BACKGROUNDS, [scene.background for scene in scenes]),
        shape=np.array([SHAPES.index(scene.shape) for scene in scenes]),
        centre=SIZE_PX / 2 + np.array(offsets) + jitter_px * rng.uniform(-1, 1, (count, 2)),
        radius=radius * (1 + 0.06 * jitter_px * rng.uniform(-1, 1, count)),
        noise=np.zeros(count),
        blur=np.zeros(count),
        fading=np.zeros(count),
        blotches=rng.standard_normal((count, BLOTCHES, BLOTCHES, 3)),
    )


def spoil(drawing: Drawing, scenes: list[Scene], nuisances: Nuisances, rng: np.random.Generator) -> Drawing:
    """The same drawings with nuisances drawn at random."""
    count = len(drawing)

    def happens(probability: float) -> np.ndarray:
        return rng.random(count) < probability

    def strengths(probability: float, largest: float) -> np.ndarray:
        return happens(probability) * rng.uniform(0.25, 1.0, count) * largest

    colour, background = drawing.colour.copy(), drawing.background.copy()
    wrong = happens(nuisances.wrong_colour)
    colour[wrong] = rgb(COLOURS, rng.choice(list(COLOURS), int(wrong.sum())))
    wrong = happens(nuisances.wrong_background)
    background[wrong] = rgb(BACKGROUNDS, rng.choice(list(BACKGROUNDS), int(wrong.sum())))
    other_shape = rng.integers(1, len(SHAPES), count)
    shape = (drawing.shape + happens(nuisances.wrong_shape) * other_shape) % len(SHAPES)
    swapped = sum(RADII_PX.values()) - drawing.radius
    radius = np.where(happens(nuisances.wrong_size), swapped, drawing.radius)
    angle = rng.uniform(0, 2 * np.pi, count)
    shift = rng.uniform(3, 9, count) * happens(nuisances.displaced)
    moved = drawing.centre + shift[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    margin = radius[:, None] + 1
    return replace(
        drawing,
        colour=colour,
        background=background,
        shape=shape,
        radius=radius,
        centre=np.where(shift[:, None] > 0, np.clip(moved, margin, SIZE_PX - margin), moved),
        noise=strengths(nuisances.noisy, nuisances.noise),
        blur=strengths(nuisances.blurred, nuisances.blur),
        fading=strengths(nuisances.faded, nuisances.fading),
    )


def draw(drawing: Drawing) -> np.ndarray:
    """Images of the drawings, (N, 32, 32, 3) float32 in [0, 1]."""
    if len(drawing) > 4096:
        return np.concatenate([draw(drawing[start : start + 4096]) for start in range(0, len(drawing), 4096)])
    mask = coverage(drawing.shape, drawing.centre, drawing.radius)[..., None]
    colour, background = drawing.colour[:, None, None], drawing.background[:, None, None]
    image = (background + mask * (colour - background)).astype(np.float32)
    image = _blurred(image, drawing.blur)
    fading = drawing.fading[:, None, None, None].astype(np.float32)
    image = image * (1 - fading) + _GREY * fading
    weights = _upsampling()
    field = np.einsum(
        "yi,nijc,xj->nyxc", weights, drawing.blotches.astype(np.float32), weights, optimize=True
    )
    image = image + drawing.noise[:, None, None, None].astype(np.float32) * field
    return np.clip(image, 0.0, 1.0)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as uint8."""
    return np.round(image * 255).astype(np.uint8)


def coverage(shape: np.ndarray, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Part of each pixel that the shapes cover, (N, 32, 32) float32, from 4×4 points a pixel."""
    points = (np.arange(4 * SIZE_PX, dtype=np.float32) + 0.5) / 4
    scale = radius.astype(np.float32)[:, None]
    x = (points - centre[:, :1].astype(np.float32)) / scale
    y = (points - centre[:, 1:].astype(np.float32)) / scale
    inside = np.empty((len(shape), len(points), len(points)), dtype=bool)
    for index, name in enumerate(SHAPES):
        rows = shape == index
        if rows.any():
            inside[rows] = _INSIDE[name](x[rows, None, :], y[rows, :, None])
    return inside.reshape(len(shape), SIZE_PX, 4, SIZE_PX, 4).mean((2, 4), dtype=np.float32)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    outer = 1.39
    slanted = np.abs(x) * np.sqrt(np.float32(3)) - y
    return (slanted <= outer) & (y <= outer / 2)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    length, thickness = 1.166, 0.408
    x, y = np.abs(x), np.abs(y)
    return ((x <= length) & (y <= thickness)) | ((x <= thickness) & (y <= length))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    distance = x * x + y * y
    return (distance <= 1.155**2) & (distance >= 0.578**2)


_INSIDE = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: (np.abs(x) <= 0.886) & (np.abs(y) <= 0.886),
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
"""Shapes around the origin at radius 1; all but the triangle (0.8) have the area of the unit circle."""


@cache
def _upsampling() -> np.ndarray:
    """(32, 8) weights of linear interpolation that keep the variance at the grid points."""
    positions = (np.arange(SIZE_PX) + 0.5) / SIZE_PX * BLOTCHES - 0.5
    distance = np.abs(positions[:, None] - np.arange(BLOTCHES))
    weights = np.clip(1 - distance, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blurred(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gaussian blur with one standard deviation in pixels for each image; edges weigh what is inside."""
    rows = np.flatnonzero(sigma > 0)
    if not len(rows):
        return image
    distance = np.arange(SIZE_PX)[:, None] - np.arange(SIZE_PX)
    kernel = np.exp(-0.5 * (distance / sigma[rows, None, None]) ** 2)
    kernel = (kernel / kernel.sum(2, keepdims=True)).astype(np.float32)
    vertical = np.matmul(kernel, image[rows].reshape(len(rows), SIZE_PX, -1)).reshape(-1, SIZE_PX, SIZE_PX, 3)
    horizontal = np.matmul(kernel[:, None], vertical)
    result = image.copy()
    result[rows] = horizontal
    return result


def rgb(table: dict[str, tuple[int, int, int]], names: list[str] | np.ndarray) -> np.ndarray:
    """Colours of a table in [0, 1], (N, 3)."""
    return np.array([table[str(name)] for name in names], dtype=np.float64).reshape(-1, 3) / 255
