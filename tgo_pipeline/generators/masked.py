"""Sample masked-token pipelines (aMUSEd, Meissonic) with a random generator for each image.

The scheduler of `diffusers` draws a whole batch from one generator, so an image would depend on its neighbours.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from diffusers.schedulers.scheduling_amused import AmusedScheduler, AmusedSchedulerOutput
from torch import Tensor

from tgo_pipeline.errors import TgoError


class ImageScheduler(AmusedScheduler):
    """`AmusedScheduler` that also takes a list of generators, one for each image of the batch.

    An image takes two uniform numbers a token and step from its generator: one picks the token by the inverse of the
    cumulative distribution, one becomes the Gumbel noise of its confidence. The logits never leave their device.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Any,
        starting_mask_ratio: float = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> AmusedSchedulerOutput | tuple:
        """Fill all masked tokens, then mask the least certain ones again (MaskGIT, Chang et al. 2022, section 3.2).

        `model_output` (B, V, H, W) logits, `sample` (B, H, W) tokens; the result's tokens are (B, H, W).
        """
        if generator is None or isinstance(generator, torch.Generator):
            return super().step(model_output, timestep, sample, starting_mask_ratio, generator, return_dict)
        if len(generator) != len(sample):
            raise TgoError(f"{len(sample)} images are drawn with {len(generator)} generators: give one each.")
        tokens, masked = sample.flatten(1), (sample == self.config["mask_token_id"]).flatten(1)
        probabilities = model_output.flatten(2).transpose(1, 2).float().softmax(-1)
        for_token, for_mask = _uniform(generator, tokens.shape[1]).to(tokens.device)
        filled = torch.where(masked, choose(probabilities, for_token), tokens)
        result = filled
        if timestep != 0:
            step = len(self.timesteps) - 1 - int(timestep)  # type: ignore[arg-type]  # wrongly annotated there
            chosen = probabilities.gather(-1, filled.masked_fill(~masked, 0)[..., None])[..., 0]
            confidence = chosen.clamp(min=1e-20).log() + self.temperatures[step] * gumbel(for_mask)  # type: ignore[index]
            most = int(tokens.shape[1] * (starting_mask_ratio * self._mask_ratio(step)))
            count = (masked.sum(1) - 1).clamp(max=most).clamp(min=1)
            again = lowest(confidence.masked_fill(~masked, torch.inf), count)
            result = filled.masked_fill(again, self.config["mask_token_id"])
        output = AmusedSchedulerOutput(result.view_as(sample), cast(Any, filled.view_as(sample)))
        return output if return_dict else (output.prev_sample, output.pred_original_sample)

    def _mask_ratio(self, step: int) -> Tensor:
        """The share of tokens that are masked after a step, counted from 0."""
        progress = torch.tensor((step + 1) / len(self.timesteps))  # type: ignore[arg-type]
        if self.config["masking_schedule"] == "linear":
            return 1 - progress
        return torch.cos(progress * math.pi / 2)


def choose(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """(B, N) classes drawn from `probabilities` (B, N, V), each by one number of `uniform` (B, N) in [0, 1)."""
    cumulative = probabilities.cumsum(-1)
    place = torch.searchsorted(cumulative, (uniform * cumulative[..., -1])[..., None], right=True)
    return place[..., 0].clamp(max=probabilities.shape[-1] - 1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers in [0, 1), with the limits of diffusers' own."""
    return -torch.log((-torch.log(uniform.clamp(min=1e-20))).clamp(min=1e-20))


def lowest(values: Tensor, count: Tensor) -> Tensor:
    """Which of `values` (B, N) are among the `count` (B,) smallest of their row."""
    return values.argsort(1).argsort(1) < count[:, None]


@contextlib.contextmanager
def seeded_by_image(pipeline: Any) -> Iterator[None]:
    """While it lasts, a masked-token pipeline takes a list of generators; other pipelines take one already."""
    scheduler = getattr(pipeline, "scheduler", None)
    if not isinstance(scheduler, AmusedScheduler):
        yield
        return
    pipeline.scheduler = ImageScheduler.from_config(scheduler.config)
    try:
        yield
    finally:
        pipeline.scheduler = scheduler


def _uniform(generators: Sequence[torch.Generator], count: int) -> Tensor:
    """(2, B, count) numbers in [0, 1), those of an image from its generator."""
    draws = [torch.rand(2, count, generator=each, device=each.device).cpu() for each in generators]
    return torch.stack(draws, dim=1)
