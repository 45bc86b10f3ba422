"""A demo that commit 7928eb6 finished is still finished: no stored fingerprint has changed since.

`finished_demo/` is what that commit's `dvc repro` left, as far as `tgo status` reads it: tables without images and
rows that play no part, the tuned model's description, and `params.yaml`. A key that is new since then must not enter
a fingerprint at its default, or every user's finished work would be computed again. What changed since on purpose has a
version of its own: the adequacy table, which nothing else depends on, and the code of HPSv2 and of PickScore, whose
columns are computed again.
"""

import shutil
from pathlib import Path

import pytest

from stages.commands.status import table
from tgo_pipeline.evaluation.stage import plan as plan_evaluation
from tgo_pipeline.params import load_params
from tgo_pipeline.storage.shards import Status, status
from tgo_pipeline.storage.tables import read_metadata
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.thresholds.adequacy.table import ADEQUACY, write_adequacy
from tgo_pipeline.thresholds.stage import planned_mark

FINISHED = {"prompts": 1, "generate": 6, "label": 6, "fine_tune": 78}
"""What is done of each stage: tables, shards, or steps of training."""


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(Path(__file__).parent / "finished_demo", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_stage_of_an_old_demo_is_done(demo: Path) -> None:
    shown = table(load_params(demo / "params.yaml"))
    columns = [list(column.cells) for column in shown.columns]
    rows = {stage: numbers for stage, *numbers in zip(*columns[:4], strict=True)}
    assert {stage: rows[stage] for stage in FINISHED} == {
        stage: [str(done), "0", "0"] for stage, done in FINISHED.items()
    }


def test_of_the_scores_two_columns_are_stale_and_the_status_says_why(demo: Path) -> None:
    shown = table(load_params(demo / "params.yaml"))
    rows = {
        stage: rest for stage, *rest in zip(*(list(column.cells) for column in shown.columns), strict=True)
    }
    assert rows["score"][:3] == ["0", "6", "0"]
    assert "hpsv2.1 is of version 2 of its code, now 3: " in rows["score"][-1]
    assert "pickscore is of version 2 of its code, now 3: " in rows["score"][-1]
    assert rows["score"][-1].count("is of version") == 2


def test_of_the_threshold_stage_the_adequacy_table_alone_is_stale(demo: Path) -> None:
    params = load_params(demo / "params.yaml")
    mark = planned_mark(params, HERE)
    assert read_metadata(HERE.thresholds)["fingerprint"] == mark.fingerprint
    shown = table(params)
    rows = {
        stage: rest for stage, *rest in zip(*(list(column.cells) for column in shown.columns), strict=True)
    }
    assert rows["threshold"][:3] == ["0", "1", "0"] and "data/adequacy.parquet alone" in rows["threshold"][-1]
    write_adequacy(ADEQUACY.empty_table(), HERE.adequacy, mark)
    again = table(params)
    assert dict(zip(again.columns[0].cells, again.columns[1].cells, strict=True))["threshold"] == "1"


def test_the_base_model_s_samples_of_an_old_demo_are_done(demo: Path) -> None:
    (demo / HERE.model / "model_index.json").write_text("{}")  # the tuned model is there, its weights are not
    planned = plan_evaluation(load_params(demo / "params.yaml"), HERE)
    base = {folder: shards for folder, shards in planned.items() if "base" in folder.parts}
    found = {folder.name: status(folder, shards) for folder, shards in base.items()}
    assert found.pop("scores") == Status(0, 2, 0, 0)  # of which two columns are computed again
    assert list(found.values()) == [Status(2, 0, 0, 0)] * 2


def test_a_parameter_that_changes_numbers_makes_its_stage_stale(demo: Path) -> None:
    changed = (demo / "params.yaml").read_text().replace("ties: positive", "ties: negative")
    (demo / "params.yaml").write_text(changed)
    shown = table(load_params(demo / "params.yaml"))
    stale = dict(zip(shown.columns[0].cells, shown.columns[2].cells, strict=True))
    assert (stale["generate"], stale["label"]) == ("0", "6")
