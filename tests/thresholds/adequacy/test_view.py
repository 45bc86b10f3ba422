"""The explanation fits 100 columns, begins with the answer, and the images open offline."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from stages.cli import app
from tests.thresholds.columns import column
from tests.thresholds.shards import params
from tests.thresholds.worlds import gaussian
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.thresholds.adequacy.plots import chart, write
from tgo_pipeline.thresholds.adequacy.report import judge
from tgo_pipeline.thresholds.adequacy.table import Statistics, by_reward, read_adequacy, table, write_adequacy
from tgo_pipeline.thresholds.adequacy.view import show

WORLDS = {"clip": 0.0, "imagereward": 0.5, "a_reward_with_a_long_name": 0.15}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rewards, the second of them the target; one more that has no scores."""
    scores = {name: 1e4 * gaussian(ratio, 300, 6)[0].ravel() for name, ratio in WORLDS.items()}
    chosen = params(["imagereward"], target={"reward": "imagereward"}, threshold={"beta": 9000.0})
    rows: list[dict[str, Any]] = [
        {
            "reward": name,
            "tau": float(np.median(values)),
            "percentile": 0.5,
            "tau_bootstrap_low": -1234.5,
            "tau_bootstrap_high": 1234.5,
        }
        for name, values in scores.items()
    ]
    rows.append({"reward": "none", "tau": None, "note": "no tau: 0 finite scores, at least 2 are needed"})
    path = tmp_path_factory.mktemp("adequacy") / "adequacy.parquet"
    owners = np.repeat(np.arange(300), 6)
    found = [
        (row["reward"], statistic)
        for row in rows
        for statistic in judge(column(scores.get(row["reward"], np.zeros(1800)), owners), row, chosen)
    ]
    write_adequacy(table(found), path, Mark("f"))
    return path


def shown(path: Path, reward: str | None = None) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(show(path, reward))
    return console.export_text()


@pytest.mark.parametrize("reward", [None, *WORLDS, "none"])
def test_nothing_is_cut_at_100_columns(path: Path, reward: str | None) -> None:
    text = shown(path, reward)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_answer_for_the_target_comes_first(path: Path) -> None:
    text = shown(path)
    assert text.startswith(
        "Is one threshold enough for imagereward, the target? inadequate\nOne tau is not enough"
    )
    for part in (
        "by chance",
        "margin bound",
        "oracle percentile",
        "E[w |tau - b|]",
        "redrawn",
        "labels that move",
    ):
        assert part in text
    assert "Is one threshold enough for clip, a reward? adequate" in shown(path, "clip")
    assert (
        "what-if" in shown(path, "clip")
        and "(what-if)" not in text.split("What bounds")[0].split("(what-if):")[0]
    )


def test_a_reward_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(TgoError, match=r"no reward 'x': it has clip, imagereward"):
        show(path, "x")


def test_the_command_explains(path: Path) -> None:
    result = CliRunner().invoke(app, ["thresholds", str(path.with_name("thresholds.parquet")), "--explain"])
    assert result.exit_code == 0 and "Is one threshold enough for imagereward" in result.output
    result = CliRunner().invoke(
        app, ["thresholds", str(path.with_name("thresholds.parquet")), "--reward", "clip"]
    )
    assert "Is one threshold enough for clip" in result.output


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"adequacy\.parquet does not exist"):
        show(tmp_path / "adequacy.parquet")


def test_images_are_written_for_what_can_be_drawn(path: Path, tmp_path: Path) -> None:
    write(by_reward(read_adequacy(path)), tmp_path, ShownNames())
    assert sorted(file.name for file in tmp_path.glob("*.svg")) == sorted(f"{name}.svg" for name in WORLDS)
    chart = (tmp_path / "imagereward.svg").read_text()
    assert "imagereward: inadequate" in chart and "margin h, score units" in chart
    spec = json.loads((tmp_path / "imagereward.vl.json").read_text())
    assert len(spec["hconcat"]) == 3


def test_an_image_without_prompts_is_of_percentiles_alone() -> None:
    made = column(np.random.default_rng(0).normal(size=50), np.arange(50))
    row = {
        "reward": "clip",
        "tau": 0.0,
        "percentile": 0.5,
        "tau_bootstrap_low": None,
        "tau_bootstrap_high": None,
    }
    found = Statistics(judge(made, row, params(["clip"], target={"reward": "clip"})))
    assert len(chart("clip", found)["hconcat"]) == 1
