"""Supervised fine-tuning on one side: the plain training loss of the model family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.data.labels import NEGATIVE, POSITIVE
from fine_tune.objectives.base import Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor


class Sft(Objective):
    """The model's own error -T log pi, on positive samples; weights, beta and reference play no part.

    The other side never enters a batch: the trainer's mean is the mean over the side, so its denominator does not
    depend on how many other samples a batch would have held (as it does in Diffusion-KTO's `--loss sft`), and no
    forward pass is spent on a sample that teaches nothing. `side: negative` trains the negative module of cPGD (the
    official `--sft_mode lose`, arXiv 2602.18799).
    """

    needs_reference = False

    @property
    def sides(self) -> frozenset[int]:
        return frozenset((POSITIVE if self.params.sft.side == "positive" else NEGATIVE,))

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) errors."""
        return -batch.temperature * policy_log_likelihood, {}
