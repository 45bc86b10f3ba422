"""The feed-forward part of CLIP's blocks with as few kernels as a library has: OpenAI's approximation of GELU is three.

As with attention, the module here adopts the parameters of the one it replaces, so that checkpoints fit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers.models.clip.modeling_clip import CLIPMLP

QUICK = 1.702
"""Of quick_gelu(x) = x sigma(1.702 x) = silu(1.702 x) / 1.702."""


class QuickGeluMlp(nn.Module):
    """In place of transformers' `CLIPMLP` with `hidden_act: quick_gelu`.

    On a GPU the products take both factors in their accumulators, and one kernel is left between them, which reads and
    writes the widest tensor of a block once instead of three times. Elsewhere it computes as transformers does, to the
    bit: what was scored before should get the same score.
    """

    def __init__(self, replaced: CLIPMLP) -> None:
        super().__init__()
        self.fc1, self.fc2, self.activation_fn = replaced.fc1, replaced.fc2, replaced.activation_fn

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        if hidden_states.is_cuda:
            return self.fused(hidden_states)
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))

    def fused(self, hidden_states: Tensor) -> Tensor:
        """The same with the factors in the products; a bias on its own is what lets them end with it in one kernel."""
        rows = hidden_states.flatten(0, -2)
        scaled = torch.addmm(self.fc1.bias * QUICK, rows, self.fc1.weight.t(), alpha=QUICK)
        found = torch.addmm(self.fc2.bias, silu(scaled), self.fc2.weight.t(), alpha=1 / QUICK)
        return found.unflatten(0, hidden_states.shape[:-1])
