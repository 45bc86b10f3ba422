"""What scoring takes: the real reward classes, run once without weights in the sizes of their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tgo_pipeline.planning.meter import Meter, imagined, rounded
from tgo_pipeline.plugins.kinds import REWARD
from tgo_pipeline.rewards import specs
from tgo_pipeline.rewards.files import layouts
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.specs import Spec

if TYPE_CHECKING:
    from tgo_pipeline.planning.vision_language import Reading
    from tgo_pipeline.rewards.base import NetworkReward

CLIP_L14: dict[str, Any] = {
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "eos_token_id": 2,
    },
}
CLIP_H14: dict[str, Any] = {
    "projection_dim": 1024,
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 1024,
    },
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 1024,
        "eos_token_id": 2,
    },
}
"""The official CLIP ViT-L/14 (OpenAI) and ViT-H-14 (LAION): what their config.json say besides the defaults."""
VIT_L16 = {"hidden_size": 1024, "layers": 24, "heads": 16, "patch_size": 16, "image_size": 224}
"""ImageReward's image network."""
PROMPTS_AT_ONCE = 128
READ_TOGETHER = 20
"""Images that a vision-language model reads together on a GPU."""


@dataclass(frozen=True)
class Scoring:
    """What scoring takes with all rewards loaded at once; text towers run once for each distinct prompt."""

    flops_per_image: float
    flops_per_prompt: float
    weight_bytes: int
    peak_bytes: int
    unknown: tuple[str, ...]
    """Columns whose rewards are code of the user's own, or models that the user names: not counted."""


def scoring(
    rewards: Mapping[str, Spec], prompts: Sequence[str], batch: int, precision: str = "fp32", frames: int = 1
) -> Scoring:
    """What it takes to score batches of `batch` images; `prompts` are an example of those that are read.

    Of clips, rewards of images see `frames` frames each.

    Raises `TgoError` for a local source that is missing or does not fit its reward.
    """
    reading = {name: spec for name, spec in rewards.items() if _reads_instruction(spec)}
    own = tuple(name for name, spec in rewards.items() if not _is_counted(spec) and name not in reading)
    networks = _networks({name: spec for name, spec in rewards.items() if _is_counted(spec)})
    lengths = {name: _lengths(reward, prompts) for name, reward in networks.items()}
    for reward in networks.values():
        reward.to("meta").requires_grad_(False).set_precision(precision)
    meter = Meter(imagined=True)
    with torch.no_grad(), imagined(), rounded(precision):
        weights = meter.hold(*networks.values())
        with meter:
            encoded = _encode_prompts(networks, lengths, batch * frames)
            text = meter.flops
            _score(networks, encoded, batch * frames)
    per_prompt = text / max(1, len(prompts))
    found = Scoring((meter.flops - text) / batch, per_prompt, weights, meter.peak_bytes, own)
    for spec in reading.values():
        times = 1 if spec.reward in specs.OF_CLIPS else frames
        found = _with(found, _reading(spec, prompts, precision), times)
    return found


def _with(found: Scoring, other: Reading, times: int) -> Scoring:
    """Both loaded, one after the other at work; the other reads `times` frames of a clip."""
    return replace(
        found,
        flops_per_image=found.flops_per_image + times * other.flops,
        weight_bytes=found.weight_bytes + other.weight_bytes,
        peak_bytes=max(found.peak_bytes + other.weight_bytes, found.weight_bytes + other.peak_bytes),
    )


def _reading(spec: Spec, prompts: Sequence[str], precision: str) -> Reading:
    """What a vision-language model takes for an image, which it reads with its prompt."""
    from tgo_pipeline.planning import vision_language
    from tgo_pipeline.rewards.base import empty

    name = specs.canonical(spec.reward)
    if spec.source is None or _on_hub(spec.source):
        reward = empty(lambda: vision_language.official(name))
    else:
        reward = _local(name, spec.source)
    half = "fp32" if precision == "fp32" else reward.half_precision
    return vision_language.reading(name, reward, prompts, READ_TOGETHER, half)


@dataclass(frozen=True)
class Differentiable:
    """The target's rewards in float32 and without content: called, a `TargetScore` of images (B, 3, H, W)."""

    networks: tuple[NetworkReward, ...]
    lengths: Mapping[str, list[tuple[int, int]]]

    def __call__(self, images: Tensor, _: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Call it inside `imagined()`. The resizing of images is not counted."""
        by_name = dict(zip(self.lengths, self.networks, strict=True))
        with torch.no_grad():
            encoded = _encode_prompts(by_name, self.lengths, len(images))
        means = images.mean((1, 2, 3), keepdim=True)
        scores = [means.flatten()]
        for name, reward in by_name.items():
            side = reward.preprocessing.size  # type: ignore[attr-defined]
            pixels = torch.zeros(len(images), 3, side, side) + means
            scores.append(reward.combine(reward.encode_images(pixels), encoded[name]))
        target = torch.stack(scores).mean(0)
        return target, {"reward": target.detach()}


def differentiable(rewards: Mapping[str, Spec], prompts: Sequence[str]) -> Differentiable:
    """The rewards that are networks of this package; others are not counted.

    Raises `TgoError` for a local source that is missing or does not fit its reward.
    """
    built_in = {name: spec for name, spec in rewards.items() if _is_counted(spec)}
    networks = _networks(built_in)
    lengths = {name: _lengths(reward, prompts) for name, reward in networks.items()}
    for reward in networks.values():
        reward.to("meta").requires_grad_(False)
    return Differentiable(tuple(networks.values()), lengths)


def _is_counted(spec: Spec) -> bool:
    """Whether a reward is a network of this package whose images are all of one size."""
    layout = layouts.LAYOUTS.get(specs.canonical(spec.reward))
    return layout is not None and layout.instruction is None and not layout.described


def _reads_instruction(spec: Spec) -> bool:
    """Whether a reward is a vision-language model of this package."""
    layout = layouts.LAYOUTS.get(specs.canonical(spec.reward))
    return layout is not None and layout.instruction is not None


def _networks(rewards: Mapping[str, Spec]) -> dict[str, NetworkReward]:
    """The rewards that are networks; those with the same image tower share one, as they do in scoring."""
    from tgo_pipeline.rewards.engine.scorer import share_towers

    local, official = {}, {}
    for name, spec in rewards.items():
        reward = specs.canonical(spec.reward)
        if not layouts.LAYOUTS[reward].weights:
            continue
        if spec.source is None or _on_hub(spec.source):
            official[name] = _official(reward)
        else:
            local[name] = _local(reward, spec.source)
    share_towers(list(local.values()))
    if "aesthetic" in official and (clip := official.get("clip") or official.get("clip/openai-l14")):
        official["aesthetic"].tower = clip.tower
    found: dict[str, NetworkReward] = {**local, **official}
    return {name: found[name] for name in rewards if name in found}


def _on_hub(source: str) -> bool:
    return "@" in source and not Path(source).expanduser().exists()


def _local(name: str, source: str) -> Any:
    """From its files, whose weights are mapped and not read."""
    return REWARD.find(name).load(name, layouts.locate(name, source))


def _official(name: str) -> Any:
    """In the official sizes, which need no file."""
    from tgo_pipeline.rewards.base import empty

    files = Files(name, Path(), layouts.LAYOUTS[name].packaged)
    builders = {
        "pickscore": partial(_pickscore, files),
        "clip/openai-l14": partial(_clip, files),
        "imagereward": partial(_image_reward, files),
        "aesthetic": _aesthetic,
    }
    return empty(builders.get(name) or partial(_open_clip, name))


def _pickscore(files: Files) -> Any:
    from transformers import CLIPConfig

    from tgo_pipeline.rewards.pickscore import PickScore

    return PickScore.from_config(CLIPConfig(**CLIP_H14), files)


def _clip(files: Files) -> Any:
    from transformers import CLIPConfig

    from tgo_pipeline.rewards.clip_score import ClipScore

    return ClipScore.from_config(CLIPConfig(**CLIP_L14), files)


def _aesthetic() -> Any:
    from transformers import CLIPConfig

    from tgo_pipeline.rewards.aesthetic import Aesthetic
    from tgo_pipeline.rewards.networks.clip_models import vision_config

    return Aesthetic(vision_config(CLIPConfig(**CLIP_L14)))


def _open_clip(name: str) -> Any:
    from tgo_pipeline.rewards.hpsv2 import HPSv2, network_config
    from tgo_pipeline.rewards.networks.tokenizers import OpenClipTokenizer, read_merges

    config = network_config(None)
    return HPSv2(config, OpenClipTokenizer(read_merges(None), config["text_cfg"]["context_length"]), name)


def _image_reward(files: Files) -> Any:
    from tgo_pipeline.rewards import image_reward as blip

    vision = blip.vit_config(**VIT_L16)
    words = blip.read_vocabulary(files.path("vocab.txt"))
    return blip.ImageReward(vision, blip.text_config(blip.OFFICIAL_MED, vision), blip.blip_tokenizer(words))


def _lengths(reward: NetworkReward, prompts: Sequence[str]) -> list[tuple[int, int]]:
    """(rows, tokens) of what the text tower reads together: prompts of similar length, without what pads them."""
    tokens = reward.tokenize(list(prompts) or [""])
    counts = sorted(reward.token_counts(tokens).tolist())
    parts = [counts[start : start + PROMPTS_AT_ONCE] for start in range(0, len(counts), PROMPTS_AT_ONCE)]
    return [(len(part), part[-1]) for part in parts]


class _Counts:
    """The number of tokens of prompts that are all of one length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def max(self) -> int:
        return self._length

    def min(self) -> int:
        return self._length


def _encode_prompts(
    networks: Mapping[str, NetworkReward], lengths: Mapping[str, list[tuple[int, int]]], batch: int
) -> dict[str, Tensor]:
    """The prompts of a batch as each reward has encoded them."""
    from tgo_pipeline.rewards.image_reward import ImageReward

    encoded = {}
    for name, reward in networks.items():
        longest = lengths[name][-1][1]
        if isinstance(reward, ImageReward):  # its text network reads the tokens while it looks at an image
            reward.token_counts = lambda _, longest=longest: _Counts(longest)  # type: ignore[method-assign]
            encoded[name] = torch.zeros(batch, longest, dtype=torch.long)
            continue
        for rows, tokens in lengths[name]:
            part = reward.encode_tokens(torch.zeros(rows, tokens, dtype=torch.long))
        encoded[name] = torch.zeros(batch, *part.shape[1:], dtype=part.dtype)
    return encoded


def _score(networks: Mapping[str, NetworkReward], encoded: Mapping[str, Tensor], batch: int) -> None:
    """As `Scorer` does: what one image encoder makes of a batch is kept for all rewards that have it."""
    pixels: dict[int, Tensor] = {}
    images: dict[int, Any] = {}
    for name, reward in networks.items():
        side = reward.preprocessing.size  # type: ignore[attr-defined]
        if side not in pixels:
            pixels[side] = torch.zeros(batch, 3, side, side, dtype=torch.uint8).float()
        key = id(reward.image_encoder)
        if key not in images:
            images[key] = reward.encode_images(pixels[side])
        reward.combine(images[key], encoded[name])
