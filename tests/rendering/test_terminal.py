"""Nothing from outside acts on a terminal, and every letter has a form on each."""

from __future__ import annotations

import io
import logging

import pytest
from rich.table import Table

from tgo_pipeline.executors.progress import _Line
from tgo_pipeline.rendering.terminal import console, safe

HOSTILE = "a\x1b[31mb\x1b]0;title\x07\u202ec\u2066d\x9b2Je\rf\ng"


def test_a_line_stays_one_line_and_spells_what_would_act() -> None:
    line = safe(HOSTILE)
    assert line == "a⟨U+001B⟩[31mb⟨U+001B⟩]0;title⟨U+0007⟩⟨U+202E⟩c⟨U+2066⟩d⟨U+009B⟩2Je f g"
    assert len(safe("x" * 10_000)) < 4100


def test_tables_and_colours_of_a_console_pass_and_hostile_cells_do_not() -> None:
    stream = io.StringIO()
    screen = console(file=stream, force_terminal=True, width=80)
    table = Table("name")
    table.add_row("[red]fine[/]")
    table.add_row(HOSTILE.replace("\n", ""))
    screen.print(table, "τ – é 👩‍👩‍👧", markup=True)
    shown = stream.getvalue()
    assert "\x1b[31mfine" in shown and "τ – é 👩‍👩‍👧" in shown
    for act in ("\x1b]", "\x07", "\u202e", "\u2066", "\x9b", "b\r"):
        assert act not in shown
    assert "⟨U+001B⟩[31mb" in shown


@pytest.mark.parametrize("argument", [HOSTILE, ValueError(HOSTILE)])
def test_a_log_line_is_harmless(argument: object) -> None:
    record = logging.LogRecord("tgo", logging.INFO, "", 0, "read %s", (argument,), None)
    line = _Line("%(message)s").format(record)
    assert line.isprintable() and "\n" not in line
