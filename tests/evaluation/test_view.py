"""The terminal view."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.evaluation.test_compare import BASE, PARAMS, TUNED, pairs_of
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.compare import evaluation_table
from tgo_pipeline.evaluation.view import decimals, show
from tgo_pipeline.tables import write_table


def _rendered(path: Path) -> str:
    text = io.StringIO()
    Console(file=text, width=140).print(show(path))
    return text.getvalue()


def test_show_names_sets_intervals_and_excluded_samples(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.parquet"
    write_table(
        evaluation_table(pairs_of([None, *BASE[1:]], TUNED), "r", PARAMS),
        path,
        {"confidence": 0.9, "excluded": 1},
    )
    text = _rendered(path)
    assert "all (prompts: 3, pairs: 5)" in text and "placed (prompts: 1, pairs: 2)" in text
    assert "r (target)" in text and "difference [90%]" in text and "+1.5000 │" in text
    assert "has no score: 1." in text


@pytest.mark.parametrize(("base_std", "places"), [(0.021, 5), (1.0, 3), (12.0, 2), (0.0, 4), (1e-9, 8)])
def test_decimals_show_a_thousandth_of_the_spread(base_std: float, places: int) -> None:
    assert decimals(base_std) == places


def test_show_of_nothing_says_which_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="run the stage"):
        show(tmp_path / "evaluation.parquet")
