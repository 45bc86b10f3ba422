"""Half precision in the towers only, its error, and compiled towers."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import CLIPVisionConfig

from tests.rewards import tiny
from tests.rewards.tiny import smooth_image
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.aesthetic import Aesthetic
from tgo_pipeline.rewards.base import NetworkReward
from tgo_pipeline.rewards.engine.scorer import Scorer
from tgo_pipeline.rewards.files.layouts import locate
from tgo_pipeline.rewards.networks.attention import Attention

NAMES = ["hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic"]
IMAGES = [smooth_image(32, 32), smooth_image(64, 40), smooth_image(33, 90)]
PROMPTS = ["a red cat", "", "blue cats"]
TOLERANCE = {"hpsv2.1": 2e-3, "pickscore": 3e-2, "imagereward": 2e-3, "clip": 2e-3, "aesthetic": 2e-3}


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_near_and_not_the_same(name: str) -> None:
    full = tiny.build(name).score(IMAGES, PROMPTS)
    reward = tiny.build(name).set_precision("fp16")
    assert reward.precision == "fp16"
    half = reward.score(IMAGES, PROMPTS)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, rtol=0, atol=TOLERANCE[name])
    assert (half != full).any()


@pytest.mark.parametrize("name", NAMES)
def test_only_the_blocks_matrices_are_half(name: str) -> None:
    reward = tiny.build(name).set_precision("fp16")
    inside = {id(module) for blocks in reward.towers for module in blocks.modules()}
    for module in reward.modules():
        matrices = id(module) in inside and isinstance(module, (nn.Linear, Attention))
        expected = torch.float16 if matrices else torch.float32
        assert {parameter.dtype for parameter in module.parameters(recurse=False)} <= {expected}, module


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_and_scores_stay_float32(name: str) -> None:
    reward = tiny.build(name).set_precision("fp16")
    pixels = torch.stack([reward.prepare(image) for image in IMAGES])
    with torch.inference_mode():
        images, prompts = reward.encode_images(pixels), reward.encode_prompts(PROMPTS)
        assert reward.combine(images, prompts).dtype == torch.float32
    if name != "imagereward":
        assert images.dtype == torch.float32
        torch.testing.assert_close(images.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_surrounding_autocast_changes_nothing(name: str) -> None:
    reward = tiny.build(name).requires_grad_(False)
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    expected = reward.score_tensor(images, ["red", "blue"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reward.score_tensor(images, ["red", "blue"]), expected)


def test_a_copy_keeps_its_own_precision() -> None:
    reward = tiny.build("clip")
    other = copy.deepcopy(reward).set_precision("fp16")
    assert (reward.precision, other.precision) == ("fp32", "fp16")


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_loaded_in_half_is_one_rounded_afterwards(name: str, tmp_path: Path) -> None:
    tiny.write(name, tmp_path)
    rounded = load_reward(name, str(tmp_path), dtype="fp16")
    assert isinstance(rounded, NetworkReward)
    files = locate(name, str(tmp_path))
    loaded = type(rounded).load(name, files, precision="fp16").eval()
    assert loaded.precision == "fp16"
    theirs = rounded.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("precision", "message"),
    [("bf16", "bf16: .*moves PickScore by 5e-2.*Use fp16"), ("int8", "'int8' is unknown")],
)
def test_other_precisions_are_refused(precision: str, message: str) -> None:
    with pytest.raises(TgoError, match=message):
        tiny.build("clip").set_precision(precision)


def test_rounded_weights_do_not_become_float32_again() -> None:
    reward = tiny.build("clip").set_precision("fp32").set_precision("fp16")
    with pytest.raises(TgoError, match="load it again"):
        reward.set_precision("fp32")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_compiled_towers_score_the_same(name: str, precision: str) -> None:
    """Up to the generator of machine code, which takes a compiler and most of a minute to start."""
    torch.compiler.reset()
    expected = tiny.build(name).set_precision(precision).score(IMAGES, PROMPTS)
    reward = tiny.build(name).set_precision(precision).compile_towers(backend="aot_eager")
    np.testing.assert_allclose(reward.score(IMAGES, PROMPTS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_compiled_towers_see_batches_of_one_size(precision: str) -> None:
    """A last batch is filled up: no shape but the first is compiled for images, and scores are those of each image."""
    torch.compiler.reset()
    names = ("hpsv2.1", "clip")
    images, prompts = [smooth_image(32 + step, 40) for step in range(7)], ["a red cat"] * 7
    expected = {name: tiny.build(name).set_precision(precision).score(images, prompts) for name in names}
    rewards = {
        name: tiny.build(name).set_precision(precision).compile_towers(backend="aot_eager") for name in names
    }
    seen: list[torch.Size] = []
    for reward in rewards.values():
        reward.towers[0][0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with Scorer(rewards, batch_size=4) as scorer:
        found = scorer.score(images, prompts)
    assert [shape[0] for shape in seen] == [4] * 4
    for name in names:
        np.testing.assert_allclose(
            found.columns[name], expected[name], rtol=0, atol=1e-3 if precision == "fp16" else 1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_towers_in_generated_code_score_within_the_tolerance(name: str) -> None:
    """By the compiler that a GPU's code comes from too, here for a CPU: norms, casts and sums in one loop."""
    torch.compiler.reset()
    expected = tiny.build(name).set_precision("fp16").score(IMAGES, PROMPTS)
    reward = tiny.build(name).set_precision("fp16").compile_towers()
    np.testing.assert_allclose(reward.score(IMAGES, PROMPTS), expected, rtol=0, atol=TOLERANCE[name])


def test_towers_of_many_sizes_are_all_compiled() -> None:
    """Beyond torch's limit it would go on uncompiled, with a warning at most."""
    torch.compiler.reset()
    counters.clear()
    for width in (16, 24, 32, 40, 48):
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        reward = Aesthetic(config).eval().requires_grad_(False).compile_towers(backend="aot_eager")
        for count in (2, 3, 1):
            reward.encode_images(torch.zeros(count, 3, 32, 32))
    assert counters["frames"]["total"] >= 10
    assert counters["frames"]["ok"] == counters["frames"]["total"]
