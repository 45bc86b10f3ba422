"""The baselines table against numbers worked out from the samples of each prompt and group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.thresholds.columns import scored
from tests.thresholds.shards import params
from tests.thresholds.test_baselines import jackknife, soft
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.tables import PROMPTS as PROMPTS_TABLE
from tgo_pipeline.storage.tables import read_table, scores_schema, write_table
from tgo_pipeline.thresholds.baseline_table import BASELINES, baseline_tables
from tgo_pipeline.thresholds.baselines import tau_q

SCORES = np.array([1.0, 2.0, 6.0, 4.0, 4.0, 9.0])
PROMPTS = list("aaabbc")


def table_of(
    scores: np.ndarray,
    prompts: Sequence[str],
    tau: float,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> pa.Table:
    """The table of scores with ids of their prompts, which may have sources."""
    chosen = params(["clip"], target={"reward": "clip"}, threshold={"bootstrap": 50, **options})
    columns = [[f"s{i}" for i in range(len(scores))], list(prompts), pa.array(scores, pa.float32())]
    table = pa.table([*columns, pa.nulls(len(scores), pa.string())], schema=scores_schema(["clip"]))
    known = [
        {"prompt_id": key, "prompt": key, "split": "train", "source": name}
        for key, name in (sources or {}).items()
    ]
    made = scored(table, chosen, pa.Table.from_pylist(known, schema=PROMPTS_TABLE))
    found = pa.concat_tables(baseline_tables(made, made.column("clip", {}), chosen, tau, {}))
    assert found.schema.equals(BASELINES, check_metadata=True)
    return found


def rows(sources: Mapping[str, str] | None = None, **options: Any) -> dict[str, dict]:
    table = table_of(SCORES, PROMPTS, 4.0, sources, **options)
    return {row["key"]: row for row in table.to_pylist()}


def test_every_prompt_has_its_row() -> None:
    found = rows()
    first, single = found["a"], found["c"]
    assert (first["reward"], first["level"], first["n"], first["n_prompts"], first["n_distinct"]) == (
        "clip",
        "prompt",
        3,
        1,
        3,
    )
    assert (first["mean"], first["median"], first["tau"]) == (3, 2, 2)
    assert first["std"] == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert (found["b"]["n_distinct"], found["b"]["std"], single["std"]) == (1, 0, None)
    assert all(
        first[name] is None for name in ("soft", "soft_jackknife", "ess", "tau_low", "tau_bootstrap_low")
    )
    assert [(row["baseline"], row["positive"]) for row in found.values()] == [(4, 1), (4, 2), (4, 1)]


def test_soft_columns_are_there_where_beta_is_in_score_units() -> None:
    found = rows(baseline="prompt_soft", beta=2.0)
    values = [1.0, 2.0, 6.0]
    assert found["a"]["soft"] == pytest.approx(soft(values, 2.0)) == found["a"]["baseline"]
    assert found["a"]["soft_jackknife"] == pytest.approx(jackknife(values, 2.0))
    assert (found["c"]["soft"], found["c"]["soft_jackknife"], found["c"]["ess"]) == (9, None, 1)
    assert found["c"]["baseline"] is None  # alone: the global tau holds
    assert (found["a"]["positive"], found["c"]["positive"]) == (1, 1)
    by_quantile = rows(baseline="prompt_quantile", beta=0.3)
    assert by_quantile["a"]["soft"] is None
    assert by_quantile["a"]["baseline"] == tau_q(0.3)
    assert (by_quantile["a"]["positive"], by_quantile["b"]["positive"]) == (1, 0)


def test_a_lonely_sample_is_measured_by_its_quantile_among_all() -> None:
    table = table_of(
        np.array([-3.0, -2.0, -1.0, 5.0]), list("aabc"), -1.5, baseline="prompt_quantile", beta=0.3
    )
    assert table["positive"].to_pylist() == [1, 0, 1]  # quantiles 5/8 and 7/8 of all against tau_q = 0.628
    assert table["baseline"].to_pylist() == [tau_q(0.3), None, None]


def test_the_baseline_is_that_of_the_rule() -> None:
    assert rows(baseline="prompt_mean")["a"]["baseline"] == 3
    assert rows(baseline="prompt_median")["a"]["baseline"] == 2
    found = rows(baseline="prompt_soft", beta=2.0, jackknife=True)["a"]
    assert found["baseline"] == found["soft_jackknife"]
    proxy = rows(baseline="prompt_mean", source="proxy", proxy="folder")
    assert proxy["c"]["baseline"] == 9  # one image of a proxy set is a baseline for others


def test_groups_have_taus_with_intervals() -> None:
    scores = np.random.default_rng(0).normal(size=400).astype(np.float32).astype(np.float64)
    prompts = [f"{number // 4:03d}" for number in range(400)]
    sources = {f"{number:03d}": "x" if number < 60 else "y" for number in range(90)}
    options = {"baseline": "group", "group": "source", "bootstrap": 200, "percentile": 0.3}
    table = table_of(scores, prompts, 0.0, sources, **options)
    x, y = table.to_pylist()
    assert (x["key"], x["level"], x["n"], x["n_prompts"], y["n"], y["n_prompts"]) == (
        "x",
        "source",
        240,
        60,
        120,
        30,
    )
    assert x["tau"] == pytest.approx(np.quantile(scores[:240], 0.3)) == x["baseline"]
    assert x["tau_low"] < x["tau"] < x["tau_high"]
    assert x["tau_bootstrap_low"] < x["tau"] < x["tau_bootstrap_high"]
    assert x["positive"] == int(np.sum(scores[:240] >= x["tau"]))


def test_a_group_of_one_prompt_has_no_bootstrap() -> None:
    found = rows({"a": "x", "b": "y", "c": "y"}, baseline="group", group="source")
    assert found["x"]["tau_bootstrap_low"] is None
    assert found["y"]["n_prompts"] == 2


def test_the_table_opens_in_datasets_and_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    features = json.loads(BASELINES.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(BASELINES.names)
    table = table_of(SCORES, PROMPTS, 4.0)
    write_table(table, tmp_path / "b.parquet", {})
    assert read_table(tmp_path / "b.parquet", BASELINES)["mean"].to_pylist() == [3, 4, 9]
    write_table(table.drop_columns(["ess"]), tmp_path / "c.parquet", {})
    with pytest.raises(TgoError, match="has no column 'ess'"):
        read_table(tmp_path / "c.parquet", BASELINES)
