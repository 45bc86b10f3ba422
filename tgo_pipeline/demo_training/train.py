"""Make the small world's weights from nothing: `tgo demo train`.

The diffusion base first, the masked base from its parts, then the rewards on drawn images and on samples of the
diffusion base, then the model of clips and its reward, then the export in half precision.
What exists in the output folder is kept, so an interrupted training continues where it was.
"""

from __future__ import annotations

import datetime
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tgo_pipeline.demo import moving, world
from tgo_pipeline.executors.progress import configure_logging
from tgo_pipeline.seeds import derive_seed

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from tgo_pipeline.demo_training.base_model import BaseTraining
    from tgo_pipeline.demo_training.masked_model import MaskedTraining
    from tgo_pipeline.demo_training.reward_models import Pool, RewardTraining
    from tgo_pipeline.demo_training.video_model import VideoTraining
    from tgo_pipeline.demo_training.video_reward import ChoiceTraining

log = logging.getLogger("tgo")
BASES = {"diffusion": ("unet", "vae"), "masked": ("transformer", "vqvae"), "video": ("transformer", "vae")}
"""The base models, and the parts of each that ship in half precision.

Not the text encoder: transformers would load it in half precision, diffusers its own parts not.
"""
REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
"""The rewards of images; that of clips is `moving_choice`."""
SAMPLING_STEPS = 12
"""25 steps score no better by the oracle (docs/LOG.md)."""
GUIDANCE_SCALES = (1.0, 2.0)
"""The guidance scales of the samples that rewards are trained on."""


@dataclass(frozen=True)
class Sizes:
    """How many captions the rewards see drawn, and sampled from the diffusion base; two images each."""

    drawn: int = 4_000
    sampled: int = 1_500
    base: BaseTraining | None = None
    masked: MaskedTraining | None = None
    rewards: RewardTraining | None = None
    batch: int = 128
    video: VideoTraining | None = None
    choice: ChoiceTraining | None = None


def train(output: Path, seed: int = 0, sizes: Sizes | None = None) -> Path:
    """Train bases and rewards into `output/training`, export to `output/weights`; return the latter."""
    import torch

    from tgo_pipeline.demo_training.base_model import BaseTraining, train_base
    from tgo_pipeline.demo_training.masked_model import MaskedTraining, train_masked
    from tgo_pipeline.demo_training.reward_models import RewardTraining, drawn_pool, join, train_rewards
    from tgo_pipeline.demo_training.video_model import VideoTraining
    from tgo_pipeline.demo_training.video_reward import ChoiceTraining

    configure_logging()
    torch.set_flush_denormal(True)
    sizes = sizes or Sizes()
    sizes = replace(
        sizes,
        base=sizes.base or BaseTraining(),
        masked=sizes.masked or MaskedTraining(),
        rewards=sizes.rewards or RewardTraining(),
        video=sizes.video or VideoTraining(),
        choice=sizes.choice or ChoiceTraining(),
    )
    work = output / "training"
    base = train_base(work, seed, sizes.base)
    train_masked(work, seed, sizes.masked)
    pool = join(
        # the word is part of the seed: with another, other images would be drawn than the shipped weights saw
        drawn_pool(sizes.drawn, derive_seed(seed, "rewards", "pictures")),
        sampled_pool(base, sizes.sampled, derive_seed(seed, "rewards", "samples"), sizes.batch),
    )
    train_rewards(work / "rewards", pool, seed, sizes.rewards)
    train_moving(work, seed, sizes.video, sizes.choice)
    export(work, output / "weights", seed, sizes)
    return output / "weights"


def train_moving(
    work: Path, seed: int, video: VideoTraining | None = None, choice: ChoiceTraining | None = None
) -> None:
    """Train the model of clips and the reward of clips, which need nothing of the other models."""
    from tgo_pipeline.demo_training.video_model import reconstructed, train_video
    from tgo_pipeline.demo_training.video_reward import train_choice

    vae = _load(train_video(work, seed, video)).vae  # type: ignore[attr-defined]
    train_choice(work, lambda clips: reconstructed(vae, clips), seed, choice)


def sampled_pool(base: Path, count: int, seed: int, batch: int) -> Pool:
    """Two samples of the base model for each of `count` captions, at the guidance scales in turn."""
    from tgo_pipeline.demo_training.reward_models import Pool

    pipeline = _load(base)
    rng = np.random.default_rng(seed)
    captions = world.random_captions(count, rng)
    prompts = [caption for caption in captions for _ in range(2)]
    images = []
    for number, start in enumerate(range(0, len(prompts), batch)):
        guidance = GUIDANCE_SCALES[number % len(GUIDANCE_SCALES)]
        images.append(sample(pipeline, prompts[start : start + batch], seed + number, guidance))
        log.info("sampled %d of %d images", min(start + batch, len(prompts)), len(prompts))
    return Pool(captions, np.concatenate(images))


def sample(pipeline: DiffusionPipeline, prompts: list[str], seed: int, guidance_scale: float) -> np.ndarray:
    """One image of either base for each prompt, (N, 32, 32, 3) uint8."""
    import torch

    drawn: Any = pipeline(  # type: ignore[operator]
        prompt=prompts,
        num_inference_steps=SAMPLING_STEPS,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )
    return np.round(drawn.images * 255).astype(np.uint8)


def sample_clips(
    pipeline: DiffusionPipeline, prompts: list[str], seed: int, guidance_scale: float
) -> np.ndarray:
    """A clip of the model of clips for each prompt, (N, 9, 32, 32, 3) uint8."""
    import torch

    drawn: Any = pipeline(  # type: ignore[operator]
        prompt=prompts,
        width=world.SIZE_PX,
        height=world.SIZE_PX,
        num_frames=moving.FRAMES,
        num_inference_steps=SAMPLING_STEPS,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )
    return np.round(drawn.frames * 255).astype(np.uint8)


def _load(folder: Path) -> DiffusionPipeline:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def export(work: Path, weights: Path, seed: int, sizes: Sizes) -> None:
    """Write bases and rewards in half precision, each weight file with metadata that says how it was made."""
    metadata = origin(seed, sizes)
    for name in BASES:
        export_base(work, weights, name, metadata)
    for name in (*REWARDS, "moving_choice"):
        export_reward(work, weights, name, metadata)


def export_reward(work: Path, weights: Path, name: str, metadata: dict[str, str]) -> None:
    """Write one reward from `work/rewards/name` to `weights/rewards/name`."""
    from tgo_pipeline.rewards import load_reward

    folder = weights / "rewards" / name
    folder.mkdir(parents=True, exist_ok=True)
    load_reward(name, str(work / "rewards" / name)).half().save(folder)  # type: ignore[operator]
    _add_metadata(folder, metadata)


def origin(seed: int, sizes: Sizes) -> dict[str, str]:
    """What each weight file says about how it was made."""
    import diffusers
    import torch
    import transformers

    return {
        "made_by": "tgo demo train",
        "seed": str(seed),
        "trained_on": "procedurally drawn images and clips of tgo_pipeline.demo",
        "sizes": str(sizes),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "date": datetime.date.today().isoformat(),
        "license": "Apache-2.0",
    }


def export_base(work: Path, weights: Path, name: str, metadata: dict[str, str]) -> None:
    """Write one base model of `BASES` from `work/name` to `weights/name`."""
    pipeline = _load(work / name)
    for part in BASES[name]:
        getattr(pipeline, part).half()
    pipeline.save_pretrained(weights / name)
    for file in (weights / name).rglob("*.json"):
        _forget_origin(file)
    _add_metadata(weights / name, metadata)


def _forget_origin(file: Path) -> None:
    """Remove the folder that diffusers notes in a configuration: it names a place on this machine."""
    content = json.loads(file.read_text())
    if content.pop("_name_or_path", None) is not None:
        file.write_text(json.dumps(content, indent=2) + "\n")


def _add_metadata(folder: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import load_file, save_file

    for file in sorted(folder.rglob("*.safetensors")):
        save_file(load_file(file), file, {"format": "pt", **metadata})
