"""`score_tensor`: the same scores as from files, with gradients to the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tests.rewards import tiny
from tests.rewards.tiny import smooth_image
from tests.rounding import SCORE, assert_same_numbers
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.base import NetworkReward

NAMES = ["hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic"]
SIZES = [(32, 32), (64, 40), (33, 90), (20, 20), (97, 61)]


def frozen(name: str) -> NetworkReward:
    reward = tiny.build(name).requires_grad_(False)
    assert isinstance(reward, NetworkReward)
    return reward


def tensor(image: Image.Image) -> Tensor:
    return F.pil_to_tensor(image)[None].float() / 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_a_tensor_scores_as_its_file(name: str, size: tuple[int, int]) -> None:
    reward, image = frozen(name), smooth_image(*size)
    prompts = ["a red cat", "blue", "a red cat"]
    scores = reward.score_tensor(tensor(image).repeat(3, 1, 1, 1), prompts)
    assert_same_numbers(scores.numpy(), reward.score([image] * 3, prompts), SCORE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_gradients_reach_every_image(name: str, dtype: torch.dtype) -> None:
    images = (
        torch.cat([tensor(smooth_image(48, 40)), tensor(smooth_image(48, 40)).flip(3)])
        .to(dtype)
        .requires_grad_()
    )
    scores = frozen(name).score_tensor(images, ["a red cat", "blue"])
    assert scores.shape == (2,)
    assert scores.dtype == torch.float32
    scores.sum().backward()
    assert images.grad is not None
    assert images.grad.dtype == dtype
    assert images.grad.isfinite().all()
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_along_the_gradient_raises_the_score(name: str) -> None:
    """The network sees 8 bits, so the step is of two levels."""
    reward = frozen(name)
    images = tensor(smooth_image(40, 48)).requires_grad_()
    before = reward.score_tensor(images, ["a red cat"])
    before.sum().backward()
    assert images.grad is not None
    better = (images.detach() + 2 / 255 * images.grad.sign()).clamp(0, 1)
    assert reward.score_tensor(better, ["a red cat"]).item() > before.item()


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_is_that_of_the_score_without_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgo_pipeline.rewards.networks.pillow_resize.eight_bit", lambda levels: levels)
    reward = frozen(name)
    base = tensor(smooth_image(96, 80)) / 2 + 0.25
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(base.shape))).float()
    images = base.clone().requires_grad_()
    reward.score_tensor(images, ["blue"]).sum().backward()
    assert images.grad is not None
    slope = (images.grad * direction).sum().item()
    step = 4e-3
    ahead, behind = (reward.score_tensor(base + sign * step * direction, ["blue"]).item() for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=2e-2, abs=1e-4)


def test_half_precision_keeps_gradients() -> None:
    reward = frozen("clip").set_precision("fp16")
    images = tensor(smooth_image(40, 48)).requires_grad_()
    reward.score_tensor(images, ["blue"]).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"], "uint8: give floats"),
        (torch.zeros(3, 8, 8), ["a"], r"\(3, 8, 8\): give a tensor \(B, 3, H, W\)"),
        (torch.zeros(1, 4, 8, 8), ["a"], r"\(1, 4, 8, 8\)"),
        ([smooth_image(8, 8)], ["a"], "images is list"),
        (torch.zeros(2, 3, 8, 8), ["a"], "2 images and 1 prompts"),
        (torch.zeros(0, 3, 8, 8), [], "0 images"),
        (torch.zeros(1, 3, 8, 8), "a", "prompts is one text"),
        (torch.full((1, 3, 8, 8), 255.0), ["a"], "from 255 to 255"),
        (torch.full((1, 3, 8, 8), -1.0), ["a"], r"from -1 to -1: give \[0, 1\]"),
        (torch.full((1, 3, 8, 8), torch.nan), ["a"], "from nan"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images: Tensor, prompts: list[str], message: str) -> None:
    with pytest.raises(TgoError, match=message):
        frozen("clip").score_tensor(images, prompts)


def test_what_rounds_into_range_is_taken() -> None:
    reward = frozen("clip")
    over = torch.full((1, 3, 32, 32), 1 + 0.4 / 255)
    assert torch.equal(reward.score_tensor(over, ["a"]), reward.score_tensor(torch.ones_like(over), ["a"]))
