"""Texts that would act where they are shown: in a page, a terminal, a spreadsheet, TeX, Markdown, a template."""

from __future__ import annotations

import re
from pathlib import Path

HTML = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=1 class=pwned><svg onload=window.pwned=1>"
)
PAYLOADS = [
    HTML,
    "\"'><b class=pwned>x</b>",
    "</script></title></style></textarea><b class=pwned>",
    "{{7*7}} {% raw %} ${7*7} <%= 7*7 %> #{7*7}",
    "a\u2028b\u2029c",
    "javascript:window.pwned=1",
    "[x](javascript:window.pwned=1)",
    "![x](http://127.0.0.1:9/p.png)",
    "<!-- --> ]]> -->",
    "</style><style>*{background:url(http://127.0.0.1:9/css)}</style>",
    "w" * 5000,
    "\u202egnp.exe\u202c",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "[bold red]markup[/] [/nope]",
    '=HYPERLINK("http://127.0.0.1:9","x")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "\\input{/etc/passwd}\\write18{id}",
    "$x^2_3$ & % # ~ \\ { }",
    "| a | b |\n|---|---|",
    "a\nb\r\nc",
    "# heading",
    "http://127.0.0.1:9/auto",
    "www.127.0.0.1.example",
    "@everyone #1",
    "<iframe src=http://127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/>",
    "<form action=http://127.0.0.1:9><input autofocus onfocus=window.pwned=1>",
    "---\nlicense: evil\n---",
    "`code` ```fence",
    "datum['x'] + alert(1)",
    "constructor.constructor('window.pwned=1')()",
    "__proto__",
    "toString",
    "%s %n %(x)s",
    "\x00\x07\x08\x0b\x7f\x9b31m",
    "é" * 300,
    "👩‍👩‍👧" * 50,
    "a\u200bb",
    "{0.__class__}",
    "';window.pwned=1;//",
    "\\';window.pwned=1;//",
    "<a href='javascript:window.pwned=1' class=pwned>x</a>",
    "&lt;b class=pwned&gt;",
    "\\u003cb class=pwned\\u003e",
]
NAMES = {  # of rewards, models and test sets
    "reward": ["<img src=x onerror=window.pwned=1 class=pwned>", "=1+1", "[red]x", "datum.x'\"]", "a.b[0]"],
    "model": ["</script><b class=pwned>", "@SUM(1)", "\x1b[31mm", "\\input{x}"],
    "set": ["<b class=pwned>set", "-2+3", "| x | y", "[x](javascript:window.pwned=1)"],
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
"""Characters that act on a terminal, or turn text around."""
EXERCISE = (Path(__file__).parent / "exercise.js").read_text()
"""Clicks, types and opens everything in a page; says as JSON what an input has become there."""
