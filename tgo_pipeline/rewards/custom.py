"""Rewards of your own: a function, or a class with weights, behind the same seam as the others.

    def brightness(images, prompts):  # RGB images (PIL) and as many texts
        return [ImageStat.Stat(image.convert("L")).mean[0] for image in images]

With an attribute `parts` ({name: meaning}) it gives rows of numbers: the score, then one for each part.

It is named `module:brightness`, or by an entry point of the group `tgo_pipeline.rewards` in an installed package. With
a method `score_tensor` it has a gradient too (docs/REWARDS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.devices import is_out_of_memory
from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins import find
from tgo_pipeline.rewards.base import Reward, as_objects, check_images
from tgo_pipeline.rewards.custom_identity import check_parts

RewardFunction = Callable[[list[Image.Image], list[str]], Sequence[Any]]
"""RGB images and as many prompts to as many numbers, or rows of numbers where it has `parts`; a number that is not
finite is an error of that image alone."""


@dataclass(frozen=True)
class AsIs:
    """The RGB image itself, at its own size, for code that does its own preparation."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image

    def finish(self, pixels: list[Image.Image]) -> list[Image.Image]:
        """The images as they are."""
        return pixels

    def differentiable(self, images: Tensor) -> Tensor:
        """Raises `TgoError`: there is no gradient."""
        raise TgoError("a reward that is a function of images has no gradients.")


class PlainReward(Reward):
    """A reward whose `combine` is given the images (RGB) and the prompts themselves."""

    def __init__(self, name: str, scale: str) -> None:
        super().__init__(name, scale, AsIs())

    def encode_images(self, pixels: list[Image.Image]) -> list[Image.Image]:
        """The images themselves."""
        return pixels

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """The prompts themselves, (B,)."""
        return as_objects(prompts)


class FunctionReward(PlainReward):
    """A reward that calls a function.

    Its attributes `scale`, `typical_range`, `needs_prompt` and `parts` are copied.
    """

    def __init__(self, name: str, function: RewardFunction) -> None:
        super().__init__(name, str(getattr(function, "scale", "as its author defines it")))
        self.function = function
        self.typical_range = getattr(function, "typical_range", None)
        self.needs_prompt = bool(getattr(function, "needs_prompt", True))
        self.parts: Mapping[str, str] = dict(getattr(function, "parts", None) or {})

    def combine(self, images: list[Image.Image], prompts: np.ndarray) -> Tensor:
        """The first column of `combine_parts`, (B,)."""
        return self.combine_parts(images, prompts)[:, 0]

    def combine_parts(self, images: list[Image.Image], prompts: np.ndarray) -> Tensor:
        """Call the function: (B, 1 + P). Raises `TgoError` if it raises, or gives other numbers than it should."""
        try:
            given = self.function(list(images), [str(prompt) for prompt in prompts])
        except Exception as error:
            if isinstance(error, TgoError) or is_out_of_memory(error):
                raise  # when memory runs out the engine tries a smaller batch
            raise TgoError(f"reward {self.name} raised {find.described(error)}") from error
        self.reasons = getattr(self.function, "reasons", None)
        rows = _rows(self.name, given, len(images), list(self.parts))
        return torch.tensor(rows, dtype=torch.float32).view(len(images), 1 + len(self.parts))

    @property
    def has_gradient(self) -> bool:
        """Whether the function or class has a `score_tensor` of its own."""
        return hasattr(self.function, "score_tensor")

    def score_tensor(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Call the function's own `score_tensor`. Raises `TgoError` if it raises, or gives no number per image."""
        if not self.has_gradient:
            return super().score_tensor(images, prompts)
        check_images(images, prompts)
        try:
            given = self.function.score_tensor(images, list(prompts))  # type: ignore[attr-defined]
        except Exception as error:
            if isinstance(error, TgoError) or is_out_of_memory(error):
                raise
            raise TgoError(f"reward {self.name}.score_tensor raised {find.described(error)}") from error
        if not isinstance(given, Tensor) or given.shape != (len(images),):
            said = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise TgoError(
                f"reward {self.name}.score_tensor gave {said} for {len(images)} images: expected a tensor "
                f"({len(images)},)."
            )
        if torch.is_grad_enabled() and images.requires_grad and not given.requires_grad:
            raise TgoError(
                f"reward {self.name}.score_tensor gave scores without a gradient to the images: compute them with "
                "torch alone, without detach or no_grad."
            )
        return given.float()


def load_custom(
    name: str,
    reference: str,
    source: str | None,
    device: torch.device | str,
    parts: Mapping[str, str] | None = None,
) -> Reward:
    """Build the reward that `module:object` names: a function, or a class that is called once with (source, device).

    `parts` are those that its file states. Raises `TgoError` if there is no such object, it cannot be built, what comes
    out cannot be called, or it has other parts.
    """
    reward = _built(name, reference, source, device)
    check_parts(name, reward.parts, parts or {})
    return reward


def _built(name: str, reference: str, source: str | None, device: torch.device | str) -> Reward:
    found = find.load(f"reward {name}", reference)
    if not isinstance(found, type):
        if source is not None:
            raise TgoError(f"reward {name} is a function, which has no source: leave out {source!r}.")
        return FunctionReward(name, _callable(name, reference, found))
    try:
        built = found(source, device)
    except TgoError:
        raise
    except Exception as error:
        raise TgoError(
            f"reward {name}: {reference}({source!r}, {str(device)!r}) raised {find.described(error)}"
        ) from error
    return built if isinstance(built, Reward) else FunctionReward(name, _callable(name, reference, built))


def _callable(name: str, reference: str, found: Any) -> RewardFunction:
    if hasattr(found, "__call__"):  # noqa: B004 - `callable` would forget the type
        return found
    raise TgoError(f"reward {name}: {reference} gives {type(found).__name__}, which cannot be called.")


def _rows(name: str, given: Any, expected: int, parts: Sequence[str]) -> list[list[float]]:
    """A row for each image, the score and its parts, from a sequence, an array or a tensor."""
    values = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TgoError(
            f"reward {name} gave {type(given).__name__} for {expected} images: expected a list of as many numbers."
        )
    if len(values) != expected:
        raise TgoError(
            f"reward {name} gave {len(values)} scores for {expected} images: expected one for each."
        )
    if not parts:
        return [[_number(name, place, value)] for place, value in enumerate(values)]
    return [
        [_number(name, place, number) for number in _row(name, place, row, parts)]
        for place, row in enumerate(values)
    ]


def _row(name: str, place: int, row: Any, parts: Sequence[str]) -> Sequence[Any]:
    """The numbers of one image, as many as the parts and the score."""
    numbers = row.tolist() if hasattr(row, "tolist") else row
    if isinstance(numbers, (list, tuple)) and len(numbers) == 1 + len(parts):
        return numbers
    raise TgoError(
        f"reward {name} gave {row!r} for image {place} of a batch: expected {1 + len(parts)} numbers, the score and "
        f"{', '.join(parts)}."
    )


def _number(name: str, place: int, value: Any) -> float:
    try:
        if not isinstance(value, str):
            return float(value)
        reason = ""
    except (TypeError, ValueError) as error:
        reason = f" ({error})"
    raise TgoError(
        f"reward {name} gave {value!r} for image {place} of a batch, which is not a number{reason}."
    )
