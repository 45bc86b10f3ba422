"""One spelling per prompt, and its id."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

ID_DIGITS = 16
"""64 bits: among a billion prompts, two share an id with a chance of 3 in 100."""


def normalise(text: str) -> str:
    """Compose Unicode (NFC), turn every run of whitespace into one space and strip both ends; case is kept."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def prompt_id(text: str) -> str:
    """The first 64 bits of the SHA-256 of the normalised text, in hexadecimal."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:ID_DIGITS]


def set_hash(prompt_ids: Iterable[str]) -> str:
    """What a set of prompts is, whatever their order: the first 64 bits of the SHA-256 of its sorted ids."""
    return hashlib.sha256("\n".join(sorted(prompt_ids)).encode()).hexdigest()[:ID_DIGITS]
