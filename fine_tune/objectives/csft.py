"""Conditional supervised fine-tuning: both sides, distinguished by a prefix of the prompt (HPSv1, arXiv 2303.14420)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fine_tune.data.labels import NEGATIVE, POSITIVE
from fine_tune.objectives.base import Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor


class Csft(Objective):
    """The model's own error -T log pi on both sides; the prefix teaches which is which.

    Published prefixes: "good image " and "bad image " (the baseline of Diffusion-KTO's paper), or none and
    "Weird image. " (HPSv1's code). The result is sampled with the positive prefix and the negative one as negative
    prompt: without them it is the mixture of both sides.
    """

    needs_reference = False

    @property
    def prefixes(self) -> Mapping[int, str]:
        return {POSITIVE: self.params.csft.positive_prefix, NEGATIVE: self.params.csft.negative_prefix}

    @property
    def sampling(self) -> Mapping[str, str]:
        """The words that positive samples were trained with, and those of negative ones to be drawn away from."""
        wanted = {
            "prompt_prefix": self.params.csft.positive_prefix,
            "negative_prompt": self.params.csft.negative_prefix.strip(),
        }
        return {key: text for key, text in wanted.items() if text}

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) errors."""
        return -batch.temperature * policy_log_likelihood, {}
