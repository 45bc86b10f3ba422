"""The score stage through its command lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.table import Table

from stages import run_stage
from tests.rewards import tiny
from tests.scoring.test_stage import shard, write_generations
from tgo_pipeline.storage.shards import status
from tgo_pipeline.storage.tables import read_folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose generations exist and whose rewards are tiny."""
    (tmp_path / "data").mkdir()
    write_generations(tmp_path / "data/generations")
    tiny.write("clip", tmp_path / "rewards/clip")
    write_params(tmp_path, {"clip": "rewards/clip"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(folder: Path, rewards: dict[str, str]) -> None:
    params = {
        "prompts": {"test": {"a": "a.txt"}},
        "score": {"rewards": rewards},
        "target": {"reward": next(iter(rewards))},
        "runtime": {"device": "cpu"},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def test_the_module_scores_and_its_plan_agrees(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.score"],
        cwd=project,
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "data/scores: 0 done, 0 stale, 3 to do" in done.stderr
    assert f"{shard(0)}: 4 samples, computed clip" in done.stderr
    assert read_folder(project / "data/scores")["clip"].null_count() == 0

    from stages.score import plan
    from tgo_pipeline.params import load_params

    assert status(project / "data/scores", plan(load_params())).done == 3


def _environment() -> dict[str, str]:
    import os

    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def test_a_missing_model_folder_is_one_line_and_writes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(project, {"imagereward": "rewards/imagereward"})
    with pytest.raises(SystemExit) as ended:
        run_stage("score", Path("params.yaml"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "tgo score: reward imagereward: rewards/imagereward does not exist."
    )
    assert not (project / "data/scores").exists()


def test_weights_of_another_network_write_no_shard(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((project / "rewards/clip/config.json").read_text())
    config["projection_dim"] = 7
    (project / "rewards/clip/config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        run_stage("score", Path("params.yaml"))
    assert "does not fit the network" in capsys.readouterr().err
    assert list((project / "data/scores").iterdir()) == []


def test_feedback_alone_is_scored_shown_and_measured(project: Path) -> None:
    stars = {"source": "stars.csv", "kind": "thumb"}
    (project / "stars.csv").write_text("file_name,rating\np00-0000,up\np00-0001,down\nelsewhere,up\n")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params |= {"score": {"feedback": {"stars": stars}}, "target": {"reward": "stars"}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    run_stage("score", Path("params.yaml"))
    measured = json.loads((project / "metrics/score.json").read_text())["stars"]
    assert (measured["n"], measured["null"], measured["images_not_generated"]) == (2, 10, 1)

    from stages.commands.status import table
    from tgo_pipeline.params import load_params

    assert _score_row(table(load_params())) == ["3", "0", "0"]
    (project / "stars.csv").write_text("file_name,rating\np00-0000,down\n")
    assert _score_row(table(load_params())) == ["0", "3", "0"]


def _score_row(shown: Table) -> list[str]:
    """Done, stale and to do of the score stage."""
    columns = [list(column.cells) for column in shown.columns]
    place = columns[0].index("score")
    return [str(column[place]) for column in columns[1:4]]
