"""Outside text shows in a card as what it is, whatever it tries."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.report.workspace import HOSTILE
from tgo_pipeline.rendering.markdown import code, fenced, table, text


class Page(HTMLParser):
    """The tags, attributes and words of a rendered card."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(MarkdownIt("commonmark").enable("table").render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("show", [text, code])
@pytest.mark.parametrize(
    "outside",
    [
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1)) ![b](http://evil.example/p.png)",
        "# heading",
        "| cell | `code` **bold** _it_ ~~gone~~ $x^2$",
        "&lt;b&gt; &amp; \\*",
        "http://evil.example www.evil.example <http://evil.example> me@evil.example @everyone",
        HOSTILE,
    ],
)
def test_nothing_outside_becomes_a_part_of_the_page(show, outside: str) -> None:
    page = Page(f"before {show(outside)} after")
    assert set(page.tags) <= {"p", "code"}
    assert page.attributes == []


def test_a_right_to_left_override_and_a_line_break_are_spelled_out() -> None:
    assert Page(text("abc\u202egnp\nnew # line")).words.strip() == "abc⟨U+202E⟩gnp new # line"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp", "Zs"]), min_size=1))
def test_what_is_shown_is_what_was_given(outside: str) -> None:
    page = Page(table(["a"], [[text(outside, limit=10_000)]]))
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert "".join(page.words.split()) == "a" + "".join(outside.split())


def test_a_fence_is_longer_than_any_in_its_content() -> None:
    assert Page(fenced("a\n````\n<b>", "yaml")).words.rstrip() == "a\n````\n<b>"
