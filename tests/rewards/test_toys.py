"""The demo's rewards are toys, and say so in every table, chart, page and card that people read."""

from __future__ import annotations

import csv
import json
import re

import pytest

from stages.cli import main
from tests.project import ROOT
from tests.report.workspace import REWARDS, Workspace, parameters, write_workspace
from tgo_pipeline.evaluation.tables import export
from tgo_pipeline.params import load_params
from tgo_pipeline.report.build import render
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.storage.tables import read_metadata, read_table, write_table

TOYS = {
    "score": {"rewards": dict.fromkeys(REWARDS, "demo")},
    "evaluate": {"rewards": {"oracle": "demo"}, "bootstrap": 400},
}
NAMES = (*REWARDS, "oracle", "mean_z")


def test_what_is_shown_is_marked_once() -> None:
    shown = ShownNames.of(
        {"clip": "demo", "pickscore": None, "mine": "folder"},
        {"mean_z": ["clip"], "majority": ["clip", "pickscore"], "mean_rank": []},
    )
    assert [*map(shown, ("clip", "pickscore", "mine", "mean_z", "majority", "mean_rank", "stars"))] == [
        "clip (demo)", "pickscore", "mine", "mean_z (demo)", "majority", "mean_rank", "stars"
    ]  # fmt: skip
    assert shown(shown("clip")) == "clip (demo)"
    assert shown.text("clip of tuned rose, pickscore and clip. clip/openai-l14 is clip (demo).") == (
        "clip (demo) of tuned rose, pickscore and clip (demo). clip/openai-l14 is clip (demo)."
    )
    assert shown.rows([{"reward": "clip", "n": 1}], "reward") == [{"reward": "clip (demo)", "n": 1}]


def test_the_demo_s_parameters_name_toys_alone() -> None:
    params = load_params(ROOT / "params.yaml")
    assert parameters().shown_names == ShownNames()
    assert params.shown_names.toys == {*params.score.rewards, *params.evaluate.rewards, "mean_z"}
    specs = {"mine": "clip=demo", "pickscore": None, "own": "numpy:mean"}
    assert parameters(score={"rewards": specs}, target={"reward": "mine"}).shown_names.toys == {"mine"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run with the demo's rewards, whose tables say so."""
    made = write_workspace(tmp_path_factory.mktemp("toys"), **TOYS)
    legend = {
        "rewards": {name: {"reward": name, "source": "demo"} for name in (*REWARDS, "oracle")},
        "target": {"mean_z": {"of": list(REWARDS)}},
    }
    for name in export.SCHEMAS:
        path = export.source(name, made.sources.evaluation, made.sources.evaluation_images)
        metadata = read_metadata(path)
        write_table(
            read_table(path), path, {**metadata, "excluded": 0, "legend": metadata["legend"] | legend}
        )
    for path in made.sources.scores.glob("*.parquet"):
        write_table(read_table(path), path, {"rewards": {name: {"source": "demo"} for name in REWARDS}})
    return made


def unmarked(text: str) -> list[str]:
    """Where a name stands in a text without its mark."""
    names = "|".join(re.escape(name) for name in NAMES)
    return re.findall(rf"(?<![\w.\"'])(?:{names})(?![\w.]| \(demo\)|\"?: ).{{0,40}}", text)


def test_every_table_of_the_evaluation(toys: Workspace) -> None:
    for name in export.SCHEMAS:
        path = export.source(name, toys.sources.evaluation, toys.sources.evaluation_images)
        for form in ("md", "tex"):
            text = export.text(name, path, form).replace("\\_", "_")
            assert "hpsv2.1 (demo)" in text and unmarked(text.split("Rewards")[0]) == []


@pytest.mark.parametrize(
    "words", [["thresholds"], ["thresholds", "--explain"], ["evaluation"], ["evaluation", "--matrix"]]
)
def test_every_table_of_the_terminal(
    toys: Workspace, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toys.folder)
    monkeypatch.setattr("sys.argv", ["tgo", *words])
    with pytest.raises(SystemExit):
        main()
    said = " ".join(capsys.readouterr().out.split())
    assert "mean_z (demo)" in said
    assert (
        "--explain" in words or unmarked(said) == []
    )  # whose narrow column may put a mark onto the next line
    assert said.count("(demo)") >= len(NAMES) - 1


def test_the_charts_and_csv_of_the_threshold_stage(toys: Workspace) -> None:
    plots = toys.sources.plots
    with (plots / "scores.csv").open() as stream:
        assert {row["reward"] for row in csv.DictReader(stream)} == {
            f"{name} (demo)" for name in (*REWARDS, "mean_z")
        }
    for name in (*REWARDS, "mean_z"):
        for folder in ("thresholds", "adequacy"):
            assert f"{name} (demo)" in (plots / folder / f"{name}.svg").read_text()


def test_the_report(toys: Workspace) -> None:
    page = render(toys.params, toys.sources)
    shown = re.findall(r"<bdi>([^<]*)</bdi>", page)
    assert {f"{name} (demo)" for name in NAMES} <= set(shown)
    assert not set(NAMES) & set(shown)
    islands = [
        json.loads(each)
        for each in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)
    ]
    (gallery,) = [each for each in islands if "rewards" in each]
    assert {each["name"] for each in gallery["rewards"]} == {f"{name} (demo)" for name in NAMES}
    assert gallery["target"] == "mean_z (demo)"
    for chart in islands:
        assert not set(NAMES) & set(strings(chart))


def strings(value: object) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [each for one in value.values() for each in strings(one)]
    return [each for one in value for each in strings(one)] if isinstance(value, list) else []
