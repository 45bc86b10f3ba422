from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.report.workspace import REWARDS, Workspace
from tgo_pipeline.report.adequacy import Adequacy, adequacy
from tgo_pipeline.report.build import render
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.thresholds.adequacy.table import (
    AdequacyRow,
    by_reward,
    read_adequacy,
    table,
    write_adequacy,
)


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> Adequacy:
    made = adequacy(workspace.params, workspace.sources.adequacy)
    assert made is not None
    return made


def test_the_section_says_what_the_table_says_of_the_target(found: Adequacy, workspace: Workspace) -> None:
    rows = by_reward(read_adequacy(workspace.sources.adequacy))["mean_z"]
    assert (found.reward, found.verdict) == ("mean_z", rows.first("verdict").baseline)
    assert found.sentence == rows.first("verdict").note
    for line in found.baselines:
        flips = [row for row in rows.all("flip_rate", line.name) if row.at == line.at]
        assert line.flips == flips[0]
        assert line.chance.baseline in (line.name, None)
    assert {line.beta for line in found.soft} == {row.at for row in rows.all("soft_ess")}


def test_every_reward_has_a_line_the_target_first(found: Adequacy) -> None:
    assert found.rewards[0].reward == "mean_z"
    assert {line.reward for line in found.rewards} == {"mean_z", *REWARDS}


def test_its_charts_say_what_they_show(found: Adequacy) -> None:
    assert list(found.charts) == ["Flips by baseline", "Over percentiles", "Margin bound"]
    assert all(caption.endswith(".") for _, caption in found.charts.values())


def test_few_samples_behind_the_soft_baseline_are_warned_of(found: Adequacy, page: str) -> None:
    assert all(line.warned for line in found.soft)  # 4 samples a prompt
    assert "The soft baseline has too few samples behind it." in page


def _written(path: Path, *rows: AdequacyRow) -> Path:
    write_adequacy(table([("mean_z", row) for row in rows]), path, Mark("fingerprint"))
    return path


def test_a_verdict_alone_is_a_section(workspace: Workspace, tmp_path: Path) -> None:
    verdict = AdequacyRow(
        statistic="verdict", baseline="undecided", note="Undecided: <b>constant</b> scores."
    )
    path = _written(tmp_path / "adequacy.parquet", verdict)
    made = adequacy(workspace.params, path)
    assert made is not None
    assert (made.verdict, made.facts, made.baselines, made.charts) == ("undecided", [], [], {})
    report = dataclasses.replace(workspace.params.report, gallery=0)
    params = dataclasses.replace(workspace.params, report=report)
    page = render(params, workspace.sources.moved(adequacy=path))
    assert "Undecided: &lt;b&gt;constant&lt;/b&gt; scores." in page


def test_an_ample_soft_baseline_is_not_warned_of(workspace: Workspace, tmp_path: Path) -> None:
    verdict = AdequacyRow(statistic="verdict", baseline="adequate", note="One tau is enough.")
    quiet = AdequacyRow(
        statistic="soft_ess", baseline="prompt_soft", at=1.0, value=40.0, note="what if: beta is not declared"
    )
    made = adequacy(workspace.params, _written(tmp_path / "adequacy.parquet", verdict, quiet))
    assert made is not None
    assert [line.warned for line in made.soft] == [False]


def test_no_table_and_an_empty_one_are_no_section(workspace: Workspace, tmp_path: Path) -> None:
    assert adequacy(workspace.params, tmp_path / "absent.parquet") is None
    assert adequacy(workspace.params, _written(tmp_path / "adequacy.parquet")) is None
