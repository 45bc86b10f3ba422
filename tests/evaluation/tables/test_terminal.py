"""The terminal view."""

import io
from pathlib import Path

import pytest
from rich.console import Console, Group
from typer.testing import CliRunner

from stages.cli import app
from tests.evaluation.statistics.test_compare import BASE, PARAMS, TUNED, pairs_of
from tests.evaluation.tables.test_export import write
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.tables.terminal import show, view
from tgo_pipeline.rendering.table import decimals
from tgo_pipeline.storage.tables import write_table


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


def test_every_table_is_shown_in_a_terminal_with_its_notes(tmp_path: Path) -> None:
    write(tmp_path)
    for name, column in (("models", "Median"), ("matrix", "against"), ("hacking", "Verdict")):
        text = io.StringIO()
        Console(file=text, width=200).print(view(name, tmp_path / "evaluation.parquet"))
        assert column in text.getvalue() and "tuned" in text.getvalue()
        assert "\x1b" not in text.getvalue() and "\u202e" not in text.getvalue()
    assert isinstance(view("evaluation", tmp_path / "evaluation.parquet"), Group)
    with pytest.raises(TgoError, match="is not a table of the evaluation"):
        view("ratings", tmp_path / "evaluation.parquet")


def test_the_command_prints_tables_in_every_format(tmp_path: Path) -> None:
    tables = write(tmp_path, models=("base", "tuned"))
    path = str(tmp_path / "evaluation.parquet")
    for arguments, name in (
        (["--matrix"], "matrix"),
        (["--table", "hacking"], "hacking"),
        ([], "evaluation"),
    ):
        for form in ("md", "tex", "csv"):
            done = CliRunner().invoke(app, ["evaluation", path, *arguments, "--format", form])
            assert done.exit_code == 0
            assert done.stdout == (tables / f"{name}.{form}").read_text(encoding="utf-8")
    shown = CliRunner().invoke(app, ["evaluation", path])
    assert "the target rises at its cost" in " ".join(shown.stdout.split())
    assert "win rate" in shown.stdout and "all (prompts: 20, pairs: 60)" in shown.stdout
