"""Exploring the gallery in a real browser: by mouse, finger and keys, on a wide screen and on a phone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import NAMES, Browser, Page, find_browser
from tests.report.workspace import Workspace
from tgo_pipeline.rendering.text import script_json

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed")
CARD = "#gallery-cards button"
PER_PAGE = 24
ISLAND = re.compile(r'(<script type="application/json" id="gallery-data">)(.*?)(</script>)', re.DOTALL)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def opened(browser: Browser, workspace: Workspace) -> Iterator[Page]:
    with browser.open(workspace.report) as page:
        page.run("document.documentElement.style.scrollBehavior = 'auto'")
        yield page


@pytest.fixture
def page(opened: Page) -> Iterator[Page]:
    """The one page of this module as it was when it was opened."""
    opened.run("for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close()")
    opened.run("document.activeElement.blur()")
    opened.run("document.querySelector('#gallery-controls').reset()")
    opened.run("new Promise(done => setTimeout(done))")
    yield opened
    assert opened.console == []
    assert opened.requests == []


@pytest.fixture(scope="module")
def island(workspace: Workspace) -> dict:
    found = ISLAND.search(workspace.report.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[2])


def rows(page: Page) -> list[int]:
    """The places of the samples on the page of cards in the island."""
    return page.run(f"[...document.querySelectorAll('{CARD}')].map(c => Number(c.dataset.row))")


def total(page: Page) -> int:
    """How many samples passed the filters, from the line that says so."""
    found = re.search(r"of ([\d\u202f]+) samples", page.text("#gallery-status"))
    return int(found[1].replace("\u202f", "")) if found else 0


def focused(page: Page) -> int:
    """The place of the focused card in the whole sequence."""
    return page.run("Number(document.activeElement.dataset.place ?? -1)")


def is_open(page: Page, dialog: str = "detail") -> bool:
    return page.run(f"document.getElementById('{dialog}').open")


def test_one_page_of_cards_is_there_highest_score_first(page: Page, island: dict) -> None:
    assert total(page) == len(island["id"]) == 336
    shown = rows(page)
    assert len(shown) == PER_PAGE
    scores = [island["scores"][0][row] for row in shown]
    known = sorted((score for score in island["scores"][0] if score is not None), reverse=True)
    assert scores == known[:PER_PAGE]
    assert page.text("#gallery-pages span") == "page 1 of 14"


def test_filters_agree_with_the_data(page: Page, island: dict) -> None:
    split, model = island["splits"].index("sized"), island["models"].index("tuned")
    page.choose("[name=split]", "sized")
    assert total(page) == sum(value == split for value in island["split"]) == 48
    page.choose("[name=model]", "tuned")
    assert total(page) == 16
    assert {island["model"][row] for row in rows(page)} == {model}
    page.choose("[name=split]", "")
    page.choose("[name=model]", "")
    for value, label in (("1", 1), ("0", 0), ("none", None)):
        page.choose("[name=label]", value)
        assert total(page) == island["label"].count(label)
    page.choose("[name=label]", "")
    page.choose("[name=error]", "yes")
    assert [island["errors"][island["error"][row]] for row in rows(page)] == [
        "OSError: image file is truncated"
    ]
    assert "truncated" in page.text(CARD)
    page.click("#gallery-controls [type=reset]")
    page.until(f"document.querySelectorAll('{CARD}').length === {PER_PAGE}")
    assert total(page) == 336


@pytest.mark.parametrize(
    ("order", "column", "largest"), [("apart", "disagreement", True), ("together", "disagreement", False)]
)
def test_sorting_by_disagreement(page: Page, island: dict, order: str, column: str, largest: bool) -> None:
    page.choose("[name=sort]", order)
    known = sorted((value for value in island[column] if value is not None), reverse=largest)
    assert [island[column][row] for row in rows(page)] == known[:PER_PAGE]
    assert "ranks apart" in page.text(CARD)


def test_the_shown_score_is_the_sorted_one_and_gains_are_over_base(page: Page, island: dict) -> None:
    names = [reward["name"] for reward in island["rewards"]]
    scores = island["scores"][names.index("oracle")]
    page.choose("[name=reward]", str(names.index("oracle")))
    page.choose("[name=sort]", "low")
    assert [scores[row] for row in rows(page)] == sorted(filter(None, scores))[:PER_PAGE]
    assert "oracle" in page.text(CARD)
    page.choose("[name=model]", "tuned")
    page.choose("[name=sort]", "gain")
    base = {
        island["id"][row]: scores[row]
        for row, m in enumerate(island["model"])
        if island["models"][m] == "base"
    }
    gains = [scores[row] - base[island["id"][row]] for row in rows(page)]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0
    assert "against base +" in page.text(CARD)


def test_search_ignores_case_accents_and_order(page: Page, island: dict) -> None:
    wanted = {place for place, text in enumerate(island["prompts"]) if "red" in text and "circle" in text}
    expected = sum(prompt in wanted for prompt in island["prompt"])
    for query in ("red circle", "CÍRCLE  Réd"):
        page.run("document.querySelector('[name=query]').value = ''")
        page.click("[name=query]")
        page.type(query)
        assert total(page) == expected > 0
    page.type(" nothing has this")
    assert "No sample fits" in page.text("#gallery-status")
    assert rows(page) == []


def test_pages_turn_by_button_and_key(page: Page) -> None:
    first = rows(page)
    page.click("#gallery-pages button:last-child")
    second = rows(page)
    assert not set(first) & set(second)
    assert "25 to 48" in page.text("#gallery-status")
    page.key("n")
    assert page.text("#gallery-pages span") == "page 3 of 14"
    page.key("p", "p")
    assert rows(page) == first
    assert page.run("document.querySelector('#gallery-pages button').disabled")


def test_keys_walk_over_cards_and_on_over_pages(page: Page) -> None:
    page.key("/")
    assert page.run("document.activeElement.name") == "query"
    page.type("circle")
    page.key("Enter")
    assert focused(page) == 0
    columns = page.run(f"new Set([...document.querySelectorAll('{CARD}')].map(c => c.offsetLeft)).size")
    page.key("ArrowRight", "ArrowDown")
    assert focused(page) == 1 + columns
    page.key("ArrowUp", "ArrowLeft", "ArrowLeft")
    assert focused(page) == 0
    page.key("End")
    assert focused(page) == PER_PAGE - 1
    page.key("ArrowRight")
    assert (focused(page), page.text("#gallery-pages span")[:6]) == (PER_PAGE, "page 2")
    assert page.run("document.activeElement.matches(':focus-visible')")
    assert page.run(f"[...document.querySelectorAll('{CARD}')].filter(c => c.tabIndex === 0).length") == 1
    page.key("/", "Escape")
    assert page.run("document.querySelector('[name=query]').value") == ""
    page.key("Escape")
    assert focused(page) == 0


def test_the_detail_view_shows_everything_and_gives_the_focus_back(page: Page, island: dict) -> None:
    page.choose("[name=split]", "training")
    row = rows(page)[0]
    page.run(f"document.querySelector('{CARD}').focus()")
    page.key("Enter")
    assert is_open(page)
    text = page.text("#detail")
    for reward, column in zip(island["rewards"], island["scores"], strict=True):
        assert reward["name"] in text
        if column[row] is not None:
            assert f"{column[row]:.{reward['decimals']}f}".replace("-", "\u2212") in text
    assert island["seed"][row] in text and island["id"][row] in text and "positive" in text
    page.key("ArrowRight")
    assert page.text("#detail h2") == "Sample 2 of 192"
    page.key("n", "p", "p")
    assert page.text("#detail h2") == "Sample 1 of 192"
    page.key("Escape")
    assert not is_open(page)
    assert focused(page) == 0


def test_a_slider_parts_base_and_tuned_by_mouse_touch_and_keys(page: Page) -> None:
    page.choose("[name=model]", "tuned")
    page.click(CARD)
    cut = "Number(document.querySelector('.compare input').value)"
    assert page.run(cut) == 50
    sources = page.run("[...document.querySelectorAll('.compare img')].map(i => i.src)")
    assert len(set(sources)) == 2
    page.drag(".compare input", 0.5, 0.8)
    assert page.run(cut) == pytest.approx(80, abs=1)
    assert (
        page.run("document.querySelector('.compare').style.getPropertyValue('--cut')") == f"{page.run(cut)}%"
    )
    page.swipe(".compare input", 0.8, 0.25)
    assert page.run(cut) == pytest.approx(25, abs=1)
    page.key("ArrowRight", "ArrowRight")
    assert page.run(cut) == pytest.approx(27, abs=1)
    assert page.text("#detail h2").startswith("Sample 1 of")
    assert "% base" in page.run("document.querySelector('.compare input').ariaValueText")


def test_a_pair_of_the_text_opens_in_the_same_view(page: Page) -> None:
    page.click("[data-compare]")
    assert is_open(page)
    assert page.text("#detail h2") == "Before and after"
    assert "mean_z" in page.text("#detail table") and "difference" in page.text("#detail thead")
    assert page.run("document.querySelectorAll('#detail .compare .pixelated').length") == 2
    page.key("ArrowRight", "Escape")
    assert not is_open(page)
    assert page.run("document.activeElement.matches('[data-compare]')")


def test_a_hostile_prompt_is_text_in_card_detail_and_search_and_stays_small(page: Page) -> None:
    page.click("[name=query]")
    page.type("<script>document")
    found = total(page)
    assert found > 0
    assert "<script>document.documentElement" in page.text(f"{CARD} .prompt")
    heights = page.run(f"[...document.querySelectorAll('{CARD} .prompt')].map(p => p.offsetHeight)")
    assert max(heights) < 80
    page.type(" very long")
    page.click(CARD)
    prompt = page.text("#detail .prompt")
    assert "⟨U+202E⟩" in prompt and "(10\u202f" in prompt
    assert page.run("document.querySelector('#detail .prompt').offsetHeight") < 300
    assert page.run("document.documentElement.dataset.stolen") is None
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_theme_goes_round_and_is_remembered(page: Page, workspace: Workspace) -> None:
    def paper() -> str:
        return page.run("getComputedStyle(document.body).backgroundColor")

    light = paper()
    assert page.text("#theme") == "theme: auto"
    page.click("#theme")
    assert (page.text("#theme"), paper()) == ("theme: light", light)
    page.key("t")
    dark = paper()
    assert page.text("#theme") == "theme: dark" and dark != light
    page.go(workspace.report)
    assert (page.text("#theme"), paper()) == ("theme: dark", dark)
    page.click("#theme")
    assert (page.text("#theme"), paper()) == ("theme: auto", light)
    page.emulate("dark")
    assert paper() == dark


def test_keys_are_listed_and_single_letters_can_be_switched_off(page: Page, workspace: Workspace) -> None:
    page.key("?")
    assert is_open(page, "help")
    page.click("#help input")
    page.key("Escape")
    page.key("n")
    assert page.text("#gallery-pages span") == "page 1 of 14"
    page.click("#keys")
    page.click("#help input")
    page.click("#help [data-close]")
    page.key("n")
    assert page.text("#gallery-pages span") == "page 2 of 14"


def test_on_a_phone_all_of_it_fits(browser: Browser, workspace: Workspace) -> None:
    with browser.open(workspace.report, width=360, height=740) as page:
        fits = "document.documentElement.scrollWidth <= 360"
        assert page.run(fits)
        page.choose("[name=model]", "tuned")
        page.click(CARD)
        box = page.run("(b => [b.left, b.right])(document.getElementById('detail').getBoundingClientRect())")
        assert 0 <= box[0] < box[1] <= 360
        assert page.run(
            "document.querySelector('#detail').scrollWidth <= document.querySelector('#detail').clientWidth"
        )
        page.key("Escape")
        page.click("#keys")
        assert page.run("document.querySelector('#help').scrollWidth <= 360") and page.run(fits)
        assert page.console == []


def test_on_paper_the_gallery_gives_way_and_colours_are_light(browser: Browser, workspace: Workspace) -> None:
    with browser.open(workspace.report, width=794, scheme="dark", media="print") as page:
        assert page.run("document.querySelector('#gallery-cards').offsetHeight") == 0
        assert page.run("document.querySelector('.on-paper').offsetHeight") > 0
        assert page.run("document.querySelector('.tools').offsetHeight") == 0
        ink = "getComputedStyle(document.querySelector('.drawing text')).fill"
        channels = [int(part) for part in re.findall(r"\d+", page.run(ink))[:3]]
        assert max(channels) < 130
        names = page.run("[...document.querySelectorAll('.pairs .values th')].map(th => th.clientWidth)")
        assert min(width for width in names if width) > 40
        assert page.run("[...document.querySelectorAll('.card')].every(c => c.scrollWidth <= c.clientWidth)")
        assert page.pdf().startswith(b"%PDF")


def test_thousands_of_samples_put_one_page_of_cards_into_the_document(
    browser: Browser, workspace: Workspace, island: dict, tmp_path: Path
) -> None:
    times = 9
    listed = ("rewards", "splits", "models", "prompts", "errors", "scores", "target", "training")
    many = {name: value if name in listed else value * times for name, value in island.items()}
    many["scores"] = [column * times for column in island["scores"]]
    many["id"] = [f"{id_}-{place}" for place, id_ in enumerate(many["id"])]
    markup = workspace.report.read_text(encoding="utf-8")
    large = tmp_path / "large.html"
    large.write_text(
        ISLAND.sub(lambda found: found[1] + script_json(many) + found[3], markup), encoding="utf-8"
    )
    with browser.open(large) as page:
        assert total(page) == 336 * times > 3000
        for name, value in (("split", "training"), ("sort", "apart"), ("label", "1"), ("sort", "low")):
            page.choose(f"[name={name}]", value)
            assert len(rows(page)) == PER_PAGE
        assert page.run("document.querySelectorAll('#gallery *').length") < 600
        assert page.run("document.querySelectorAll('#gallery img').length") == PER_PAGE
        assert page.console == []
