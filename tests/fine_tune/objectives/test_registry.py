"""What objectives there are and what each declares to need."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from fine_tune.objectives import OBJECTIVES, make_objective
from tests.fine_tune.objectives.evaluate import objective
from tgo_pipeline.params import FineTuneParams

TRAINED_AS_MODULES = {"pgd", "cpgd"}


def test_parameters_name_the_same_objectives() -> None:
    assert set(get_args(get_type_hints(FineTuneParams)["objective"])) == set(OBJECTIVES) | TRAINED_AS_MODULES


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_are_made_from_the_parameters(name: str) -> None:
    made = make_objective(FineTuneParams(objective=name))  # type: ignore[arg-type]
    assert type(made) is OBJECTIVES[name]


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
    assert {name for name, each in made.items() if each.needs_contrast} == {"dspo"}
    assert {name for name, each in made.items() if each.reference_point} == {"kto", "bco"}
    assert {name for name, each in made.items() if each.prefixes} == {"csft"}
