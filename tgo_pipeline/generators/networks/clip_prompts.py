"""What CLIP's published tokenizer makes of a prompt before it splits it; imports no network library.

Models whose index names `CLIPTokenizer` were published with a tokenizer in Python, which repaired text with ftfy first:
typographic quotes become straight ones, full-width letters narrow ones. In transformers 5 the name stands for another
tokenizer, which does not: “it’s” gets other ids, and the text encoder sees a prompt unlike the one that the model's
authors gave it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

TOKENIZER = "CLIPTokenizer"
"""What an index calls it."""
VERSION = 2
"""Raise it when prompts become other tokens. It enters the fingerprints of those prompts alone."""


def published(text: str) -> str:
    """A text as the published tokenizer splits it: repaired, with single spaces, in lower case."""
    import ftfy
    import regex

    return regex.sub(r"\s+", " ", ftfy.fix_text(text)).strip().lower()


def words(text: str) -> list[str]:
    """What the published tokenizer makes byte pairs of. Characters that its expression has no part for are left out."""
    return _split().findall(published(text))


@functools.cache
def _split() -> Any:
    import regex

    parts = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return regex.compile(parts, regex.IGNORECASE)


def version(prompts: Iterable[str]) -> dict[str, int]:
    """What the fingerprint of prompts holds besides them: `VERSION` if one was read otherwise before, else nothing."""
    return {"clip_prompts": VERSION} if any(map(_read_otherwise, prompts)) else {}


def _read_otherwise(prompt: str) -> bool:
    if prompt.isascii() and prompt.isprintable() and "&" not in prompt:
        return False  # nothing to repair in nearly all prompts
    return published(prompt) != re.sub(r"\s+", " ", unicodedata.normalize("NFC", prompt)).strip().lower()
