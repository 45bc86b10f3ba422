from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report.workspace import REWARDS, TEST_SETS, Workspace
from tgo_pipeline.errors import TgoError
from tgo_pipeline.report import collect
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.storage import tables

PLAIN = ShownNames()


def test_label_summary_agrees_with_the_formulas(workspace: Workspace) -> None:
    frame = tables.read_folder(workspace.sources.labels)
    label, weight = frame["label"].to_numpy(), frame["weight"].to_numpy()
    found = collect.label_summary(workspace.sources.labels, PLAIN)
    assert found is not None
    assert (found.n, found.positive, found.reward) == (len(label), int(label.sum()), "mean_z")
    assert found.effective_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert found.positive_weight_share == pytest.approx(weight[label == 1].sum() / weight.sum())
    assert (found.mean_weight, found.max_weight) == pytest.approx((weight.mean(), weight.max()))
    for side, name in enumerate(tables.LABEL_NAMES):
        own = weight[label == side]
        for part in found.histogram[name]:
            last = part.high >= weight.max() - 1e-9
            inside = (own >= part.low - 1e-12) & ((own < part.high - 1e-12) | last)
            assert part.count == int(inside.sum())
        assert sum(part.count for part in found.histogram[name]) == len(own)


def test_equal_weights_make_one_bin(tmp_path: Path, workspace: Workspace) -> None:
    shard = sorted(workspace.sources.labels.glob("*.parquet"))[0]
    table = pq.read_table(shard)
    ones = table.set_column(table.column_names.index("weight"), "weight", pa.array(np.ones(table.num_rows)))
    pq.write_table(ones, tmp_path / shard.name)
    found = collect.label_summary(tmp_path, PLAIN)
    assert found is not None
    assert found.effective_size == pytest.approx(found.n)
    assert sum(len(parts) for parts in found.histogram.values()) == 2


def test_thresholds_and_histograms_cover_every_reward(workspace: Workspace) -> None:
    rows = collect.thresholds(workspace.sources.thresholds, PLAIN)
    histograms = collect.score_histograms(workspace.sources.plots, PLAIN)
    assert rows is not None and histograms is not None
    assert {row.reward for row in rows} == {*REWARDS, "mean_z"} == set(histograms)
    for row in rows:
        assert sum(part.count for part in histograms[row.reward]) == row.n


def test_counts_come_from_the_metadata(workspace: Workspace) -> None:
    counts = collect.prompt_counts(workspace.sources.prompts)
    assert counts == {"train": 48, **TEST_SETS}
    assert collect.shard_counts(workspace.sources.scores) == (192, 1)
    assert collect.shard_counts(workspace.sources.labels) == (191, 1)


def test_the_effect_interval_is_the_difference_interval_in_units_of_base(workspace: Workspace) -> None:
    rows = collect.evaluation(workspace.sources.evaluation, PLAIN)
    assert rows
    for row in rows:
        assert row.effect_low is not None and row.effect is not None and row.effect_high is not None
        assert row.effect_low * row.base_std == pytest.approx(row.difference_low)
        assert row.effect_low < row.effect < row.effect_high
    constant = dataclasses.replace(rows[0], base_std=0.0)
    assert constant.effect_low is None


def test_a_table_of_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    wrong = tmp_path / "evaluation.parquet"
    pq.write_table(pa.table({"reward": ["clip"]}), wrong)
    with pytest.raises(TgoError, match=r"evaluation\.parquet has no column 'test_set'"):
        collect.evaluation(wrong, PLAIN)
    (tmp_path / "labels").mkdir()
    pq.write_table(pa.table({"sample_id": ["a"]}), tmp_path / "labels" / "train-00000-of-00001.parquet")
    with pytest.raises(TgoError, match="has no column"):
        collect.label_summary(tmp_path / "labels", PLAIN)


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert collect.thresholds(tmp_path / "thresholds.parquet", PLAIN) is None
    assert collect.evaluation(tmp_path / "evaluation.parquet", PLAIN) is None
    assert collect.prompt_counts(tmp_path / "prompts.parquet") is None
    assert collect.score_histograms(tmp_path, PLAIN) is None
    assert collect.label_summary(tmp_path, PLAIN) is None
    assert collect.shard_counts(tmp_path) is None
