"""The five linear layers, without activations, that ImageReward and the LAION aesthetic predictor end in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (768, 1024, 128, 64, 16, 1)
_DROPOUT = (0.2, 0.2, 0.1, 0.0, 0.0)  # as published, like the widths; it acts in training alone
_LINEAR = (0, 2, 4, 6, 7)  # places of the linear layers in the official Sequential


class LinearHead(nn.Module):
    """Linear and dropout layers under the official keys `layers.{0,2,4,6,7}`; affine when it is not training."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (inner, outer), dropout in zip(pairwise(widths), _DROPOUT, strict=True):
            layers += [nn.Linear(inner, outer), *([nn.Dropout(dropout)] if dropout else [])]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        return self.layers(features).squeeze(-1)


def head_widths(state: dict[str, Tensor], prefix: str = "") -> list[int] | None:
    """The widths that the shapes of a state dict tell, input first; None if a layer is missing."""
    keys = [f"{prefix}layers.{place}.weight" for place in _LINEAR]
    if any(key not in state or state[key].ndim != 2 for key in keys):
        return None
    return [state[keys[0]].shape[1], *(state[key].shape[0] for key in keys)]
