"""Networks that answer NaN or infinity: which part, while it did what, and what cures it; decoding in float32."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.generators.guided import BUILDERS, Family
from tests.generators.networks.test_parts import rewrite, weights
from tests.tiny import IMAGE_SIZE
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import guided_pipeline, load_pipeline
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import GenerateParams

PARAMS = GenerateParams(steps=2, guidance_scale=2.0, width=IMAGE_SIZE, height=IMAGE_SIZE)
PROMPTS = ["a cat", "two dogs"]


def draw(pipeline: Any, batch_size: int = 2) -> np.ndarray:
    images = list(Sampler(pipeline, PARAMS, batch_size).images(PROMPTS, [1, 2]))
    return np.stack([np.asarray(image, dtype=int) for image in images])


def poison(part: Any, value: float) -> None:
    """Let one number of a network be `value`: in the first layer of a text encoder, since not all use its last one."""
    many = {name: weight for name, weight in part.named_parameters() if weight.ndim > 1}
    first = [weight for name, weight in many.items() if re.search(r"layers?\.0\.|block\.0\.", name)]
    weight = first[0] if isinstance(part, PreTrainedModel) else list(many.values())[-1]
    with torch.no_grad():
        weight.view(-1)[0] = value


PLACES = [(family, part) for family in BUILDERS for part in ("text_encoder", "network", "decoder")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "part"), PLACES)
def test_the_part_is_named_and_no_image_is_drawn(
    name: str, part: str, value: float, families: Callable[[str], Family]
) -> None:
    family = families(name)
    pipeline = load_pipeline(str(family.base))
    component = {"network": family.component, "decoder": "vqvae" if family.draws_tokens else "vae"}.get(
        part, part
    )
    poison(getattr(pipeline, component), value)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, of black pixels
        with pytest.raises(TgoError) as refused:
            draw(pipeline)
    doing = {"text_encoder": "reading the prompts", "decoder": "decoding"}
    assert str(refused.value).startswith(f"the {component} (")
    assert f"NaN or infinity while {doing.get(part, '')}" in str(refused.value)
    assert "copy or train the model again" in str(refused.value)


def test_a_guided_network_is_watched_too(sd: Family) -> None:
    guided = guided_pipeline(str(sd.base), sd.positive, strength=1e38)
    with pytest.raises(TgoError, match=r"the unet \(GuidedNetwork, float32\) answered .* while denoising"):
        draw(guided)


def test_half_precision_has_its_own_cure(sd: Family) -> None:
    pipeline = load_pipeline(str(sd.base), precision="fp16")
    with torch.no_grad():
        pipeline.unet.conv_in.weight.mul_(6e4)
    with pytest.raises(TgoError, match=r"set generate\.precision to bf16 or fp32"):
        draw(pipeline)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "flux"])
def test_a_decoder_that_leaves_fp16_is_asked_in_float32(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not FLUX, whose T5 has no fp16; SD3 is without it here."""
    tokens = name in ("amused", "meissonic")
    model = BUILDERS[name](tmp_path / "model", **({"with_t5": False} if name == "sd3" else {}))
    part = "vqvae" if tokens else "vae"
    large = ("decoder.conv_in.weight", "decoder.conv_in.bias")  # what follows is normed, so the image stays
    rewrite(weights(model, part), lambda t: {n: w * 1e5 if n in large else w for n, w in t.items()})
    pipeline = load_pipeline(str(model), precision="fp16")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        images = draw(pipeline)
    knows = name == "sdxl"  # whose pipeline decodes in float32 where the configuration says so
    assert ("leaves the range of fp16" in caplog.text) != knows
    assert getattr(pipeline, part).dtype == torch.float16
    assert images.std() > 0
    if not tokens:
        exact = draw(load_pipeline(str(model)))
        assert np.abs(images - exact).mean() < 0.1 * exact.std()


def test_only_rows_that_need_it_are_decoded_again(sd: Family) -> None:
    pipeline = load_pipeline(str(sd.base), precision="fp16")
    expected = draw(pipeline)
    decode, asked = pipeline.vae.decode, []

    def overflowing(latents: torch.Tensor, **options: Any) -> Any:
        asked.append((len(latents), latents.dtype))
        (pixels,) = decode(latents, return_dict=False)
        if latents.dtype == torch.float16:
            pixels[1] = torch.inf
        return (pixels,)

    pipeline.vae.decode = overflowing
    images = draw(pipeline)
    assert asked == [(2, torch.float16), (1, torch.float32)]
    assert np.array_equal(images[0], expected[0])
    assert np.abs(images[1] - expected[1]).max() <= 2


def test_nothing_of_the_watch_is_left(sd: Family) -> None:
    pipeline = load_pipeline(str(sd.base))
    draw(pipeline)
    assert "step" not in vars(pipeline.scheduler)
    assert "decode" not in vars(pipeline.vae)
    assert not pipeline.text_encoder._forward_hooks
