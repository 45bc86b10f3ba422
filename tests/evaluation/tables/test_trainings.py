"""Several trainings as tables: marks of the demo's rewards, the last sheet's note, and colours."""

import io
import re

import pytest
from rich.console import Console

from tests.evaluation.worlds import scores
from tgo_pipeline.evaluation.statistics.trainings import TrainingGroups, trainings_table
from tgo_pipeline.evaluation.tables.trainings import TrainingsReport
from tgo_pipeline.params import EvaluateParams

NAMES = ("base", "tuned", "a", "b")


def report(noise: float = 0.5, **gains: float) -> TrainingsReport:
    found = scores({name: [gain] * 3 for name, gain in gains.items()}, models=NAMES, images=1, noise=noise)
    groups = TrainingGroups.named("tuned,a,b", None, NAMES)
    table = trainings_table(found, groups, "target", EvaluateParams(bootstrap=200), 0)
    legend = {
        "rewards": {"held": {"reward": "clip/openai-l14", "source": "demo"}},
        "models": {name: {"model": f"folder/{name}"} for name in (*NAMES, "other")},
    }
    return TrainingsReport(table, 0.95, 200, legend)


@pytest.mark.parametrize("form", ["md", "tex"])
def test_a_page_marks_toys_and_has_one_note_and_the_models_in_it(form: str) -> None:
    text = report(tuned=0.5, a=0.6, b=0.7).text(form)
    assert text.count("held (demo)") >= 3 and "target (target)" in text
    assert text.count("Mean of 3 trainings") == 1
    assert "folder/base" in text and "folder/other" not in text


def test_csv_has_the_names_of_the_columns() -> None:
    text = report(tuned=0.5, a=0.6, b=0.7).text("csv")
    assert "(demo)" not in text and ",held," in text


SKEWED = {"tuned": 0.2, "a": 0.2, "b": 2.0}
"""The bootstrap leaves zero out, Student's interval does not."""


@pytest.mark.parametrize(
    ("gains", "colours"),
    [
        (dict.fromkeys(NAMES[1:], 1.0), {"32"}),
        (dict.fromkeys(NAMES[1:], -1.0), {"31"}),
        (SKEWED, set()),
    ],
)
def test_a_colour_needs_both_intervals(gains: dict[str, float], colours: set[str]) -> None:
    made = report(noise=0.1, **gains)
    first = made.table.to_pylist()[0]
    assert first["difference_low"] > 0 or first["difference_high"] < 0
    shown = io.StringIO()
    Console(file=shown, width=200, force_terminal=True, color_system="standard").print(made.view())
    assert set(re.findall(r"\x1b\[[\d;]*(3[12])m", shown.getvalue())) == colours
