"""YAML of people: names stay what was written, and what could be misread, is wrong or has no end is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.params.test_params import ROOT
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.yaml_text import loads
from tgo_pipeline.params import load_params

WORDS = [
    "no",
    "yes",
    "on",
    "off",
    "y",
    "n",
    "true",
    "null",
    "~",
    "012",
    "1_000",
    "12:30:45",
    "2024-01-01",
    "1e5",
]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("word", WORDS)
def test_a_key_is_the_text_that_was_written(word: str) -> None:
    assert loads(f"{word}: x\n") == {word: "x"} == loads(f"{{{word}: x}}", fast=True)
    assert loads(f"a: &a {{{word}: x}}\nb: {{<<: *a, on: z}}")["b"] == {word: "x"} | {"on": "z"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 012", "line 1: YAML reads 012 as another number: quote it"),
        ("a:\n - 12:30:45", "line 2: YAML reads 12:30:45 as another number"),
        ("a: -1:30.5", "line 1: YAML reads -1:30.5 as another number"),
        ("a: !!int x", "line 1: 'x' is no int .*quote it if it is text"),
        ("a: !!float x", "line 1: 'x' is no float"),
        ("a: !!bool x", "line 1: 'x' is no bool"),
        ("a: !!timestamp x", "line 1: 'x' is no timestamp"),
        ("a: 2024-13-45", "line 1: '2024-13-45' is no timestamp"),
        ("a: !!python/name:os.system x", "it is not YAML: could not determine a constructor"),
        ("a: 1\nb: 2\na: 3", "line 3: a is there twice"),
        ("? [a, b]\n: 1", "it is not YAML: .*unhashable key"),
        ("a: \x01", "it is not YAML: .*special characters"),
        ("a: &a [*a]", "line 1: an alias stands for what it is part of"),
        ("a: " + "[" * 5000, "nested too deep"),
        (BOMB, "line 6: it stands for more than 100,000 values"),
        ("a: [1", "it is not YAML: while parsing"),
        ("a: 1\n---\nb: 2", "it is not YAML: expected a single document"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TgoError, match=message) as said:
        loads(text)
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 500
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(TgoError, match=r"params\.yaml: "):
        load_params(path)


def test_plain_values_are_what_yaml_makes_of_them() -> None:
    text = "a: 1\nb: 0\nc: 1.5\nd: true\ne: no\nf:\ng: 0x10\nh: 1_000\ni: .inf\nj: 0.5\nk: '012'\nl: -3"
    assert list(loads(text).values()) == [
        1,
        0,
        1.5,
        True,
        False,
        None,
        16,
        1000,
        float("inf"),
        0.5,
        "012",
        -3,
    ]
    assert loads("") is None


@pytest.mark.parametrize("value", ["no", "on", "12", "1_000", "2024-01-01", "1.5", "[a]"])
@pytest.mark.parametrize("key", ["model", "prompts.train", "evaluate.models.mine"])
def test_a_value_that_is_no_text_is_refused_by_name(tmp_path: Path, key: str, value: str) -> None:
    import yaml

    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    *sections, last = key.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = yaml.safe_load(value)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(TgoError, match=rf"params\.yaml: {key} is .*must be text; put it in quotes"):
        load_params(tmp_path / "params.yaml")


def test_long_values_are_cut(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"prompts: [{', '.join(['x' * 99] * 999)}]\n")
    with pytest.raises(TgoError) as said:
        load_params(tmp_path / "params.yaml")
    assert len(str(said.value)) < 2200


def test_names_of_params_are_what_was_written(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    start, end = text.index("prompts:"), text.index("\ngenerate:")
    sets = "".join(f"    {word}: set.txt\n" for word in WORDS)
    path = tmp_path / "params.yaml"
    path.write_text(f"{text[:start]}prompts:\n  train: train.txt\n  test:\n{sets}{text[end:]}")
    assert list(load_params(path).prompts.test) == WORDS
