"""The report in a real browser that has no network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.browser import NAMES, Visit, find_browser, screenshot, visit
from tests.report.document import Document
from tests.report.workspace import Workspace

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed")


@pytest.fixture(scope="module")
def visited(workspace: Workspace) -> Visit:
    return visit(workspace.report)


def test_every_chart_is_drawn_and_the_console_stays_silent(visited: Visit) -> None:
    document = Document(visited.dom)
    assert document.attributes("html")[0]["data-charts"] == "drawn"
    holders = [attributes for _, attributes in document.elements if "data-chart" in attributes]
    drawings = [attributes for attributes in document.attributes("svg") if attributes.get("role") == "img"]
    assert len(drawings) == len(holders) > 15
    assert all(float(str(drawing["width"])) > 100 for drawing in drawings)
    assert all(drawing["aria-label"] for drawing in drawings)
    assert visited.console == []


def test_the_page_asks_the_network_for_nothing(visited: Visit) -> None:
    assert visited.requests == []


def test_a_hostile_prompt_is_text_and_runs_nothing(visited: Visit) -> None:
    document = Document(visited.dom)
    assert "<script>document.documentElement.dataset.stolen" in document.text
    assert "{{ 7*7 }}" in document.text
    assert "⟨U+202E⟩" in document.text
    assert "data-stolen" not in document.attributes("html")[0]
    assert not any("onerror" in attributes for _, attributes in document.elements)


def test_the_policy_stops_what_an_escape_would_let_through(workspace: Workspace, tmp_path: Path) -> None:
    """Markup put in on purpose: shows that the checks above can fail, and that the page still runs nothing."""
    intruder = (
        "<script>document.documentElement.dataset.stolen='yes'</script><img src='http://example.org/x.png'>"
    )
    page = workspace.report.read_text(encoding="utf-8").replace("<main", f"{intruder}<main", 1)
    guarded, open_ = tmp_path / "guarded.html", tmp_path / "open.html"
    guarded.write_text(page, encoding="utf-8")
    open_.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page, count=1), encoding="utf-8")
    with_policy, without = visit(guarded), visit(open_)
    assert "data-stolen" not in Document(with_policy.dom).attributes("html")[0]
    assert with_policy.requests == []
    assert len(with_policy.console) >= 2
    assert Document(without.dom).attributes("html")[0]["data-stolen"] == "yes"
    assert without.requests == ["http://example.org/x.png"]


@pytest.mark.parametrize(("width", "height"), [(1360, 900), (390, 844)], ids=["wide", "phone"])
def test_light_and_dark_are_painted(workspace: Workspace, tmp_path: Path, width: int, height: int) -> None:
    means = {}
    for dark in (False, True):
        picture = tmp_path / f"{dark}.png"
        screenshot(workspace.report, picture, width, height, dark)
        pixels = np.asarray(Image.open(picture).convert("L"))
        assert pixels.shape == (height, width)
        means[dark] = float(np.median(pixels))
    assert means[False] > 230
    assert means[True] < 50
