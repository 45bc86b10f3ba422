"""Images of the report for the documentation, taken by the same browser that tests it.

    TGO_SCREENSHOTS=docs TGO_SCREENSHOTS_OF=report.html python -m pytest tests/report/test_screenshots.py

writes `docs/report*.png` of the run whose report is named. Without the variables the images of a small invented run
go into a temporary folder, and the test says whether the documentation has each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.report.browser import NAMES, Browser, Page, find_browser
from tests.report.workspace import Workspace

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed")
DOCS = Path(__file__).parents[2] / "docs"
CARDS = "#gallery-cards"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


def _painted(page: Page) -> None:
    """Wait until every image in the window is decoded and two frames have been drawn."""
    page.run("Promise.all([...document.images].map(image => image.decode().catch(() => null)))")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _top(page: Page) -> None:
    page.run("scrollTo(0, 0)")


def _gallery(page: Page) -> None:
    page.choose("[name=sort]", "apart")
    page.run("document.querySelector('#gallery').scrollIntoView()")


def _detail(page: Page) -> None:
    _gallery(page)
    page.choose("[name=model]", "tuned")
    page.choose("[name=sort]", "gain")
    page.click(f"{CARDS} button")


def _adequacy(page: Page) -> None:
    page.run("document.querySelector('#adequacy').scrollIntoView()")


VIEWS: dict[str, tuple[Callable[[Page], None], int, int, float, str]] = {
    "report": (_top, 1360, 1640, 0.75, "light"),
    "report_gallery": (_gallery, 1280, 1060, 0.8, "light"),
    "report_detail": (_detail, 1280, 880, 0.8, "dark"),
    "report_adequacy": (_adequacy, 1280, 1120, 0.8, "light"),
    "report_phone": (_gallery, 360, 780, 1, "dark"),
}
"""File name to what the reader does, the window (CSS pixels), the image's pixels for each of them, the scheme."""


@pytest.mark.parametrize("name", VIEWS)
def test_images_for_the_documentation(
    browser: Browser, workspace: Workspace, tmp_path: Path, name: str
) -> None:
    folder = Path(os.environ.get("TGO_SCREENSHOTS", tmp_path))
    report = Path(os.environ.get("TGO_SCREENSHOTS_OF", workspace.report))
    act, width, height, scale, scheme = VIEWS[name]
    image = folder / f"{name}.png"
    with browser.open(report, width=width, height=height, scheme=scheme) as page:
        page.run("document.documentElement.style.scrollBehavior = 'auto'")
        page.resize(width, height, scale)
        act(page)
        _painted(page)
        page.screenshot(image)
        assert page.console == []
    taken = Image.open(image).convert("RGB")
    assert taken.size == (width * scale, height * scale)
    assert len(taken.getcolors(taken.width * taken.height) or []) > 50  # something is on it
    taken.save(image, optimize=True)
    assert (DOCS / f"{name}.png").is_file(), f"docs/{name}.png is missing: see the top of this file"
