"""From score shards to the table, the metrics and the plots, as the stage runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.thresholds.shards import flat, params, write_scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage.tables import read_metadata
from tgo_pipeline.thresholds.stage import fit_folder, planned_mark
from tgo_pipeline.thresholds.table import read_thresholds, taus, threshold_row

RNG = np.random.default_rng(0)
SCORES = {"clip": RNG.normal(size=60), "aesthetic": RNG.normal(size=60)}


def run(root: Path, parameters: Params) -> None:
    fit_folder(parameters, flat(root).moved(metrics=root / "metrics"))


def small(**threshold: Any) -> Params:
    return params(["clip", "aesthetic"], threshold={"bootstrap": 20, **threshold})


def test_the_stage_writes_table_metrics_and_plots(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", SCORES, per_prompt=3)
    run(tmp_path, small(percentile=0.25))
    table = read_thresholds(tmp_path / "thresholds.parquet")
    assert taus(table)["clip"] == np.quantile(SCORES["clip"].astype(np.float32).astype(float), 0.25)
    metrics = json.loads((tmp_path / "metrics" / "threshold.json").read_text())
    assert list(metrics) == ["clip", "aesthetic", "mean_z"]
    assert metrics["clip"]["tau"] == taus(table)["clip"]
    assert (tmp_path / "plots" / "thresholds" / "mean_z.svg").is_file()
    lines = (tmp_path / "plots" / "scores.csv").read_text().splitlines()
    assert lines[0] == "reward,bin_low,bin_high,count,positive,tau"
    assert sum(int(line.split(",")[3]) for line in lines[1:]) == 3 * 60


def test_a_second_run_writes_the_same_and_other_scores_another_fingerprint(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", SCORES)
    run(tmp_path, small())
    first = (tmp_path / "thresholds.parquet").read_bytes()
    run(tmp_path, small())
    assert (tmp_path / "thresholds.parquet").read_bytes() == first
    before = read_metadata(tmp_path / "thresholds.parquet")["fingerprint"]
    write_scores(tmp_path / "scores", SCORES, fingerprint="b")
    run(tmp_path, small())
    after = read_metadata(tmp_path / "thresholds.parquet")["fingerprint"]
    assert after != before
    assert (
        after
        == planned_mark(small(), flat(tmp_path)).fingerprint
        != planned_mark(small(percentile=0.6), flat(tmp_path)).fingerprint
    )


def test_the_table_that_says_done_is_written_last(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", SCORES)
    (tmp_path / "metrics").write_text("in the way of the folder")
    with pytest.raises(OSError):
        run(tmp_path, small())
    assert not (tmp_path / "thresholds.parquet").exists()


def test_other_labels_make_the_table_stale_whose_report_weighs_with_them(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", SCORES)
    heavier = params(["clip", "aesthetic"], threshold={"bootstrap": 20}, label={"c": 9.0})
    assert planned_mark(heavier, flat(tmp_path)) != planned_mark(small(), flat(tmp_path))


def test_tau_comes_from_the_proxy_set_and_says_so(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", SCORES)
    proxy = write_scores(tmp_path / "proxy", {name: values + 3 for name, values in SCORES.items()})
    run(tmp_path, small(source="proxy", proxy=str(proxy)))
    row = threshold_row(read_thresholds(tmp_path / "thresholds.parquet"), "clip")
    assert row["source"] == "proxy"
    assert row["tau"] == pytest.approx(np.median(SCORES["clip"]) + 3, abs=1e-5)


def test_a_proxy_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", SCORES)
    with pytest.raises(TgoError, match=r"threshold\.proxy is '.*nowhere'"):
        run(tmp_path, small(source="proxy", proxy=str(tmp_path / "nowhere")))


def test_a_proxy_set_without_a_reward_is_refused(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", SCORES)
    proxy = write_scores(tmp_path / "proxy", {"clip": SCORES["clip"]})
    with pytest.raises(TgoError, match="has no column 'aesthetic'"):
        run(tmp_path, small(source="proxy", proxy=str(proxy)))


@pytest.mark.parametrize("values", [[], [None] * 8, [1.0] * 8, [np.nan] * 8])
def test_scores_without_a_threshold_leave_nothing_behind(tmp_path: Path, values: list[float | None]) -> None:
    write_scores(tmp_path / "scores", {"clip": values, "aesthetic": values})
    with pytest.raises(TgoError):
        run(tmp_path, small())
    assert [file.name for file in tmp_path.iterdir()] == ["scores"]


def test_an_empty_folder_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="holds no score shard"):
        run(tmp_path, small())
    with pytest.raises(TgoError, match="no row for 'oracle', only clip, aesthetic, mean_z"):
        write_scores(tmp_path / "scores", SCORES)
        run(tmp_path, small())
        threshold_row(read_thresholds(tmp_path / "thresholds.parquet"), "oracle")


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    project = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(project), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_stages_and_the_table_from_the_command_line(tmp_path: Path) -> None:
    write_scores(tmp_path / "data" / "scores", SCORES, per_prompt=3)
    raw = {
        "prompts": {"test": {"plain": "demo:plain"}},
        "score": {"rewards": {"clip": "demo", "aesthetic": "demo"}},
        "threshold": {"bootstrap": 20},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    for stage in ("threshold", "label"):
        assert command(tmp_path, f"stages.{stage}").returncode == 0
    assert len(list((tmp_path / "data" / "labels").glob("*.parquet"))) == 2
    shown = command(tmp_path, "stages.cli", "thresholds")
    assert shown.returncode == 0
    assert "mean_z" in shown.stdout

    write_scores(tmp_path / "data" / "scores", {name: [None] * 60 for name in SCORES})
    failed = command(tmp_path, "stages.threshold")
    assert failed.returncode == 2
    assert (
        failed.stderr.strip()
        .splitlines()[-1]
        .startswith("tgo threshold: aesthetic has 0 finite scores (60 null")
    )
