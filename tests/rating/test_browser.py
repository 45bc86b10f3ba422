"""The rating page in a real browser: keys, mouse and touch, undo, reload, pairs, several raters, a lost server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rating.conftest import Serve
from tests.report.browser import NAMES, Browser, Page, find_browser
from tgo_pipeline.feedback.ratings_file import read_records, standing
from tgo_pipeline.feedback.read import read
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.rating.server import RatingServer

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


def enter(page: Page, name: str) -> None:
    """Say who is rating, and wait for the first question."""
    page.until("document.activeElement.id === 'rater'")
    page.type(name)
    page.key("Enter")
    page.until("!document.querySelector('#question').hidden")


def done(page: Page, count: int, of: int = 60) -> None:
    """Wait until so many questions are answered."""
    page.until(f"document.querySelector('#count').innerText === '{count} of {of}'", 20)


def shown(page: Page, server: RatingServer) -> list[str]:
    """The names of the images that the page shows."""
    places = page.run("[...document.querySelectorAll('#images img')].map(e => +e.src.split('/').pop())")
    return [server.session.images[place].name for place in places]


def test_sixty_images_by_keys_and_mouse_with_undo_and_reload(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    to = tmp_path / "ratings.jsonl"
    said: dict[str, int] = {}
    with serve(to) as server, browser.open(server.address) as page:
        enter(page, "Ann")
        for number in range(60):
            name, stars = shown(page, server)[0], 1 + number % 5
            assert name not in said
            said[name] = stars
            if number % 2:
                page.key(str(stars))
            else:
                page.click(f"#controls [data-value='{stars}']")
            done(page, number + 1)
            if number == 20:  # a slip of the hand is taken back and said again
                page.key("u")
                done(page, 20)
                assert shown(page, server) == [name]
                assert page.text("#controls .chosen").startswith("★")
                page.key("5")
                said[name] = 5
                done(page, 21)
            if number == 40:
                page.go(server.address)
                done(page, 41)
        page.until("!document.querySelector('#finished').hidden")
        assert page.text("#finished h2").startswith("That was the last one")
        assert (page.console, page.requests) == ([], [])
    rows, empty = read(FeedbackParams(source=str(to), kind="rating", low=1, high=5))
    assert (dict(rows.select("image", "value").iter_rows()), empty) == (said, 0)
    assert set(rows["rater"]) == {"Ann"}
    taken = [each.seconds for each in standing(read_records(to)[0])]
    assert all(seconds is not None and 0 <= seconds < 60 for seconds in taken)


def test_two_raters_go_on_where_they_were_and_see_how_they_agree(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    to = tmp_path / "ratings.jsonl"
    with serve(to) as server, browser.open(server.address) as page:
        enter(page, "Ann")
        for count in range(1, 5):
            page.key(str(count))
            done(page, count)
        page.click("#who")
        enter(page, "Bob")
        done(page, 0)
        for count in range(1, 5):
            page.key(str(count))
            done(page, count)
        page.key("s")
        done(page, 5)
        page.click("summary")
        page.until("!!document.querySelector('#summary td')")
        assert page.texts("#summary tbody tr") == ["Ann\t4\t0\t0.0", "Bob\t4\t1\t0.0"]
        assert "1.00 on 4" in page.text("#summary p")
    with serve(to) as server, browser.open(server.address) as page:
        page.until("document.querySelectorAll('#known button').length === 2")
        page.click("#known button")
        done(page, 4)


def test_pairs_by_keys_mouse_and_touch(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    to = tmp_path / "pairs.jsonl"
    expected: list[tuple[str, str, float]] = []
    with serve(to, "pairs") as server, browser.open(server.address) as page:
        enter(page, "Ann")
        answers = [
            (1.0, lambda: page.key("ArrowLeft")),
            (0.0, lambda: page.key("ArrowRight")),
            (0.5, lambda: page.key("ArrowDown")),
            (1.0, lambda: page.click("#images button:first-child img")),
            (0.0, lambda: page.click("#controls [data-value='0']")),
        ]
        for count, (choice, act) in enumerate(answers, start=1):
            left, right = shown(page, server)
            assert left[:1] and int(left[:2]) // 3 == int(right[:2]) // 3  # of one prompt
            expected.append((left, right, choice))
            act()
            done(page, count)
        left, right = shown(page, server)
        expected.append((left, right, 0.0))
        x, y = page.place("#images button:last-child img")
        page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        done(page, 6)
        assert page.console == []
    rows, _ = read(FeedbackParams(source=str(to), kind="pair"))
    assert rows.select("first", "second", "choice").rows() == expected


def test_thumbs_by_keys_and_mouse(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    to = tmp_path / "thumbs.jsonl"
    with serve(to, "thumbs") as server, browser.open(server.address) as page:
        enter(page, "Ann")
        for count, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp"), start=1):
            page.key(key)
            done(page, count)
        page.click("#controls [data-value='1']")
        done(page, 5)
    rows, _ = read(FeedbackParams(source=str(to), kind="thumb"))
    assert rows["value"].to_list() == [0, 1, 0, 1, 1]


def test_the_page_says_that_an_answer_is_not_saved_and_saves_it_once(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    to = tmp_path / "ratings.jsonl"
    with serve(to) as server, browser.open(server.address) as page:
        enter(page, "Ann")
        page.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        page.key("4")
        page.until("document.querySelector('#problem').innerText.startsWith('Not saved yet')", 10)
        page.key("1")  # waits with the page
        page.call(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        done(page, 1)
        assert page.run("document.querySelector('#problem').hidden")
        assert [each.value for each in server.session.store.answers] == [4]


def test_names_and_prompts_from_outside_are_text(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "ratings.jsonl") as server, browser.open(server.address) as page:
        enter(page, "<img src=x onerror=alert(1)>")
        assert page.text("#prompt").startswith("prompt <b>")
        assert page.text("#name") == "<img src=x onerror=alert(1)>"
        page.key("3")
        done(page, 1)
        page.click("summary")
        page.until("!!document.querySelector('#summary td')")
        assert page.run("document.querySelectorAll('img[src=x], #prompt b').length") == 0
        assert page.console == []


@pytest.mark.parametrize("ask", ["stars", "pairs"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 740)], ids=["wide", "phone"])
def test_everything_fits_has_a_name_and_is_reached_by_tab(
    browser: Browser, serve: Serve, tmp_path: Path, ask: str, width: int, height: int
) -> None:
    with (
        serve(tmp_path / "r.jsonl", ask) as server,
        browser.open(server.address, width=width, height=height) as page,
    ):
        enter(page, "Ann")
        page.until("[...document.images].every(image => image.complete)")
        assert page.run("document.documentElement.scrollWidth") == width
        assert page.run("document.querySelector('#controls').getBoundingClientRect().bottom") <= height
        focused: Counter[str] = Counter()
        for _ in range(12):
            page.key("Tab")
            if page.run("document.activeElement === document.body"):  # the browser's own window has it
                continue
            focused[page.run("document.activeElement.ariaLabel || document.activeElement.innerText")] += 1
            assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        wanted = {"stars": ["1 star", "5 stars"], "pairs": ["The left image is better", "a tie"]}[ask]
        assert {*wanted, "Skip"} <= {name.removesuffix(" S") for name in focused}
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        unnamed = [
            node
            for node in tree
            if node.get("role", {}).get("value") in ("button", "image", "textbox")
            and not node.get("ignored")
            and not node.get("name", {}).get("value")
        ]
        assert unnamed == []
        for scheme, dark in (("light", False), ("dark", True)):
            page.emulate(scheme)
            page.screenshot(tmp_path / "page.png")
            middle = float(np.median(np.asarray(Image.open(tmp_path / "page.png").convert("L"))))
            assert middle < 60 if dark else middle > 220
