"""Every key of params.yaml that is given as null: refused by its name, or what leaving it out is."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, load_params

FULL: dict[str, typing.Any] = {
    "prompts": {"test": {"plain": "demo:plain"}},
    "score": {"rewards": {"clip": "demo"}, "feedback": {"any": {"source": "r.csv", "kind": "rating"}}},
    "generate": {"guidance": {"positive": "demo", "negative": "demo"}},
    "fine_tune": {"reestimate": {"prompts": 3}},
}
OWN_MEANING = ("fine_tune.guard.negative_error", "fine_tune.guard.both_errors")
"""Null is not the default there: it switches the guard off."""


def keys(kind: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a section, and of the sections in it."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        here = (*path, field.name)
        yield here
        for part in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(part):
                named = typing.get_origin(hints[field.name]) is dict
                yield from keys(typing.cast(type, part), (*here, "any") if named else here)


def load(value: object, folder: Path) -> Params:
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(value))
    return load_params(file)


def without(path: tuple[str, ...], *, null: bool) -> dict[str, typing.Any]:
    """`FULL` with a key that is null, or left out."""
    value = copy.deepcopy(FULL)
    section = value
    for key in path[:-1]:
        section = section.setdefault(key, {})
    section.pop(path[-1], None)
    if null:
        section[path[-1]] = None
    return value


@pytest.mark.parametrize("path", list(keys(Params)), ids=".".join)
def test_null_is_refused_by_name_or_is_the_default(path: tuple[str, ...], tmp_path: Path) -> None:
    try:
        found = load(without(path, null=True), tmp_path)
    except TgoError as error:
        assert ".".join(path[:-1]) in str(error) and path[-1] in str(error)
        return
    if ".".join(path) not in OWN_MEANING:
        assert found == load(without(path, null=False), tmp_path)


def test_a_misspelt_key_is_refused_with_null_too(tmp_path: Path) -> None:
    with pytest.raises(
        TgoError, match=r"fine_tune\.lerning_rate is not a known key\. Did you mean learning_rate"
    ):
        load({**FULL, "fine_tune": {**FULL["fine_tune"], "lerning_rate": None}}, tmp_path)
