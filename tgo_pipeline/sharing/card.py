"""Cards from their templates: facts in, Markdown out, checked as the hub's own library reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tgo_pipeline import __version__
from tgo_pipeline.rendering import markdown
from tgo_pipeline.sharing.facts import PAPER

if TYPE_CHECKING:
    from huggingface_hub import CardData, RepoCard

TEMPLATES = Path(__file__).with_name("templates")


def render(kind: type[RepoCard], template: str, data: CardData, **facts: Any) -> str:
    """The card of a `template`: `data` is its front matter, `facts` are what its words are about.

    A fact that the template asks for and does not get is an error. What others wrote (names, prompts, titles) must go
    through the filter `text` or `code` there: a card is a web page.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": markdown.text,
        "code": markdown.code,
        "fenced": markdown.fenced,
        "g": lambda number: f"{number:g}",
        "as_json": json.dumps,
        "as_yaml": lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True),
    }
    found = environment.get_template(template)
    return str(kind(found.render(front_matter=data.to_yaml(), paper=PAPER, version=__version__, **facts)))
