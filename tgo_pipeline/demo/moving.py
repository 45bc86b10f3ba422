"""The small world in motion: captions such as "a red circle on a white background, moving left", and clips of them.

A clip has 9 frames of 32×32 pixels, in which a shape travels in a straight line. `clips` draws one for each caption and
spoils many: wrong colour, shape or direction, no motion at all, flicker, noise, blur. A model that is trained on them
can draw what a caption says and often does not.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from tgo_pipeline.demo import world

FRAMES = 9
"""A multiple of 4 and one more, as the causal VAE of Wan wants it."""
FPS = 8
COLOURS = ("red", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "cross")
BACKGROUNDS = ("white", "black")
"""Fewer than the world of images has: a clip is nine images, and the model is trained in minutes."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
RADIUS_PX = 5.0
SPEED_PX = 1.75
"""A frame; 14 pixels from the first to the last, which leaves 4 between the shape and the edge."""
HELD_OUT = (24, 48)
"""Captions of the validation and of the test split, of 160 in all."""

_CAPTION = re.compile(
    r"a (?P<colour>{}) (?P<shape>{}) on a (?P<background>{}) background, moving (?P<direction>{})".format(
        *("|".join(names) for names in (COLOURS, SHAPES, BACKGROUNDS, DIRECTIONS))
    )
)


@dataclass(frozen=True)
class MovingScene:
    """What a caption of a clip says."""

    colour: str
    shape: str
    background: str
    direction: str

    @property
    def caption(self) -> str:
        """The sentence that `parse` reads back."""
        return f"{self.frame.caption}, moving {self.direction}"

    @property
    def frame(self) -> world.Scene:
        """What each frame shows."""
        return world.Scene(self.colour, self.shape, self.background)


@cache
def parse(caption: str) -> MovingScene:
    """The scene that a caption describes; raises `ValueError` for a sentence outside the grammar."""
    found = _CAPTION.fullmatch(" ".join(caption.lower().split()))
    if found is None:
        raise ValueError(
            f"the small world of clips cannot read the caption {caption!r}: it knows sentences such as "
            f"{MovingScene('red', 'circle', 'white', 'left').caption!r}, with a colour of {', '.join(COLOURS)}, "
            f"a shape of {', '.join(SHAPES)}, a background of {', '.join(BACKGROUNDS)} and a direction of "
            f"{', '.join(DIRECTIONS)}."
        )
    return MovingScene(**found.groupdict())


@cache
def captions(split: str | None = None) -> tuple[str, ...]:
    """Captions of one split, in the order of their hashes; `split` None means all of them."""
    parts = itertools.product(COLOURS, SHAPES, BACKGROUNDS, DIRECTIONS)
    return world.split_captions([MovingScene(*part).caption for part in parts], split, HELD_OUT)


@dataclass(frozen=True)
class ClipNuisances:
    """How often and how strongly clips are spoilt; probabilities are per clip."""

    wrong_colour: float = 0.15
    wrong_shape: float = 0.15
    wrong_direction: float = 0.2
    still: float = 0.15
    flickering: float = 0.3
    noisy: float = 0.3
    blurred: float = 0.2
    flicker: float = 0.7
    noise: float = 0.15
    """The same blotches in every frame: what is new in each would be most of what the VAE has to keep."""
    blur: float = 1.5

    def scaled(self, strength: float) -> ClipNuisances:
        """The same nuisances, `strength` times as frequent (0 for none; probabilities stop at 1)."""
        frequencies = (
            "wrong_colour", "wrong_shape", "wrong_direction", "still", "flickering", "noisy", "blurred"
        )  # fmt: skip
        return replace(self, **{name: min(1.0, strength * getattr(self, name)) for name in frequencies})


def clips(texts: list[str], seed: int, strength: float = 1.0) -> np.ndarray:
    """One clip for each caption, (N, 9, 32, 32, 3) uint8, spoilt as in the wild (`strength` 0: never)."""
    rng = np.random.default_rng(seed)
    return draw([parse(text) for text in texts], ClipNuisances().scaled(strength), rng)


def draw(scenes: list[MovingScene], nuisances: ClipNuisances, rng: np.random.Generator) -> np.ndarray:
    """Clips of the scenes, (N, 9, 32, 32, 3) uint8, with nuisances drawn at random."""
    count = len(scenes)

    def happens(probability: float) -> np.ndarray:
        return rng.random(count) < probability

    def strengths(probability: float, largest: float) -> np.ndarray:
        return happens(probability) * rng.uniform(0.3, 1.0, count) * largest

    def misnamed(names: list[str], others: tuple[str, ...], probability: float) -> list[str]:
        step = happens(probability) * rng.integers(1, len(others), count)
        return [
            others[(others.index(name) + jump) % len(others)] for name, jump in zip(names, step, strict=True)
        ]

    colours = misnamed([scene.colour for scene in scenes], COLOURS, nuisances.wrong_colour)
    shapes = misnamed([scene.shape for scene in scenes], SHAPES, nuisances.wrong_shape)
    named = [scene.direction for scene in scenes]
    directions = misnamed(named, tuple(DIRECTIONS), nuisances.wrong_direction)
    speed = SPEED_PX * rng.uniform(0.9, 1.1, count) * ~happens(nuisances.still)
    velocity = speed[:, None] * np.array([DIRECTIONS[name] for name in directions])
    middle = world.SIZE_PX / 2 + rng.uniform(-2, 2, (count, 2)) + _anywhere(speed, rng)
    times = np.arange(FRAMES) - (FRAMES - 1) / 2
    flicker = strengths(nuisances.flickering, nuisances.flicker)
    drawing = world.Drawing(
        colour=_per_frame(world.rgb(world.COLOURS, colours)),
        background=_per_frame(world.rgb(world.BACKGROUNDS, [scene.background for scene in scenes])),
        shape=_per_frame(np.array([world.SHAPES.index(name) for name in shapes])),
        centre=(middle[:, None] + times[:, None] * velocity[:, None]).reshape(-1, 2),
        radius=_per_frame(RADIUS_PX * rng.uniform(0.92, 1.08, count)),
        noise=_per_frame(strengths(nuisances.noisy, nuisances.noise)),
        blur=_per_frame(strengths(nuisances.blurred, nuisances.blur)),
        fading=(flicker[:, None] * rng.random((count, FRAMES))).ravel(),
        blotches=_per_frame(rng.standard_normal((count, world.BLOTCHES, world.BLOTCHES, 3))),
    )
    return world.to_bytes(world.draw(drawing)).reshape(count, FRAMES, world.SIZE_PX, world.SIZE_PX, 3)


def _anywhere(speed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How far a shape that stands still is from the middle, where one that moves passes, (N, 2) pixels."""
    return (speed == 0)[:, None] * rng.uniform(-5, 5, (len(speed), 2))


def _per_frame(values: np.ndarray) -> np.ndarray:
    return np.repeat(values, FRAMES, axis=0)
