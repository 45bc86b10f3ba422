"""The true preference of the small world, measured from the pixels and the caption alone.

No model is involved: each part below is a closed formula in [0, 1], and the score is their mean
with fixed weights. The reward models learn from noisy choices that follow it; fine-tuning never sees it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tgo_pipeline.demo import world

WEIGHTS = {
    "colour": 0.20,
    "background": 0.10,
    "shape": 0.20,
    "size": 0.08,
    "position": 0.12,
    "cleanness": 0.15,
    "sharpness": 0.08,
    "contrast": 0.07,
}
"""Weights of the parts; they are divided by the sum of those that the caption speaks of."""

_GRID = np.arange(world.SIZE_PX, dtype=np.float32) + 0.5  # the middles of the pixels


def oracle(images: np.ndarray, captions: list[str]) -> np.ndarray:
    """How well images (N, 32, 32, 3), uint8 or floats in [0, 1], show their captions: (N,) in [0, 1]."""
    measured = parts(images, captions)
    weights = np.array(list(WEIGHTS.values()))
    values = np.stack([measured[name] for name in WEIGHTS], 1)
    stated = ~np.isnan(values)
    return (np.where(stated, values, 0) @ weights) / (stated @ weights)


def parts(images: np.ndarray, captions: list[str]) -> dict[str, np.ndarray]:
    """Each part of the oracle, (N,) in [0, 1]; `size` and `position` are NaN where the caption is silent."""
    pixels = _checked(images, captions)
    scenes = [world.parse(caption) for caption in captions]
    named = _named(scenes)
    background, amount, amplitude, visible, area, centre = found(pixels)
    colour = _object_colour(pixels, amount)
    radius = np.sqrt(area / np.pi)
    template_radius = np.clip(radius / _relative_radius(named["shape"]), 2.0, 12.0)
    template = world.coverage(named["shape"], centre, template_radius)
    expected_radius = np.where(np.isnan(named["radius"]), template_radius, named["radius"])
    size_error = np.log(template_radius / expected_radius) / np.log(
        world.RADII_PX["large"] / world.RADII_PX["small"]
    )
    place_error = np.linalg.norm(centre - named["centre"], axis=1)
    silent_size, silent_place = np.isnan(named["radius"]), np.isnan(named["centre"][:, 0])
    # limits and scales give clean drawings nearly 1 in every part, and less the more `world.spoil` does
    return {
        "colour": visible * _near(np.linalg.norm(colour - named["colour"], axis=1), 0.35),
        "background": _near(np.linalg.norm(background - named["background"], axis=1), 0.35),
        "shape": visible * _between(_iou(amount, template), 0.45, 0.92),
        "size": np.where(silent_size, np.nan, visible * _near(size_error, 0.6)),
        "position": np.where(silent_place, np.nan, visible * _near(place_error, 5.0)),
        "cleanness": np.exp(-np.maximum(_residual(pixels, background, colour, amount) - 0.012, 0) / 0.06),
        "sharpness": visible * _between(_steepness(amount), 0.18, 0.48),
        "contrast": np.clip(amplitude / np.linalg.norm(named["colour"] - named["background"], axis=1), 0, 1),
    }


class FoundObject(NamedTuple):
    """What stands out in N images from the colour of their border."""

    background: np.ndarray
    """(N, 3), in [0, 1]."""
    amount: np.ndarray
    """Part of the way from the background to the object's colour, (N, 32, 32)."""
    amplitude: np.ndarray
    """The length of that way, (N,)."""
    visible: np.ndarray
    """Whether there is anything, (N,) in [0, 1]."""
    area: np.ndarray
    """(N,), pixels."""
    centre: np.ndarray
    """(N, 2), x and y in pixels."""


def found(pixels: np.ndarray) -> FoundObject:
    """The object of each image, of floats in [0, 1], (N, 32, 32, 3)."""
    background = _border_colour(pixels)
    amount, amplitude = _object(pixels, background)
    visible = np.clip(amplitude / 0.12 - 0.5, 0, 1)
    return FoundObject(background, amount, amplitude, visible, *_area_and_centre(amount))


def _checked(images: np.ndarray, captions: list[str]) -> np.ndarray:
    expected = (len(captions), world.SIZE_PX, world.SIZE_PX, 3)
    if images.shape != expected:
        raise ValueError(
            f"the oracle was given images of shape {images.shape} for {len(captions)} captions and knows "
            f"only {expected}: one RGB image of {world.SIZE_PX}×{world.SIZE_PX} pixels for each caption."
        )
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def _named(scenes: list[world.Scene]) -> dict[str, np.ndarray]:
    """The caption's words as numbers; NaN where it is silent."""
    middle = world.SIZE_PX / 2
    nowhere = (np.nan, np.nan)
    return {
        "colour": np.array([world.COLOURS[scene.colour] for scene in scenes]) / 255,
        "background": np.array([world.BACKGROUNDS[scene.background] for scene in scenes]) / 255,
        "shape": np.array([world.SHAPES.index(scene.shape) for scene in scenes]),
        "radius": np.array([world.RADII_PX[scene.size] if scene.size else np.nan for scene in scenes]),
        "centre": np.array(
            [
                middle + world.OFFSETS_PX[scene.size or "large"] * np.array(world.POSITIONS[scene.position])
                if scene.position
                else nowhere
                for scene in scenes
            ]
        ),
    }


def _border_colour(pixels: np.ndarray) -> np.ndarray:
    """Median colour of the two outermost rings of pixels, (N, 3)."""
    frame = np.ones((world.SIZE_PX, world.SIZE_PX), dtype=bool)
    frame[2:-2, 2:-2] = False
    return np.median(pixels[:, frame], axis=1)


def _object(pixels: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part of the way from the background to the object's colour, (N, 32, 32), and the length of that way."""
    difference = pixels - background[:, None, None]
    distance = np.linalg.norm(difference, axis=3).reshape(len(pixels), -1)
    strongest = np.argsort(distance, axis=1)[:, -32:]
    flat = difference.reshape(len(pixels), -1, 3)
    towards = np.take_along_axis(flat, strongest[..., None], axis=1).mean(1)
    amplitude = np.linalg.norm(towards, axis=1)
    amount = np.einsum("nyxc,nc->nyx", difference, towards) / np.maximum(amplitude, 1e-3)[:, None, None] ** 2
    return np.clip(amount, 0, 1), amplitude


def _soft_mask(amount: np.ndarray) -> np.ndarray:
    return np.clip((amount - 0.25) / 0.5, 0, 1)


def _area_and_centre(amount: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area in pixels, (N,), and centroid x, y in pixels, (N, 2)."""
    mask = _soft_mask(amount)
    area = np.maximum(mask.sum((1, 2)), 1e-3)
    x = (mask * _GRID).sum((1, 2)) / area
    y = (mask * _GRID[:, None]).sum((1, 2)) / area
    return area, np.stack([x, y], 1)


def _object_colour(pixels: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Mean colour of the pixels that are surely the object, (N, 3)."""
    weight = np.clip((amount - 0.7) / 0.2, 1e-4, 1)
    return np.einsum("nyxc,nyx->nc", pixels, weight) / weight.sum((1, 2))[:, None]


def _relative_radius(shape: np.ndarray) -> np.ndarray:
    """Radius of the circle of equal area of a shape of radius 1 (the triangle is smaller)."""
    return np.where(shape == world.SHAPES.index("triangle"), np.sqrt(0.8), 1.0)


def _iou(amount: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Soft intersection over union of the object and the template, (N,)."""
    mask = _soft_mask(amount)
    return np.minimum(mask, template).sum((1, 2)) / np.maximum(mask, template).sum((1, 2))


def _residual(
    pixels: np.ndarray, background: np.ndarray, colour: np.ndarray, amount: np.ndarray
) -> np.ndarray:
    """Root mean square of what two flat colours do not explain, edges forgiven, (N,)."""
    level = np.where(amount < 0.2, 0.0, np.where(amount > 0.8, 1.0, amount))[..., None]
    flat = background[:, None, None] + level * (colour - background)[:, None, None]
    return np.sqrt(np.square(pixels - flat).mean((1, 2, 3)))


def _steepness(amount: np.ndarray) -> np.ndarray:
    """Mean of the 24 steepest slopes of the object's edge per pixel, (N,); a perfect edge has 0.5."""
    across = (amount[:, 1:-1, 2:] - amount[:, 1:-1, :-2]) / 2
    down = (amount[:, 2:, 1:-1] - amount[:, :-2, 1:-1]) / 2
    slopes = np.sqrt(across**2 + down**2).reshape(len(amount), -1)
    return np.sort(slopes, axis=1)[:, -24:].mean(1)


def _near(error: np.ndarray, scale: float) -> np.ndarray:
    return np.exp(-np.square(error / scale))


def _between(value: np.ndarray, worst: float, best: float) -> np.ndarray:
    return np.clip((value - worst) / (best - worst), 0, 1)
