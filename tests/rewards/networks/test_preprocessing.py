"""Prepared images against Pillow's own filters, which share no code with torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards.tiny import smooth_image
from tests.rounding import ELEMENTWISE, assert_same_numbers
from tgo_pipeline.rewards.engine.scorable import Preparation
from tgo_pipeline.rewards.networks.preprocessing import MEAN, STD, LongestSidePad, ShortestSideCrop

MEAN_, STD_ = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
ALL = [ShortestSideCrop(), ShortestSideCrop(rounding="down"), LongestSidePad()]
SIZES = [(512, 512), (300, 700), (640, 360), (97, 61), (224, 160), (50, 224), (224, 224), (479, 426)]


def prepare(preparation: Preparation, image: Image.Image) -> np.ndarray:
    return preparation.finish(preparation(image)[None])[0].numpy()


def tensor(image: Image.Image) -> Tensor:
    return F.pil_to_tensor(image)[None].float() / 255


@pytest.mark.parametrize("preparation", ALL)
def test_finishing_on_the_device_is_doing_all_at_once(preparation: Preparation) -> None:
    pixels = torch.stack([preparation(smooth_image(*size)) for size in SIZES])
    if pixels.dtype == torch.uint8:
        unit = [F.to_dtype(one, torch.float32, scale=True) for one in pixels]
    else:
        unit = list(pixels)
    one_by_one = torch.stack([F.normalize(one, MEAN, STD) for one in unit])
    assert_same_numbers(preparation.finish(pixels), one_by_one, ELEMENTWISE)


@pytest.mark.parametrize("preparation", ALL)
@pytest.mark.parametrize("size", SIZES)
def test_torch_prepares_the_same_tensor(preparation: Preparation, size: tuple[int, int]) -> None:
    image = smooth_image(*size)
    exact = prepare(preparation, image)
    np.testing.assert_allclose(preparation.differentiable(tensor(image))[0].numpy(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(40, 28), (21, 33), (32, 32), (20, 64)])
def test_noise_of_extremes_survives_both_ways(size: tuple[int, int]) -> None:
    """Every weight and every clamping counts when neighbours are black and white."""
    noise = np.random.default_rng(0).integers(0, 2, (*size, 3), dtype=np.uint8) * 255
    image = Image.fromarray(noise)
    for target in (8, 31, 48):
        preparation = ShortestSideCrop(target)
        found = preparation.differentiable(tensor(image))[0].numpy()
        np.testing.assert_allclose(found, prepare(preparation, image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(512, 512), (300, 700), (640, 360), (97, 61), (224, 224)])
def test_crop_is_pillow_bicubic_of_the_centre(size: tuple[int, int]) -> None:
    image = smooth_image(*size)
    short = min(size)
    width, height = (int(224 * side / short) for side in size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    expected = np.asarray(resized, dtype=np.float64)[top : top + 224, left : left + 224] / 255
    found = prepare(ShortestSideCrop(), image)
    np.testing.assert_allclose(found, (expected.transpose(2, 0, 1) - MEAN_) / STD_, atol=1e-5)


@pytest.mark.parametrize("size", [(512, 512), (300, 700), (640, 360), (97, 61), (224, 160), (50, 224)])
def test_pad_is_float_bicubic_on_black(size: tuple[int, int]) -> None:
    image = smooth_image(*size)
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
    found = prepare(LongestSidePad(), image)
    np.testing.assert_allclose(found, (expected - MEAN_) / STD_, atol=2e-5)


def test_sides_become_those_of_the_official_code_for_every_size() -> None:
    """All sizes up to 2,048. hpsv2's `ResizeMaxSize` says `round(dim * scale)`; the code is asked wherever that is so
    near to a half that another order of operations might round otherwise, and for a part of all other sizes.
    """
    longest, side = np.tril_indices(2048)
    longest, side = longest + 1, side + 1
    exact = side * (224 / longest.astype(float))
    official = np.maximum(np.round(exact), 1).astype(int)  # rounds halves to even, as Python does
    near = np.abs(exact % 1 - 0.5) < 1e-6
    asked = np.flatnonzero(near | (np.arange(len(side)) % 101 == 0))
    assert (len(side), near.sum() > 28) == (2_098_176, True)
    pad = LongestSidePad()
    for row in asked.tolist():
        sides = int(longest[row]), int(side[row])
        assert pad.resized(*sides) == (224, official[row]), sides
        assert pad.resized(*sides[::-1]) == (official[row], 224), sides


@pytest.mark.parametrize("size", [(1600, 675), (840, 1536), (640, 330), (192, 105)])
def test_where_the_order_of_operations_counts_all_paths_take_the_official_one(size: tuple[int, int]) -> None:
    """Black rows and columns around an image of white say how large it became."""
    white = Image.new("RGB", size, (255, 255, 255))
    expected = [round(side * (224 / float(max(size)))) for side in size]
    assert expected != [round(side * 224 / max(size)) for side in size]
    pad = LongestSidePad()
    for prepared in (pad(white), pad._padded(tensor(white))[0]):
        inside = prepared[0] > 0.5
        assert [int(inside.any(0).sum()), int(inside.any(1).sum())] == expected
    black = pad.differentiable(tensor(white))[0, 0]
    assert int((black > 0).any(0).sum()) * int((black > 0).any(1).sum()) == expected[0] * expected[1]


@pytest.mark.parametrize("preparation", ALL)
def test_every_level_is_the_official_float32(preparation: Preparation) -> None:
    """torchvision divides by 255 in float32, the CLIP processor multiplies by 1/255 in float64: the same for all."""
    levels = np.arange(256)
    official = (levels.astype(np.float64) * (1 / 255)).astype(np.float32)
    np.testing.assert_array_equal(official, levels.astype(np.float32) / np.float32(255))
    square = np.zeros((224, 224, 3), np.uint8)
    square[:16, :16] = levels.reshape(16, 16, 1)
    expected = F.normalize(F.to_image(square).float().div(255), MEAN, STD).numpy()
    np.testing.assert_array_equal(prepare(preparation, Image.fromarray(square)), expected)
    differentiable = preparation.differentiable(tensor(Image.fromarray(square)))[0].numpy()
    np.testing.assert_array_equal(differentiable, expected)


def test_a_sliver_keeps_one_pixel() -> None:
    assert LongestSidePad(32)(smooth_image(4000, 3)).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(610, 482), (479, 426), (153, 617), (512, 512), (640, 360)])
def test_pickscores_crop_is_that_of_its_processor(size: tuple[int, int]) -> None:
    image = smooth_image(*size)
    expected = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224)(image, return_tensors="np")
    found = prepare(ShortestSideCrop(rounding="down"), image)
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


@pytest.mark.parametrize("size", [(40_000, 2), (1, 30_000), (1001, 1)])
@pytest.mark.parametrize("rounding", ["even", "down"])
def test_the_centre_of_a_very_long_image_takes_little_memory(size: tuple[int, int], rounding: str) -> None:
    colour = Image.new("RGB", size, (10, 200, 30))
    pixels = ShortestSideCrop(rounding=rounding)(colour)  # type: ignore[arg-type]
    assert pixels.shape == (3, 224, 224)
    assert torch.equal(
        pixels, torch.tensor([10, 200, 30], dtype=torch.uint8)[:, None, None].expand_as(pixels)
    )


def test_an_image_of_the_longest_kind_is_still_resized_as_a_whole() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 2000, 3), dtype=np.uint8))
    whole = image.resize((224_000, 224), Image.Resampling.BICUBIC).crop((111_888, 0, 112_112, 224))
    np.testing.assert_array_equal(ShortestSideCrop()(image), np.asarray(whole).transpose(2, 0, 1))
