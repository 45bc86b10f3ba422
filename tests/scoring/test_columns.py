"""The column task by itself: which rows a reward gets, in which order parts are written, and which reasons stay."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards.specs import parse
from tgo_pipeline.scoring.columns import ColumnScorer, ColumnTask, score_table

WIDTH = "wide:width"


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ColumnScorer]:
    """One with the rewards `width`, the image's, and `length`, the prompt's."""
    (tmp_path / "wide.py").write_text(
        "def width(images, prompts):\n    return [image.width for image in images]\n"
        "def length(images, prompts):\n    return [len(prompt) for prompt in prompts]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rewards = {"width": parse(WIDTH), "length": parse("wide:length")}
    yield ColumnScorer(rewards, "fp32", RuntimeParams(device="cpu", score_batch_size=2, threads=1))
    sys.modules.pop("wide", None)


class Task(ColumnTask):
    """A part of images of these widths: None for a row that is kept, 0 for bytes that are not an image."""

    def __init__(self, name: str, widths: Sequence[int | None], missing: Sequence[str] = ("width",)) -> None:
        super().__init__(missing)
        self.name, self.widths = name, widths

    def rows(self) -> Iterator[tuple[bytes, str] | None]:
        for width in self.widths:
            yield None if width is None else (_png(width), "x" * width)


def _png(width: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 4)).save(stream, "png") if width else stream.write(b"none")
    return stream.getvalue()


def test_parts_are_written_in_their_order_with_what_they_lack(scorer: ColumnScorer) -> None:
    tasks = [
        Task("a", [5, None, 6, 7, None]),
        Task("all rows kept", [None, None]),
        Task("empty", []),
        Task("nothing missing", [9], ()),
        Task("both", [8, 0, 9], ("width", "length")),
        Task("last", [3]),
    ]
    written = list(scorer.run(iter(tasks), lambda task: (task.name, task.complete or not task.missing)))
    assert written == [(task.name, True) for task in tasks]
    np.testing.assert_array_equal(tasks[0].scores("width"), np.array([5, np.nan, 6, 7, np.nan], np.float32))
    assert tasks[0].errors() == [None] * 5 and tasks[0].sent == [0, 2, 3]
    assert np.isnan(tasks[1].scores("width")).tolist() == [True, True]
    assert len(tasks[2].scores("width")) == 0 and tasks[3].errors() == []
    for name in ("width", "length"):
        np.testing.assert_array_equal(tasks[4].scores(name), np.array([8, np.nan, 9], np.float32))
    assert tasks[4].errors() == [None, "not a known image format", None]
    assert set(scorer.describe(["width", "length"])) == {"width", "length"} and scorer.seconds > 0


def test_a_part_is_written_before_much_of_the_next_is_read(scorer: ColumnScorer) -> None:
    """A kill then loses at most what is in work, however many parts are all kept."""
    written: list[str] = []

    def tasks() -> Iterator[Task]:
        for number in range(50):
            assert number - len(written) <= 1
            yield Task(str(number), [None])

    assert len(list(scorer.run(tasks(), lambda task: written.append(task.name)))) == 50


def test_a_reason_stays_where_a_computed_score_is_missing() -> None:
    columns = {
        "a": np.array([1, np.nan, 3, np.nan], np.float32),
        "kept": pa.chunked_array([[None, 2.0], [3.0, 4.0]], pa.float32()),
        "stars": np.array([np.nan] * 4, np.float32),
    }
    table = score_table({"image": list("wxyz")}, columns, ["old", "new", "stale", None], given=("stars",))
    assert table.column_names == ["image", "a", "kept", "stars", "error"]
    assert table["error"].to_pylist() == ["old", "new", None, None]
    assert table["a"].null_count == 2 and table["kept"].to_pylist() == [None, 2.0, 3.0, 4.0]
