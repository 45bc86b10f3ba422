"""Objectives of one's own: their options, what of them enters fingerprints, and what is said of wrong losses."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune.job import _numbers
from fine_tune.objectives import Batch, make_objective
from tests.params.test_params import write
from tests.plugins.modules import project_folder
from tgo_pipeline.doctor.parameters import _own_parts
from tgo_pipeline.errors import TgoError
from tgo_pipeline.inputs import named_files
from tgo_pipeline.params import FineTuneParams, load_params, parse
from tgo_pipeline.plugins.folder import NotChecked, looking

MODULE = """
from dataclasses import dataclass

from fine_tune.objectives import Objective

@dataclass(frozen=True)
class Options:
    power: int
    gentle: bool = True

class Power(Objective):
    Options = Options
    def loss(self, policy, reference, batch):
        return policy ** self.options.power, {}

class Plain(Objective):
    def loss(self, policy, reference, batch):
        return policy.mean(), {}

class Alone(Plain):
    def loss(self, policy, reference, batch):
        return policy

class Paired(Plain):
    pairs = True
    def loss(self, policy, reference, batch):
        return policy, {}

class Odd(Plain):
    Options = dict
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `losses.py` in it, which is forgotten afterwards."""
    with project_folder(tmp_path, monkeypatch, losses=MODULE):
        yield tmp_path


def tuning(**values: Any) -> FineTuneParams:
    return parse(FineTuneParams, values, "fine_tune.")


def test_options_are_those_that_it_declares() -> None:
    made = make_objective(tuning(objective="losses:Power", options={"power": 3}))
    assert dataclasses.asdict(made.options) == {"power": 3, "gentle": True}
    ones = torch.ones(2)
    losses, _ = made(torch.tensor([2.0, -1.0]), None, Batch(ones, ones, ones))
    assert losses.tolist() == [8, -1]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("Power", {}, r"fine_tune\.options\.power is missing"),
        ("Power", {"power": 1.5}, r"fine_tune\.options\.power is 1\.5: it must be a whole number"),
        ("Power", {"power": 1, "gentel": 0}, r"options\.gentel is not a known key\. Did you mean gentle\?"),
        ("Plain", {"power": 1}, r"fine_tune\.options is given, but Plain has none"),
        ("Odd", {}, r"Odd\.Options must be a dataclass"),
    ],
)
def test_wrong_options_are_refused_by_name(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        make_objective(tuning(objective=f"losses:{name}", options=options))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Plain", r"Plain\.loss gave losses of shape Tensor: expected \(2,\)"),
        ("Alone", r"Alone\.loss gave Tensor: expected \(losses, metrics\)"),
        ("Paired", r"Paired\.loss gave losses of shape \(2,\): expected \(1,\)"),
    ],
)
def test_losses_of_a_wrong_kind_are_refused(name: str, reason: str) -> None:
    ones = torch.ones(2)
    with pytest.raises(TgoError, match=reason):
        make_objective(tuning(objective=f"losses:{name}"))(ones, ones, Batch(ones, ones, ones))


def test_code_and_options_are_what_a_training_depends_on(folder: Path) -> None:
    first = _numbers(tuning(objective="losses:Power", options={"power": 3}))
    assert _numbers(tuning(objective="losses:Power", options={"power": 2})) != first
    (folder / "losses.py").write_text(MODULE + "# changed\n")
    assert _numbers(tuning(objective="losses:Power", options={"power": 3})) != first
    assert not {"options", "policy", "own_objective"} & set(_numbers(tuning(objective="tgo")))


def test_commands_that_only_look_compare_the_file(folder: Path) -> None:
    given = load_params(
        write(folder, {"fine_tune/objective": "losses:Power", "fine_tune/options": {"power": 3}})
    )
    with looking():
        before = named_files.own_parts(given)
        with pytest.raises(NotChecked, match="not checked: objective losses:Power"):
            list(_own_parts(given))
        (folder / "losses.py").write_text(MODULE + "# changed\n")
        assert named_files.own_parts(given) != before
    assert "losses" not in sys.modules
    assert "objective losses:Power: can be imported" in next(_own_parts(given)).message
