"""Names that come from people, made safe to stand in a line of text."""

from __future__ import annotations

import unicodedata

LIMIT = 80
"""Characters of a name that are shown; the data keep all of it."""


def one_line(text: str, limit: int | None = LIMIT) -> str:
    """`text` without line breaks, control characters and what turns its direction around, cut to `limit`."""
    visible = "".join(map(_visible, text)).strip()
    if limit is not None and len(visible) > limit:
        return f"{visible[: limit - 1]}…"
    return visible or " "


def _visible(character: str) -> str:
    if character in "\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029":
        return " "
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") else character
