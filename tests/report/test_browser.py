"""The report in a real browser that has no network: what it draws, and that outside text stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.browser import NAMES, Browser, find_browser
from tests.report.workspace import Workspace

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed")
STOLEN = "document.documentElement.dataset.stolen"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


def test_every_chart_is_drawn_in_silence_and_without_the_network(
    browser: Browser, workspace: Workspace
) -> None:
    with browser.open(workspace.report) as page:
        assert page.run("document.documentElement.dataset.charts") == "drawn"
        holders = page.run("document.querySelectorAll('[data-chart]').length")
        widths = page.run("[...document.querySelectorAll('svg[role=img]')].map(s => s.clientWidth)")
        assert len(widths) == holders > 15
        assert min(widths) > 100
        assert page.run("[...document.querySelectorAll('svg[role=img]')].every(s => s.ariaLabel)")
        assert page.console == []
        assert page.requests == []


def test_a_hostile_prompt_is_text_and_runs_nothing(browser: Browser, workspace: Workspace) -> None:
    with browser.open(workspace.report) as page:
        text = page.run("document.body.textContent")
        assert f"<script>{STOLEN}" in text
        assert "{{ 7*7 }}" in text
        assert "⟨U+202E⟩" in text
        assert not page.run(STOLEN)
        assert not page.run("document.querySelectorAll('[onerror], [src=x]').length")


def test_the_policy_stops_what_an_escape_would_let_through(
    browser: Browser, workspace: Workspace, tmp_path: Path
) -> None:
    """Markup put in on purpose: shows that the checks above can fail, and that the page still runs nothing."""
    intruder = f"<script>{STOLEN}='yes'</script><img src='http://example.org/x.png'>"
    markup = workspace.report.read_text(encoding="utf-8").replace("<main", f"{intruder}<main", 1)
    guarded, open_ = tmp_path / "guarded.html", tmp_path / "open.html"
    guarded.write_text(markup, encoding="utf-8")
    open_.write_text(re.sub(r"<meta http-equiv[^>]*>", "", markup, count=1), encoding="utf-8")
    with browser.open(guarded) as page:
        assert page.run(STOLEN) is None
        assert page.requests == []
        assert len(page.console) >= 2
    with browser.open(open_) as page:
        assert page.run(STOLEN) == "yes"
        assert page.requests == ["http://example.org/x.png"]


@pytest.mark.parametrize(("width", "height"), [(1360, 900), (360, 780)], ids=["wide", "phone"])
def test_light_and_dark_are_painted_and_fit_the_width(
    browser: Browser, workspace: Workspace, tmp_path: Path, width: int, height: int
) -> None:
    with browser.open(workspace.report, width=width, height=height) as page:
        assert page.run("document.documentElement.scrollWidth") == width
        means = {}
        for scheme in ("light", "dark"):
            page.emulate(scheme)
            page.screenshot(tmp_path / f"{scheme}.png")
            pixels = np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("L"))
            assert pixels.shape == (height, width)
            means[scheme] = float(np.median(pixels))
        assert means["light"] > 230
        assert means["dark"] < 50


def test_a_table_that_is_cut_says_so_until_its_end_is_reached(browser: Browser, workspace: Workspace) -> None:
    cut = "document.querySelectorAll('.scroll[data-cut]').length"
    with browser.open(workspace.report, width=360, height=780) as page:
        page.until(f"{cut} > 2")
        place = "document.querySelector('#evaluation .scroll')"
        assert "more to the right" in page.run(f"getComputedStyle({place}, '::before').content")
        page.run(f"{place}.scrollLeft = 9999")
        page.until(f"!{place}.hasAttribute('data-cut')")
        page.resize(1360, 900)
        page.until(f"{cut} === 0")


def test_the_head_of_a_column_stands_where_its_cells_do(browser: Browser, workspace: Workspace) -> None:
    aligned = (
        "[...document.querySelectorAll('main table:not(.matrix):not(:has(thead.hidden))')].filter(table => {"
        "  const heads = [...table.tHead.rows[0].cells], side = (cell) => getComputedStyle(cell).textAlign;"
        "  const rows = [...table.tBodies].flatMap(body => [...body.rows]);"
        "  const whole = rows.filter(row => row.cells.length === heads.length);"
        "  return whole.some(row => heads.some((head, place) => side(row.cells[place]) !== side(head)));"
        "}).map(table => table.caption?.innerText ?? table.className)"
    )
    with browser.open(workspace.report) as page:
        assert page.run(aligned) == []
