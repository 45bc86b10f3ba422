"""What objectives there are and what each declares to need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fine_tune.objectives import OBJECTIVES, Batch, Objective, make_objective, objective_class
from tests.fine_tune.objectives.evaluate import objective
from tgo_pipeline.params import FineTuneParams

TRAINED_AS_MODULES = {"pgd", "cpgd"}
GUIDE = (Path(__file__).parents[3] / "docs" / "OBJECTIVES.md").read_text()
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<reference>yes|no) \| (?P<pairs>yes|no) \|", re.MULTILINE)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_are_made_from_the_parameters(name: str) -> None:
    made = make_objective(FineTuneParams(objective=name))
    assert type(made) is objective_class(name)


def test_what_each_needs() -> None:
    made = {name: objective(name) for name in OBJECTIVES}
    assert {name for name, each in made.items() if not each.needs_reference} == {
        "sft",
        "csft",
        "mapo",
        "rwr",
        "awr",
    }
    assert {name for name, each in made.items() if each.pairs} == {"dpo", "dspo", "mapo"}
    assert {name for name, each in made.items() if each.needs_contrast} == {"dspo", "nft"}
    assert {name for name, each in made.items() if each.reference_point} == {"kto", "bco"}
    assert {name for name, each in made.items() if each.prefixes} == {"csft"}


def classes() -> list[tuple[str, type[Objective]]]:
    return [(name, objective_class(name)) for name in OBJECTIVES]


def test_the_guide_says_what_each_needs() -> None:
    said = {row["name"]: (row["reference"] == "yes", row["pairs"] == "yes") for row in ROW.finditer(GUIDE)}
    assert said == {name: (each.needs_reference, each.pairs) for name, each in classes()}


def test_the_guide_has_a_section_for_every_objective() -> None:
    titles = {name for line in GUIDE.splitlines() if line.startswith("## ") for name in line[3:].split(", ")}
    assert set(OBJECTIVES) | TRAINED_AS_MODULES <= titles


def test_the_guides_own_objective_works() -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "Hinge" in block)
    names: dict[str, type] = {}
    exec(code, names)
    ones = torch.ones(2)
    losses, _ = names["Hinge"](FineTuneParams()).loss(
        torch.tensor([-1.0, 3.0]), torch.zeros(2), Batch(ones, ones, ones)
    )
    assert losses.tolist() == [2, 0]
