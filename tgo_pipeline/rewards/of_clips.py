"""Any reward of images as one of clips: the mean over frames that lie evenly from the first to the last.

Its parts are those of the reward, each the mean too, and behind them the lowest and the last frame's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.video_files import even
from tgo_pipeline.rewards.base import Reward
from tgo_pipeline.rewards.engine.scorable import Preparation
from tgo_pipeline.rewards.specs import OF_FRAMES


@dataclass(frozen=True)
class EachFrame:
    """An image's preparation for some frames of a clip; of a clip with fewer, some come twice."""

    preparation: Preparation
    count: int

    def __call__(self, image: Any) -> Any:
        """Of a `Clip`: a tensor (count, 3, S, S), or a list where the preparation gives no tensor."""
        frames = np.asarray(image.frames)[even(len(image.frames), self.count)]
        prepared = [self.preparation(Image.fromarray(frame)) for frame in frames]
        return torch.stack(prepared) if isinstance(prepared[0], Tensor) else prepared

    def finish(self, pixels: Any) -> Any:
        """Frames of all clips one after the other, as the preparation finishes a batch."""
        if isinstance(pixels, Tensor):
            return self.preparation.finish(pixels.flatten(0, 1))
        return self.preparation.finish([frame for frames in pixels for frame in frames])

    def differentiable(self, images: Tensor) -> Tensor:
        """Raises `TgoError`: there is no gradient."""
        raise TgoError("a mean over frames has no gradient: score clips, and train on images.")


class FrameMean(Reward):
    """The mean of a reward over `count` frames of each clip; shares what the rewards of images share."""

    def __init__(self, reward: Reward, count: int) -> None:
        super().__init__(
            reward.name, f"mean over {count} frames: {reward.scale}", EachFrame(reward.preprocessing, count)
        )
        self.reward, self.count = reward, count
        self.typical_range, self.needs_prompt = reward.typical_range, reward.needs_prompt
        self._ends = [name for name in OF_FRAMES if name not in reward.parts]
        self.parts = {**reward.parts, **{name: OF_FRAMES[name] for name in self._ends}}
        self.identity = {**reward.identity, "frames": str(count)}

    @property
    def image_encoder(self) -> object:
        return self.reward.image_encoder

    def encode_images(self, pixels: Any) -> Any:
        """What the reward makes of the frames of all clips, (B * count, ...)."""
        return self.reward.encode_images(pixels)

    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        return self.reward.encode_prompts(prompts)

    def combine(self, images: Any, prompts: Any) -> Tensor:
        """Means (B,); a frame without a score leaves its clip without one, for its reason."""
        return self.combine_parts(images, prompts)[:, 0]

    def combine_parts(self, images: Any, prompts: Any) -> Tensor:
        """The same of every number of the reward, and the lowest and the last of its scores, (B, 1 + P + 2)."""
        repeat = torch.repeat_interleave if isinstance(prompts, Tensor) else np.repeat
        numbers = self.reward.combine_parts(images, repeat(prompts, self.count, 0)).float()
        said = self.reward.reasons
        if said is not None:
            rows = [said[start : start + self.count] for start in range(0, len(said), self.count)]
            self.reasons = [next(filter(None, row), None) for row in rows]
        frames = numbers.unflatten(0, (-1, self.count))
        scores = frames[..., 0]
        ends = {"min": scores.amin(1), "last": scores[:, -1]}
        return torch.cat([frames.mean(1), *(ends[name][:, None] for name in self._ends)], 1)
