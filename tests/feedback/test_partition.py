"""Pick-a-Pic's choices, from its own files to labels: the partition into desirable and undesirable images."""

from __future__ import annotations

import importlib
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.datasets.public import uid, write_pickapic
from tgo_pipeline.params import load_params

STAGES = ("prompts", "generate", "score", "threshold", "label")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = f"pickapic:{write_pickapic(tmp_path / 'set')}/train"
    (tmp_path / "test.txt").write_text("a horse\n")
    content = {
        "prompts": {"train": source, "test": {"one": "test.txt"}},
        "generate": {"source": "images", "images": source},
        "score": {"feedback": {"preferred": {"source": source, "kind": "pair", "rule": "any_win"}}},
        "target": {"reward": "preferred"},
        "label": {"ties": "negative", "c": 0.0},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_images_that_won_at_least_once_are_positive(project: Path) -> None:
    for stage in STAGES:
        importlib.import_module(f"stages.{stage}").run(load_params())
    generations = pl.read_parquet(project / "data/generations/*.parquet", columns=["sample_id", "image_uid"])
    labels = pl.read_parquet(project / "data/labels/*.parquet")
    found = generations.join(labels, on="sample_id", how="left")
    expected = {
        0: 1,
        1: 0,
        2: 1,
        3: 0,
        4: 0,
        5: 1,
        6: None,
        7: None,
    }  # 0 also lost, 3 only tied, 6 and 7: nobody chose
    assert dict(found.select("image_uid", "label").iter_rows()) == {
        uid(i): label for i, label in expected.items()
    }
    assert found["weight"].drop_nulls().to_list() == [1.0] * 6
