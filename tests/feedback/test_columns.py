"""Feedback joined to the samples of generation shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.columns import fingerprint, join
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.storage.tables import GENERATIONS, write_table

UIDS = [["x.png", "y.png"], ["x.png", None]]
"""The first image is in both shards: it has two prompts. The last has no name of a source."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write_shard(tmp_path / f"train-{i:05d}-of-00002.parquet", i, uids) for i, uids in enumerate(UIDS)]


def write_shard(path: Path, index: int, uids: Sequence[str | None]) -> Path:
    rows = [
        {"sample_id": f"p{index}-{row:04d}", "prompt_id": f"p{index}", "prompt": "a cat", "image_uid": uid}
        for row, uid in enumerate(uids)
    ]
    write_table(pa.Table.from_pylist(rows, schema=GENERATIONS), path, {})
    return path


def feedback(folder: Path, rows: Sequence[str], **keys: Any) -> dict[str, FeedbackParams]:
    (folder / "s.csv").write_text("\n".join(["file_name,rating", *rows]))
    return {"stars": FeedbackParams(source=str(folder / "s.csv"), kind="rating", **keys)}


def test_an_image_is_found_by_what_its_source_calls_it_or_by_its_sample_id(
    tmp_path: Path, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tgo")
    found = join(feedback(tmp_path, ["x.png,4", "x.png,5", "p1-0001,2", "z.png,1"]), files)
    np.testing.assert_array_equal(found.scores[files[0].name]["stars"], [4.5, np.nan])
    np.testing.assert_array_equal(found.scores[files[1].name]["stars"], [4.5, 2])
    assert found.scores[files[0].name]["stars"].dtype == np.float32
    assert found.counts["stars"] == {"rows": 4, "empty": 0, "images": 3, "images_not_generated": 1}
    assert "stars: 4 rows, 3 images, 1 images not generated; 1 of 4 samples have none" in caplog.messages
    assert any(
        "1 of 3 images of" in message and "not among the generations" in message
        for message in caplog.messages
    )


def test_the_name_of_the_source_comes_first(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "train-00000-of-00001.parquet", 0, ["p0-0001", "y.png"])
    found = join(feedback(tmp_path, ["p0-0001,3", "y.png,1"]), [path])
    np.testing.assert_array_equal(found.scores[path.name]["stars"], [3, 1])


def test_shards_of_other_tools_need_no_image_uid(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    write_table(pa.table({"sample_id": ["a", "b"]}), path, {})
    found = join(feedback(tmp_path, ["b,3"]), [path])
    np.testing.assert_array_equal(found.scores[path.name]["stars"], [np.nan, 3])


def test_feedback_on_other_images_alone_is_refused_with_examples_of_both_sides(
    tmp_path: Path, files: list[Path]
) -> None:
    with pytest.raises(TgoError) as refused:
        join(feedback(tmp_path, ["images/x.png,3", "images/y.png,1"]), files)
    assert str(refused.value).startswith("score.feedback.stars: not one of the 2 images of")
    assert "The feedback names 'images/x.png', 'images/y.png'" in str(refused.value)
    assert "their source calls 'x.png', 'y.png', 'x.png', with the sample_id 'p0-0000'" in str(refused.value)


def test_the_fingerprint_follows_what_the_scores_depend_on(tmp_path: Path) -> None:
    def of(rows: Sequence[str], **keys: Any) -> str:
        return fingerprint(feedback(tmp_path, rows, **keys)["stars"])

    first = of(["x,1"])
    assert of(["x,2"]) != first
    assert of(["x,1"], aggregate="median") != first
    assert of(["x,1"], aggregate="shrunk") != of(["x,1"], aggregate="shrunk", shrinkage=1.0)
    assert of(["x,1"], shrinkage=9.0, rule="wins", low=1.0, high=5.0) == first
