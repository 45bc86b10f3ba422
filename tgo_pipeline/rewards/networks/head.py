"""The small heads on an embedding that ImageReward and LAION's aesthetic predictors end in.

    LinearHead    five linear layers: ImageReward, LAION's second predictors `*-linearMSE.pth`
    ReluHead      the same with a ReLU behind each but the last: `*-reluMSE.pth`
    AffineHead    one linear layer: LAION's first predictors, `sa_0_4_vit_*_linear.pth`

Which one a checkpoint is of is told by its keys (`head_of`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

WIDTHS = (768, 1024, 128, 64, 16, 1)
_DROPOUT = (0.2, 0.2, 0.1, 0.0, 0.0)  # as published, like the widths; it acts in training alone


class LinearHead(nn.Module):
    """Linear and dropout layers under the official keys `layers.{0,2,4,6,7}`; affine when it is not training."""

    relu = False
    places: ClassVar[tuple[int, ...]] = (0, 2, 4, 6, 7)
    """Of the linear layers in the official Sequential."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (inner, outer), dropout in zip(pairwise(widths), _DROPOUT, strict=True):
            layers += [nn.Linear(inner, outer), *([nn.ReLU()] if self.relu and outer != widths[-1] else [])]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        return self.layers(features).squeeze(-1)


class ReluHead(LinearHead):
    """A `LinearHead` with a ReLU behind each layer but the last: keys `layers.{0,3,6,9,11}`."""

    relu = True
    places = (0, 3, 6, 9, 11)


class AffineHead(nn.Linear):
    """One linear layer under the keys `weight` and `bias`."""

    def __init__(self, widths: Sequence[int] = (WIDTHS[0], 1)) -> None:
        super().__init__(widths[0], widths[-1])

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        return super().forward(features).squeeze(-1)


Head = LinearHead | ReluHead | AffineHead
"""What gives one number for an embedding."""


def head_widths(
    state: Mapping[str, Tensor], prefix: str = "", places: Sequence[int] = LinearHead.places
) -> list[int] | None:
    """The widths that the shapes of a state dict tell, input first; None if a layer is missing."""
    keys = [f"{prefix}layers.{place}.weight" for place in places]
    if any(key not in state or state[key].ndim != 2 for key in keys):
        return None
    return [state[keys[0]].shape[1], *(state[key].shape[0] for key in keys)]


def head_of(state: Mapping[str, Tensor]) -> tuple[type[Head], list[int]] | None:
    """The kind of head that a state dict is of, and its widths; None if it is of none."""
    for kind in (LinearHead, ReluHead):
        if widths := head_widths(state, places=kind.places):
            return kind, widths
    weight = state.get("weight")
    if weight is not None and weight.ndim == 2 and len(weight) == 1:
        return AffineHead, [weight.shape[1], 1]
    return None
