"""The terminal table fits 100 columns with several rewards."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from tests.thresholds.columns import fitted
from tests.thresholds.shards import params
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.tables import write_table
from tgo_pipeline.thresholds.view import show

SCALES = {
    "hpsv2.1": (0.25, 0.03),
    "pickscore": (-21, 1),
    "imagereward": (0, 1),
    "clip": (0.28, 0.03),
    "aesthetic": (5.3, 0.5),
    "oracle": (1e5, 4e4),
    "jpeg_kb": (0, 3e-9),
}


def shown(table: pa.Table, path: Path) -> str:
    write_table(table, path, {})
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(show(path))
    return console.export_text()


def table_of(scores: dict[str, np.ndarray], **options: object) -> pa.Table:
    chosen = params(
        list(scores),
        target={"reward": "mean_z", "rewards": ["hpsv2.1", "clip"]},
        threshold={"bootstrap": 50, **options},
    )
    return fitted(scores, chosen, 4)


def test_nothing_is_cut_at_100_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = {name: mean + std * rng.normal(size=4000) for name, (mean, std) in SCALES.items()}
    text = shown(table_of(scores), tmp_path / "thresholds.parquet")
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    for name in (*SCALES, "mean_z"):
        assert text.count(f" {name} ") == 4
    tau = np.median(scores["clip"])
    assert f"{tau:.4f}" in text
    assert "data set (fingerprint f)" in text


def test_what_is_not_known_is_a_dash_and_notes_are_shown(tmp_path: Path) -> None:
    scores = {"hpsv2.1": np.arange(3.0), "clip": np.arange(3.0), "aesthetic": np.full(3, np.nan)}
    text = shown(table_of(scores, source="proxy", proxy="elsewhere"), tmp_path / "thresholds.parquet")
    assert "–" in text
    assert "aesthetic: no tau: 0 finite scores" in text
    assert "proxy set" in text


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"thresholds\.parquet does not exist"):
        show(tmp_path / "thresholds.parquet")
