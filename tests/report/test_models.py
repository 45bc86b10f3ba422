from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report.workspace import Workspace
from tgo_pipeline.errors import TgoError
from tgo_pipeline.report import sections
from tgo_pipeline.report.models import Models, models
from tgo_pipeline.report.summary import Role

ROLES: dict[str, Role] = {"mean_z": "target", "oracle": "held out", "clip": "other"}


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> Models:
    evaluation = sections.evaluation(workspace.params, workspace.sources)
    assert evaluation is not None
    made = models(workspace.params, workspace.sources, evaluation.roles)
    assert made is not None
    return made


def test_every_model_meets_every_other_once_a_reward_the_target_first(
    found: Models, workspace: Workspace
) -> None:
    assert found.names == ["base", "tuned", "early"]
    assert found.matrices[0].reward == "mean_z" and len(found.matrices) == 7
    samples = pl.read_parquet(workspace.sources.samples)
    for matrix in found.matrices:
        cells = {name: dict(zip(matrix.models, row, strict=True)) for name, row in matrix.rows}
        assert all(cells[name][name] is None for name in matrix.models)
        part = samples.filter(pl.col("reward") == matrix.reward)
        cell = cells["tuned"]["base"]
        assert cell is not None
        assert cell["win_rate"] == pytest.approx((part["tuned"] > part["base"]).mean())


def test_the_hacking_check_shows_what_took_no_part_in_the_target(found: Models) -> None:
    assert {row["reward"] for row in found.hacking} == {"oracle"}
    assert {row["model"] for row in found.hacking} == {"tuned", "early"}


def test_categories_are_charted_per_test_set(found: Models) -> None:
    assert list(found.categories) == [f"{name}: by category" for name in ("plain", "sized", "placed")]


def test_two_models_need_no_matrix(workspace: Workspace, tmp_path: Path) -> None:
    for name in ("models", "matrix"):
        table = pl.read_parquet(workspace.sources.evaluation_images / f"{name}.parquet")
        columns = [column for column in table.columns if column.startswith("model")]
        kept = table.filter(pl.all_horizontal(pl.col(columns) != "early"))
        written = kept.to_arrow().cast(
            pq.read_schema(workspace.sources.evaluation_images / f"{name}.parquet")
        )
        pq.write_table(written, tmp_path / f"{name}.parquet")
    made = models(workspace.params, workspace.sources.moved(evaluation_images=tmp_path), ROLES)
    assert made is not None
    assert made.names == ["base", "tuned"]
    assert made.matrices == [] and made.hacking == []


def test_nothing_there_is_none_and_another_schema_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    sources = workspace.sources.moved(evaluation_images=tmp_path)
    assert models(workspace.params, sources, ROLES) is None
    pq.write_table(pa.table({"model": ["base"]}), tmp_path / "models.parquet")
    with pytest.raises(TgoError, match=r"models\.parquet has no column"):
        models(workspace.params, sources, ROLES)
