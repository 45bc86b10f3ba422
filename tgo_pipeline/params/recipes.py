"""Recipes: complete parameter files for real models, which come with the package."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    from rich.table import Table

DEMO = "demo"
"""The recipe of the small world, which needs nothing but the package."""
PLACEHOLDER = "COMMIT"
"""What a recipe has where a revision is to be pinned."""


MODEL, WITH_MODEL = ("model", "revision"), {"generate", "fine_tune", "evaluate"}
"""The keys that say which model, and the stages that load it."""
_UNFILLED = re.compile(rf"(?:.*@)?{PLACEHOLDER}(?:/.*)?")


@dataclass(frozen=True)
class Recipe:
    """One parameter file; `text` is its YAML with the comments that say where each value is from."""

    name: str
    text: str

    @property
    def summary(self) -> str:
        """The first comment of the file, up to its first full stop."""
        lines = []
        for line in self.text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("# "))
        return _first_sentence(" ".join(lines))

    @property
    def steps(self) -> str:
        """The commands that lead to a tuned model; people may rate the samples before they are scored."""
        content = yaml_text.loads(self.text)
        drawn = content["generate"].get("source", "model") == "model"
        rated = "tgo run ..generate, tgo rate, " if drawn and content["score"].get("feedback") else ""
        return f"tgo doctor, tgo plan, {rated}tgo run all"

    def to_fill(self) -> list[tuple[int, str]]:
        """Number (from 1) and text of every line that has a revision to be filled in."""
        lines = enumerate(self.text.splitlines(), start=1)
        return [(number, line.split("#")[0].strip()) for number, line in lines if PLACEHOLDER in line]


def _first_sentence(text: str) -> str:
    end = next(
        (i for i, letter in enumerate(text) if letter == "." and text[i + 1 : i + 2] in ("", " ")), None
    )
    return text if end is None else text[: end + 1]


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order."""
    found = [
        Recipe(file.name.removesuffix(".yaml"), file.read_text("utf-8"))
        for file in resources.files("tgo_pipeline.params.recipe_files").iterdir()
        if file.name.endswith(".yaml")
    ]
    return {recipe.name: recipe for recipe in sorted(found, key=lambda recipe: recipe.name)}


def recipe(name: str) -> Recipe:
    """One recipe. Raises `TgoError` with the names that there are."""
    known = recipes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise TgoError(f"{name!r} is not a recipe.{hint} There are: {', '.join(known)}.")
    return known[name]


def use(name: str, to: Path, *, replace: bool) -> Recipe:
    """Write a recipe to `to`. Raises `TgoError` if a file is there that `replace` does not allow to go."""
    chosen = recipe(name)
    if to.is_dir():
        raise TgoError(f"{to} is a folder: name the file to write.")
    if to.exists() and not replace:
        raise TgoError(
            f"{to} exists already: keep it by naming another file (--to FILE), or replace it (--force)."
        )
    with atomic(to) as temporary:
        temporary.write_text(chosen.text, encoding="utf-8")
    return chosen


def table() -> Table:
    """Name, model, objective and summary of every recipe."""
    from rich import box
    from rich.table import Table

    shown = Table("recipe", "model", "what it is", box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    for each in recipes().values():
        shown.add_row(each.name, yaml_text.loads(each.text)["model"], each.summary)
    return shown


def require_filled(params: Any, stages: Collection[str]) -> None:
    """Raise `TgoError` naming the first parameter of these stages that still waits for a commit.

    Those are the sections of their names and what says which model; the hub would only say "not found".
    """
    sections = {*stages} | (set(MODEL) if WITH_MODEL.intersection(stages) else set())
    for key, value in _texts(dataclasses.asdict(params), ""):
        if key.split(".")[0] in sections and _UNFILLED.fullmatch(value):
            raise TgoError(
                f"{key} is {value}: replace {PLACEHOLDER} by the commit that you pin; `tgo doctor` shows the newest."
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of a section, and the sections in it, with its key in full."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
