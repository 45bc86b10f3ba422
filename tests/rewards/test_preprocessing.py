"""Prepared pictures against Pillow's own filters, which share no code with torch's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards.tiny import picture
from tgo_pipeline.rewards.preprocessing import MEAN, STD, LongestSidePad, ShortestSideCrop

MEAN_, STD_ = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]


@pytest.mark.parametrize("size", [(512, 512), (300, 700), (640, 360), (97, 61), (224, 224)])
def test_crop_is_pillow_bicubic_of_the_centre(size: tuple[int, int]) -> None:
    image = picture(*size)
    short = min(size)
    width, height = (int(224 * side / short) for side in size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    expected = np.asarray(resized, dtype=np.float64)[top : top + 224, left : left + 224] / 255
    found = ShortestSideCrop()(image).numpy()
    np.testing.assert_allclose(found, (expected.transpose(2, 0, 1) - MEAN_) / STD_, atol=1e-5)


@pytest.mark.parametrize("size", [(512, 512), (300, 700), (640, 360), (97, 61), (224, 160), (50, 224)])
def test_pad_is_float_bicubic_on_black(size: tuple[int, int]) -> None:
    image = picture(*size)
    width, height = (round(side * 224 / max(size)) for side in size)
    channels = [
        np.asarray(
            Image.fromarray(np.asarray(channel, dtype=np.float32)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for channel in image.split()
    ]
    expected = np.zeros((3, 224, 224))
    left, top = (224 - width) // 2, (224 - height) // 2
    expected[:, top : top + height, left : left + width] = np.stack(channels) / 255
    found = LongestSidePad()(image).numpy()
    np.testing.assert_allclose(found, (expected - MEAN_) / STD_, atol=2e-5)


def test_a_sliver_keeps_one_pixel() -> None:
    assert LongestSidePad(32)(picture(4000, 3)).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(610, 482), (479, 426), (153, 617), (512, 512), (640, 360)])
def test_pickscores_crop_is_that_of_its_processor(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224)(image, return_tensors="np")
    found = ShortestSideCrop(rounding="down")(image).numpy()
    np.testing.assert_allclose(found, expected["pixel_values"][0], atol=1e-5)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([32, 224]))
def test_a_shared_crop_is_the_same_crop(width: int, height: int, size: int) -> None:
    down, even = ShortestSideCrop(size, "down"), ShortestSideCrop(size)
    longest = int(size * max(width, height) / min(width, height)) - size
    assert even.shared(width, height) == even
    assert down.shared(width, height) == (down if longest % 4 == 3 else even)


def test_equal_preprocessings_share_a_tensor() -> None:
    assert ShortestSideCrop(32) == ShortestSideCrop(32)
    assert len({ShortestSideCrop(32), ShortestSideCrop(32), LongestSidePad(32), ShortestSideCrop(224)}) == 3
