"""Sheets as a LaTeX document of its own, with nothing but `tabular`: any TeX installation compiles it.

To take it into a paper as it is, `\\usepackage{docmute}` there and `\\input` the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tgo_pipeline.rendering.table import Sheet, Strong
from tgo_pipeline.rendering.text import NAME_LIMIT, one_line

if TYPE_CHECKING:
    from tgo_pipeline.rendering.table import Document

ROWS = 36
"""Rows of one tabular, which cannot be broken over pages: what a landscape page of A4 holds."""
HEAD = r"""\documentclass[a4paper,landscape]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage[margin=12mm]{geometry}
\setlength{\parindent}{0pt}
\setlength{\tabcolsep}{3pt}
\begin{document}
\scriptsize
\makeatletter
\providecommand{\tablecaption}[1]{\def\@captype{table}\belowcaptionskip=3pt\caption{#1}}
\makeatother
"""
"""A caption stands where it is, numbered like any other: a float for each table would be more than LaTeX can hold."""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "…": r"\dots{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "½": r"$\frac12$",
    "β": r"$\beta$",
    "τ": r"$\tau$",
}
_LATIN = range(0xC0, 0x100)
"""Accented letters, which `inputenc` knows without further packages."""


def escape(text: str, limit: int | None = NAME_LIMIT) -> str:
    """Text that stands for itself; a character that a plain TeX installation lacks is named by its code."""
    escaped = "".join(map(_escaped, one_line(text, limit)))
    return escaped.replace("--", "-{}-").replace("''", "'{}'").replace(",,", ",{},")


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if ord(character) < 128 or (ord(character) in _LATIN and character not in "×÷"):
        return character
    return f"{{[}}U+{ord(character):04X}{{]}}"


def render(document: Document) -> str:
    """The whole document: its title, every sheet, the legend."""
    parts = [rf"\section*{{{escape(document.title)}}}", *itertools.chain(*map(_sheet, document.sheets))]
    parts.append(r"\subsection*{Legend}" + "\n\\begin{raggedright}")
    for title, things in document.legend.items():
        lines = [rf"\textbf{{{escape(name)}}}: {escape(facts, None)}\par" for name, facts in things]
        parts.append("\n".join([rf"\textit{{{escape(title)}}}\par", *lines, r"\smallskip"]))
    parts.append("\\end{raggedright}")
    return HEAD + "\n\n".join(parts) + "\n\\end{document}\n"


def _sheet(sheet: Sheet) -> list[str]:
    """The sheet as tabulars of at most `ROWS` rows, each with the heading."""
    form = "l" * sheet.labels + "r" * (len(sheet.columns) - sheet.labels)
    heading = _line(sheet.columns)
    parts = []
    for start in range(0, max(len(sheet.rows), 1), ROWS):
        title = escape(sheet.title, None) + (" (continued)" if start else "")
        body = "\n".join(_line(row) for row in sheet.rows[start : start + ROWS])
        parts.append(
            f"\\begingroup\\tablecaption{{{title}}}\n\\begin{{tabular}}{{{form}}}\n\\hline\n{heading}\n\\hline\n"
            f"{body}\n\\hline\n\\end{{tabular}}\\par\\endgroup"
        )
    if sheet.note:
        parts[-1] += f"\n\n{escape(sheet.note, None)}\\par"
    return parts


def _line(cells: Sequence[str]) -> str:
    return (
        " & ".join(rf"\textbf{{{escape(c)}}}" if isinstance(c, Strong) else escape(c) for c in cells) + r" \\"
    )
