"""Checks of single parameter values; each names the parameter that it refuses."""

from __future__ import annotations

from typing import Literal

from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins.kinds import Kind

Precision = Literal["fp32", "bf16", "fp16"]


def named(kind: Kind, **values: str) -> None:
    """Refuse a name that no part of a kind has; a part of one's own is not imported."""
    for name, value in values.items():
        try:
            if value not in kind.also:
                kind.reference(value)
        except TgoError as error:
            raise TgoError(f"{name}: {error}") from None


def positive(**values: float | None) -> None:
    """Refuse a value that is given and not above 0."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise TgoError(f"{name} is {value}: it must be above 0.")


def not_negative(**values: float) -> None:
    """Refuse a value below 0."""
    for name, value in values.items():
        if not value >= 0:
            raise TgoError(f"{name} is {value}: it must be 0 or more.")


def fraction(**values: float) -> None:
    """Refuse a value that is not strictly between 0 and 1, with a hint where a percentage was meant."""
    for name, value in values.items():
        if 0 < value < 1:
            continue
        hint = f" For the {value:g}th percentile write {value / 100:g}." if 1 < value < 100 else ""
        raise TgoError(f"{name} is {value:g}: it must be a fraction strictly between 0 and 1.{hint}")
