"""The resize in torch against Pillow's: the same bits, and the gradient of a linear map that Pillow computes too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tgo_pipeline.rewards.networks.pillow_resize import bicubic_weights, eight_bit, resize

SIDE = st.integers(1, 90)


def pillow(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 2**31), st.booleans())
@example(9, 2, 3, 1, 1, False)  # noise of 0 and 255 alone may leave the order of the passes open
def test_every_bit_is_pillows(
    rows: int, columns: int, height: int, width: int, seed: int, extreme: bool
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    pixels = (noise // 128) * np.uint8(255) if extreme else noise
    found = resize(torch.from_numpy(pixels).double(), height, width).numpy()
    np.testing.assert_array_equal(found, pillow(pixels, height, width))


@pytest.mark.parametrize("size", [(331, 725), (700, 300), (512, 512), (100, 1172)])
def test_tall_images_whose_vertical_pass_may_come_first_agree_too(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, size[::-1], dtype=np.uint8)
    scale = 224 / min(size)
    height, width = int(size[1] * scale), int(size[0] * scale)
    found = resize(torch.from_numpy(noise).double(), height, width).numpy()
    np.testing.assert_array_equal(found, pillow(noise, height, width))


@given(SIDE, SIDE)
def test_weights_sum_to_one(length: int, target: int) -> None:
    np.testing.assert_allclose(bicubic_weights(length, target).sum(1), 1, atol=length * 2**-22)


def test_rounding_is_invisible_to_gradients() -> None:
    levels = torch.tensor([-3.0, 0.5, 17.3, 254.5, 300.0], dtype=torch.float64, requires_grad=True)
    rounded = eight_bit(levels)
    assert rounded.tolist() == [0, 1, 17, 255, 255]
    (rounded * torch.arange(5)).sum().backward()
    assert levels.grad is not None
    assert levels.grad.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("target", [(5, 7), (16, 9)])
def test_the_gradient_is_that_of_pillows_resize_in_floating_point(target: tuple[int, int]) -> None:
    rows, columns = 11, 8
    levels = torch.full((rows, columns), 100.0, dtype=torch.float64, requires_grad=True)
    direction = torch.from_numpy(np.random.default_rng(2).normal(size=target))
    (resize(levels, *target) * direction).sum().backward()
    assert levels.grad is not None
    for row in range(rows):
        for column in range(columns):
            impulse = np.zeros((rows, columns), dtype=np.float32)
            impulse[row, column] = 1
            slope = (direction.numpy() * pillow(impulse, *target)).sum()
            assert levels.grad[row, column].item() == pytest.approx(slope, abs=2e-6)
