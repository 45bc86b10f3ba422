"""Numbers and outside text as the report shows them, and JSON that is safe inside a `<script>` element."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

NAME_LIMIT = 80
"""Characters of a name that are shown; the data keep all of it."""

MISSING = "–"
MINUS = "\u2212"
PROMPT_LIMIT = 2000
"""Characters of a prompt that are shown; text encoders read 77 to 512 tokens, which are fewer."""
_JOINERS = "\u200c\u200d"  # parts of ordinary words and emoji, unlike the other format characters
_UNSAFE_IN_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and a true minus sign; a dash for null, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return MISSING
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    if not -4 < magnitude < 6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return f"{value:.{max(0, digits - 1 - magnitude)}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """`value` with a sign and `digits` decimals, so that effects line up in a column; zero has none.

    What rounds to zero keeps its sign: an interval from just below zero must not look like one above it.
    """
    shown = fixed(value, digits)
    return f"+{shown}" if value is not None and math.isfinite(value) and value > 0 else shown


def decimals(spread: float | None) -> int:
    """How many decimals show a hundredth of `spread`, so that a column of scores is neither blurred nor noise."""
    if spread is None or not math.isfinite(spread) or spread <= 0:
        return 3
    return min(8, max(0, 2 - math.floor(math.log10(spread))))


def score(value: float | None, std: float | None) -> str:
    """`value` in score units, with the decimals that three digits of the standard deviation have."""
    if value is None or math.isnan(value):
        return MISSING
    if not std or math.isnan(std):
        return f"{value:.4g}"
    places = max(0, 2 - math.floor(math.log10(std)))
    return f"{value:.{places}f}" if places < 6 else f"{value:.1e}"  # more would only be zeros


def fixed(value: float | None, digits: int = 2) -> str:
    """`value` with `digits` decimals; what rounds to zero from below keeps its sign, zero has none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value + 0.0:.{digits}f}".replace("-", MINUS)


def percent(share: float | None, digits: int = 0) -> str:
    """A share from 0 to 1 as a percentage, the sign tied to its number."""
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{100 * share:.{digits}f}\u202f%".replace("-", MINUS)


def count(value: int) -> str:
    """A whole number with thin spaces between the thousands."""
    return f"{value:,}".replace(",", "\u202f")


def size(bytes_: int) -> str:
    """A size in bytes as kB or MB (powers of ten)."""
    return f"{bytes_ / 1e6:.1f} MB" if bytes_ >= 1e6 else f"{bytes_ / 1e3:.0f} kB"


def visible(text: str, limit: int = PROMPT_LIMIT) -> str:
    """Outside text on one line with every control and direction character spelled out, cut at `limit` characters.

    An unseen right-to-left override could otherwise reorder the page around a prompt. HTML is not escaped here:
    the templates do that.
    """
    spelled = "".join(_spell(character) for character in text[:limit])
    tail = f" … ({count(len(text))} characters)" if len(text) > limit else ""
    return spelled + tail


def _spell(character: str) -> str:
    if character in "\n\t\r":
        return " "
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return f"⟨U+{ord(character):04X}⟩" if hidden and character not in _JOINERS else character


def script_json(value: Any) -> str:
    """JSON that cannot end or open an element inside `<script>`: no `<`, `>`, `&`, U+2028 or U+2029, only ASCII.

    Raises `ValueError` for NaN and infinity, which are no JSON.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNSAFE_IN_SCRIPT)


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON has no word for it."""
    return value if value is not None and math.isfinite(value) else None


def one_line(text: str, limit: int | None = NAME_LIMIT) -> str:
    """`text` without line breaks, control characters and what turns its direction around, cut to `limit`."""
    visible = "".join(map(_visible, text)).strip()
    if limit is not None and len(visible) > limit:
        return f"{visible[: limit - 1]}…"
    return visible or " "


def _visible(character: str) -> str:
    if character in "\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029":
        return " "
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") else character
