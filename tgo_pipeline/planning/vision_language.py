"""What a reward that is a Qwen2-VL takes: the real network, run once without weights in the sizes of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from tgo_pipeline.planning.meter import Meter, fused_attention, rounded

QWEN2_VL_2B: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
}
QWEN2_VL_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4},
}
"""The base models: what their config.json say of sizes."""
OFFICIAL = {"hpsv3": QWEN2_VL_7B, "videoreward": QWEN2_VL_2B}
SIDE = {"hpsv3": (1, 448, 448), "videoreward": (16, 448, 448)}
"""Frames, height and width of what is read: a square image, and eight seconds of a square clip."""
TOKENS = {"hpsv3": 151_658, "videoreward": 151_660}
"""Rows of the embedding: Qwen2-VL's tokens and those for scores."""
INSTRUCTION = {"hpsv3": 570, "videoreward": 880}
"""Tokens of the official texts without a prompt, at 4.5 characters each."""
CHARACTERS = 4.5
"""Of a token of a prompt."""


@dataclass(frozen=True)
class Reading:
    """Operations of an image (or clip) with its text, the bytes of the weights, and those at the peak."""

    flops: float
    weight_bytes: int
    peak_bytes: int


def reading(name: str, reward: Any, prompts: Sequence[str], batch: int, precision: str) -> Reading:
    """What it takes to score `batch` images with a prompt each, by a reward in full precision."""
    lengths = [round(len(prompt) / CHARACTERS) for prompt in prompts] or [0]
    tail = INSTRUCTION[name] + round(sum(lengths) / len(lengths))
    if reward.chat.head is not None:  # of files, whose tokenizer and instruction say it exactly
        tails = [reward.chat.places(reward.chat.tail(prompt))[-1] + 1 for prompt in prompts or [""]]
        tail = len(reward.chat.head) + round(sum(tails) / len(tails))
    reward.to("meta").requires_grad_(False).set_precision(precision)
    meter = Meter(imagined=True)
    with torch.no_grad(), fused_attention(), rounded(precision):
        weights = meter.hold(reward)
        with meter:
            _score(name, reward, tail, batch)
    return Reading(meter.flops / batch, weights, meter.peak_bytes)


def _score(name: str, reward: Any, tail: int, batch: int) -> None:
    from tgo_pipeline.rewards.vision_language.qwen2_vl import TextRow

    frames, height, width = SIDE[name]
    clips = [torch.zeros(frames, 3, height, width, dtype=torch.uint8, device="meta") for _ in range(batch)]
    count = len(reward.reward_tokens)
    rows = [TextRow(each, [0] * tail, range(tail - count, tail)) for each in reward.network.see(clips)]
    reward.head(reward.network.read([], rows))


def official(name: str) -> Any:
    """A reward in the official sizes, which needs no file; to be built without weights."""
    from transformers import Qwen2VLConfig

    from tgo_pipeline.plugins.kinds import REWARD

    chat: Any = SimpleNamespace(vocabulary_size=TOKENS[name], head=None)
    return REWARD.find(name)(Qwen2VLConfig(**OFFICIAL[name]), chat)
