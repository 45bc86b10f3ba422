"""Prompts put together at random from what people type and what broken files hold, for tokenizers to agree on."""

from __future__ import annotations

import random
from collections.abc import Callable

WORDS = [
    "a",
    "an",
    "the",
    "photo",
    "of",
    "cat",
    "dog",
    "it",
    "he",
    "don",
    "castle",
    "lighthouse",
    "astronaut",
    "8K",
    "HDR",
    "trending",
    "ArtStation",
    "Café",
    "naïve",
    "Ångström",
]
QUOTES = ("’s", "'s", "’S", "“", "”", "‘", "’", "„", "«", "»", "′", "″", "`", "´", "’re", "‘t", "'ſ", "’ll")
MARKS = (
    "…",
    "—",
    "–",
    "-",
    "!!",
    "!",
    "??",
    "(masterpiece:1.3)",
    "--ar 16:9",
    "#tag",
    "@user",
    "50%",
    "$5",
    "<3",
    "\\",
)
SCRIPTS = (
    "宇航员在月球上",
    "قطة",
    "बारिश",
    "лиса",
    "夕焼け",
    "고양이",
    "ไทย",
    "שלום",
    "ΟΔΥΣΣΕΥΣ",
    "İstanbul",
    "STRASSE ß ẞ",
)
EMOJI = ("🐱", "👩‍🚀", "🏳️‍🌈", "❄️", "👍🏽", "☺", "⭐️", "🇫🇷", "1️⃣")
WIDE = ("ＦＵＬＬ　ｗｉｄｔｈ", "ﬁne", "oﬃce", "Ⅷ", "½", "x²", "①", "㎏", "ｶﾀｶﾅ", "K", "ﷺ")
HTML = (
    "&amp;",
    "&lt;b&gt;",
    "&quot;",
    "&#39;s",
    "&amp;amp;",
    "&nbsp;",
    "&eacute;",
    "<b>bold</b>",
    "AT&T",
    "&",
)
BROKEN = ("â€œ", "â€™s", "sÃ£o", "Ã©", "\ufffd", "é", "ÃƒÂ¶", "å\u0308", "o\u0302\u0323")
SPACES = (" ", " ", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2009", "\u200b", "", "", "\u2028")
CONTROL = ("\x00", "\x07", "\x1b[31m", "\ufeff", "\u202e", "\u00ad", "\x85", "\x7f", "\x1c")
KINDS = (WORDS, WORDS, WORDS, QUOTES, MARKS, SCRIPTS, EMOJI, WIDE, HTML, BROKEN, CONTROL)
RANGES = (
    (0x20, 0x7F),
    (0xA0, 0x250),
    (0x300, 0x370),
    (0x370, 0x600),
    (0x2000, 0x2BFF),
    (0x3000, 0x3100),
    (0x1F300, 0x1FAFF),
)


def fuzzed_prompts(count: int, seed: int = 0, specials: tuple[str, ...] = ()) -> list[str]:
    """So many prompts; `specials` are further pieces, such as a tokenizer's own tokens."""
    draw = random.Random(seed)
    kinds = (*KINDS, specials) if specials else KINDS

    def pieces() -> str:
        length = draw.choice((1, 2, 4, 8, 16, 60))
        return "".join(draw.choice(draw.choice(kinds)) + draw.choice(SPACES) for _ in range(length))

    def characters() -> str:
        return "".join(chr(draw.randrange(*draw.choice(RANGES))) for _ in range(draw.randrange(1, 40)))

    makers: tuple[Callable[[], str], ...] = (pieces, pieces, pieces, characters)
    return [draw.choice(makers)() for _ in range(count)]
