"""Which frames of a clip are read, and at which size an image or a frame is: the rules of Qwen2-VL's own code.

The expressions are written as there, with Python's rounding (half to even) and floats, since others that are equal on
paper differ by a row of patches for some sizes. Sizes are in pixels.
"""

from __future__ import annotations

import math

import torch

from tgo_pipeline.rewards.engine.decode import UnreadableImage

FACTOR = 28
"""Sides are multiples of this: two patches of 14 pixels, which become one token."""
LONGEST = 200
"""How many times as long as wide an image may be."""
PAIR = 2
"""Frames are read in pairs."""
FEWEST_FRAMES, MOST_FRAMES = 4, 768


def resized(height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """Height and width in multiples of 28, with at least and at most so many pixels where that is possible.

    Raises `UnreadableImage` for an image more than 200 times as long as wide.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > LONGEST:
        raise UnreadableImage(f"it is {ratio:.0f} times as long as wide: this reward reads up to {LONGEST}")
    rows, columns = (max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width))
    if rows * columns > most:
        beta = math.sqrt((height * width) / most)
        return math.floor(height / beta / FACTOR) * FACTOR, math.floor(width / beta / FACTOR) * FACTOR
    if rows * columns < least:
        beta = math.sqrt(least / (height * width))
        return math.ceil(height * beta / FACTOR) * FACTOR, math.ceil(width * beta / FACTOR) * FACTOR
    return rows, columns


def frame_indices(total: int, rate: float, fps: float, frames: int | None = None) -> list[int]:
    """Which of the `total` frames of a clip with `rate` frames a second are read: `fps` a second, evenly spread.

    `frames` states their number instead. Raises `UnreadableImage` if a clip has fewer than two.
    """
    if frames is not None:
        count = min(round(frames / PAIR) * PAIR, total - total % PAIR)
    else:
        most = min(MOST_FRAMES, total) // PAIR * PAIR
        count = round(min(max(total / rate * fps, FEWEST_FRAMES), most) / PAIR) * PAIR
    if count < PAIR:
        what = "a still image" if total == 1 else f"{count} of {total} frames"
        raise UnreadableImage(f"it is {what}: this reward reads the motion of two frames or more")
    return torch.linspace(0, total - 1, count).round().long().tolist()
