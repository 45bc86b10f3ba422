"""Scoring many pictures with several rewards at once, without doing anything twice.

Pictures are decoded and prepared in threads, one batch ahead; each prepared tensor, each image encoding and each
distinct prompt is computed once for all rewards that share it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.base import Preparation, Reward
from tgo_pipeline.rewards.images import UnreadableImage, decode, to_rgb
from tgo_pipeline.rewards.preprocessing import ShortestSideCrop

Prepared = dict[Preparation, Tensor]
MAX_THREADS = 16


@dataclass
class Scores:
    """One float32 column (N,) per reward, NaN where `errors` has the reason that the picture could not be read."""

    columns: dict[str, np.ndarray]
    errors: dict[int, str] = field(default_factory=dict)


class Scorer:
    """Scores pictures (PIL, or encoded bytes) with prompts under several rewards, all on their own device."""

    def __init__(
        self, rewards: Mapping[str, Reward], batch_size: int = 64, threads: int | None = None
    ) -> None:
        self.rewards = dict(rewards)
        self.batch_size = batch_size
        self.threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
        share_towers(list(self.rewards.values()))
        self._preparations = {reward.preprocessing for reward in self.rewards.values()}

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image | bytes | None], prompts: Sequence[str]) -> Scores:
        """Score each picture with the prompt of the same place. Raises `TgoError` if their numbers differ."""
        if len(images) != len(prompts):
            raise TgoError(f"{len(images)} images and {len(prompts)} prompts: give one prompt per image.")
        columns = {name: np.full(len(images), np.nan, dtype=np.float32) for name in self.rewards}
        errors: dict[int, str] = {}
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        encoders = self.rewards.items() if distinct else ()
        encoded = {name: reward.encode_prompts(distinct) for name, reward in encoders}
        for rows, prepared in self._batches(images, errors):
            wanted = np.array([place[prompts[row]] for row in rows])
            for name, scores in self._score_batch(prepared, encoded, wanted).items():
                columns[name][rows] = scores.float().cpu().numpy()
        return Scores(columns, errors)

    def _score_batch(
        self, prepared: Sequence[Prepared], encoded: Mapping[str, Any], wanted: np.ndarray
    ) -> dict[str, Tensor]:
        pixels = {key: torch.stack([one[key] for one in prepared]) for key in self._preparations}
        seen: dict[tuple[int, Preparation], Tensor] = {}
        scores = {}
        for name, reward in self.rewards.items():
            encoder = (id(reward.image_encoder), reward.preprocessing)
            if encoder not in seen:
                seen[encoder] = reward.encode_images(pixels[reward.preprocessing].to(reward.device))
            scores[name] = reward.combine(seen[encoder], encoded[name][wanted])
        return scores

    def _batches(
        self, images: Sequence[Image.Image | bytes | None], errors: dict[int, str]
    ) -> Iterator[tuple[list[int], list[Prepared]]]:
        """Yield (rows, prepared pictures) of readable pictures, preparing one batch ahead; the rest go to `errors`."""
        starts = range(0, len(images), self.batch_size)
        with ThreadPoolExecutor(self.threads) as pool:

            def submit(start: int) -> list[Future[Prepared]]:
                """Start preparing the batch that begins at `start`; nothing beyond the last picture."""
                return [
                    pool.submit(self._prepare, image) for image in images[start : start + self.batch_size]
                ]

            waiting = submit(0) if images else []
            for start in starts:
                current, waiting = waiting, submit(start + self.batch_size)
                rows, prepared = [], []
                for row, future in enumerate(current, start):
                    try:
                        prepared.append(future.result())
                        rows.append(row)
                    except UnreadableImage as error:
                        errors[row] = str(error)
                if rows:
                    yield rows, prepared

    def _prepare(self, image: Image.Image | bytes | None) -> Prepared:
        picture = to_rgb(image) if isinstance(image, Image.Image) else decode(image)
        done: Prepared = {}
        for wanted in self._preparations:
            shared = wanted.shared(*picture.size) if isinstance(wanted, ShortestSideCrop) else wanted
            if shared not in done:
                done[shared] = shared(picture)
            done[wanted] = done[shared]
        return done


def share_towers(rewards: Sequence[Reward]) -> None:
    """Let rewards whose CLIP image towers are bit-identical use one object, so that it runs once per batch."""
    towers: list[Any] = []
    for reward in rewards:
        tower = getattr(reward, "tower", None)
        if tower is None:
            continue
        twin = next((other for other in towers if other.equals(tower)), None)
        if twin is None:
            towers.append(tower)
        else:
            reward.tower = twin
