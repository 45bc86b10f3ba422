"""Pillow's bicubic resize of 8-bit images as two matrix products, so that gradients pass through it.

Follows `Resample.c` of Pillow: antialiased cubic weights (a = -1/2) in fixed point, a horizontal and a vertical pass,
each rounded and clamped to 8 bits. Products and sums are exact in float64, hence the same bits as Pillow's; on a
device without float64 a level in some thousand may be off by one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_SUPPORT = 2.0
"""Pixels to each side that the bicubic filter reaches, at the scale of the coarser image."""
_FIXED_POINT = 1 << 22  # Pillow's PRECISION_BITS: 32 less 8 for the pixel and 2 for sums that overshoot

_PROBED = 256
"""Pixels of noise after which the order of two passes is taken for known: of small images a fifth differs by it."""


def eight_bit(levels: Tensor) -> Tensor:
    """Levels rounded to the nearest of 0 to 255, halves up; gradients pass as if nothing had happened."""
    with torch.no_grad():
        change = (levels + 0.5).floor().clamp(0, 255) - levels
    return levels + change


def levels_of(images: Tensor) -> Tensor:
    """Images in [0, 1] as levels from 0 to 255, rounded as a file's, in float64 where the device has it."""
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    return eight_bit(images.to(exact) * 255)


def resize(levels: Tensor, height: int, width: int) -> Tensor:
    """Resize levels (..., H, W) from 0 to 255 to (..., height, width), integers again."""
    if _vertical_first(levels.shape[-2], levels.shape[-1], height, width):
        return _rows(_columns(levels, height), width)
    return _columns(_rows(levels, width), height)


def _rows(levels: Tensor, width: int) -> Tensor:
    return eight_bit(levels @ _weights(levels, levels.shape[-1], width).T)


def _columns(levels: Tensor, height: int) -> Tensor:
    return eight_bit(_weights(levels, levels.shape[-2], height) @ levels)


def _weights(levels: Tensor, length: int, target: int) -> Tensor:
    return torch.from_numpy(bicubic_weights(length, target)).to(levels.dtype).to(levels.device)


@lru_cache(maxsize=4096)
def _vertical_first(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether the installed Pillow begins with the vertical pass for these sizes: its version 13 does for some.

    Rather than to follow the rules of each version, this resizes noise with Pillow, once for each pair of sizes. Both
    orders may give few pixels the same levels: then it is tried with more noise.
    """
    random = np.random.default_rng(0)
    for _ in range(1 + _PROBED // (height * width)):
        noise = random.integers(0, 2, (rows, columns), dtype=np.uint8) * 255
        expected = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
        found = _columns(_rows(torch.from_numpy(noise).double(), width), height)
        if not np.array_equal(found.numpy(), expected):
            return True
    return False


@lru_cache(maxsize=32)
def bicubic_weights(length: int, target: int) -> np.ndarray:
    """What each of `target` pixels takes from each of `length`: float64 (target, length), rows summing to one."""
    scale = length / target
    stretch = max(scale, 1.0)
    reach = _SUPPORT * stretch
    centre = (np.arange(target)[:, None] + 0.5) * scale
    first = np.maximum(np.trunc(centre - reach + 0.5), 0)
    last = np.minimum(np.trunc(centre + reach + 0.5), length)
    pixel = np.arange(length)[None, :]
    # The order of Pillow's operations, down to the sum from left to right: another would round other last bits.
    weights = _cubic((pixel - centre + 0.5) * (1 / stretch)) * ((pixel >= first) & (pixel < last))
    weights /= weights.cumsum(1)[:, -1:]
    return np.trunc(weights * _FIXED_POINT + np.copysign(0.5, weights)) / _FIXED_POINT


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
