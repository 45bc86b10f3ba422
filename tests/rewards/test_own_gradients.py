"""`score_tensor` of rewards that users bring, and of decoded images that no file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from tests.plugins.modules import project_folder
from tests.rewards import tiny
from tests.rounding import SCORE, assert_same_numbers
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.rewards import load_reward

NAMES = ["hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic"]
MODULE = """
import torch

def red(images, prompts):
    return [float(torch.tensor(image.getpixel((0, 0))[0]) / 255) for image in images]
red.score_tensor = lambda images, prompts: images[:, 0].mean((1, 2))

class Blue:
    def __init__(self, source, device): pass
    def __call__(self, images, prompts): return [0.0] * len(images)
    def score_tensor(self, images, prompts): return images[:, 2].mean((1, 2)) * len(prompts[0])

def plain(images, prompts): return [0.0] * len(images)
def whole(images, prompts): return [0.0] * len(images)
whole.score_tensor = lambda images, prompts: images.mean()
def text(images, prompts): return [0.0] * len(images)
text.score_tensor = lambda images, prompts: [1.0]
def cut(images, prompts): return [0.0] * len(images)
cut.score_tensor = lambda images, prompts: images.detach().mean((1, 2, 3))
def broken(images, prompts): return [0.0] * len(images)
broken.score_tensor = lambda images, prompts: 1 / 0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with project_folder(tmp_path, monkeypatch, mine=MODULE):
        yield tmp_path


def pixels(count: int = 2) -> torch.Tensor:
    values = np.random.default_rng(0).uniform(0, 1, (count, 3, 8, 8)).astype(np.float32)
    return torch.from_numpy(values).requires_grad_()


def test_a_function_with_a_method_has_a_gradient() -> None:
    images, reward = pixels(), load_reward("mine:red")
    assert reward.has_gradient
    reward.score_tensor(images, ["a", "b"]).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad[:, 0], torch.full((2, 8, 8), 1 / 64))
    assert not images.grad[:, 1:].any()


def test_a_class_with_a_method_has_a_gradient() -> None:
    images, reward = pixels(), load_reward("mine:Blue")
    scores = reward.score_tensor(images, ["ab", "c"])
    torch.testing.assert_close(scores, 2 * images[:, 2].mean((1, 2)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:plain", "plain has no gradient: take one that is a network, or give .* score_tensor"),
        ("oracle", "oracle has no gradient"),
        ("mine:whole", r"whole.score_tensor gave \(\) for 2 images: expected a tensor \(2,\)"),
        ("mine:text", r"text.score_tensor gave list for 2 images"),
        ("mine:cut", "cut.score_tensor gave scores without a gradient to the images"),
        ("mine:broken", "broken.score_tensor raised .*ZeroDivisionError"),
    ],
)
def test_what_gives_no_gradient_is_refused(name: str, message: str) -> None:
    with pytest.raises(TgoError, match=message):
        load_reward(name).score_tensor(pixels(), ["a small red ring", "b"])


@pytest.mark.parametrize("name", NAMES)
def test_decoded_images_score_as_the_files_that_a_pipeline_makes_of_them(name: str, tmp_path: Path) -> None:
    """Floats of a decoder, at a size of no network: the scorer sees them through the pipeline's own PIL images."""
    vae = load_pipeline(str(tiny_diffusion_pipeline(tmp_path / "model"))).vae  # type: ignore[attr-defined]
    latents = torch.randn(2, 4, 20, 24, generator=torch.Generator().manual_seed(0)) * 8
    with torch.no_grad():
        decoded = vae.decode(latents).sample
        reward = tiny.build(name).requires_grad_(False)
        prompts = ["a red cat", "blue"]
        scores = reward.score_tensor((decoded / 2 + 0.5).clamp(0, 1), prompts)
    files = VaeImageProcessor().postprocess(decoded, output_type="pil")
    assert_same_numbers(scores.numpy(), reward.score(files, prompts), SCORE)  # type: ignore[arg-type]
