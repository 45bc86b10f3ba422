"""A stage does not build on results of earlier stages that are stale, half done or damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages import label, threshold
from stages.commands.status import table
from stages.upstream import ALLOW, before, outdated, require_current
from tests.rewriting import forget_digest, rewrite
from tests.thresholds.shards import params, score_table
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage.tables import read_folder, read_metadata
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.thresholds.table import read_thresholds

SHARDS = [HERE.scores / f"train-{index:05d}-of-00002.parquet" for index in range(2)]


def score(seed: int) -> None:
    """Score shards whose fingerprints are the same whatever the numbers are, as those of another machine."""
    draw = np.random.default_rng(seed)
    for index, path in enumerate(SHARDS):
        rewrite(
            score_table({"clip": draw.normal(size=30)}, 3, 30 * index), path, {"fingerprint": f"f{index}"}
        )


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Parameters in a project whose scores are thresholded and labelled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ALLOW, raising=False)
    made = params(["clip"], target={"reward": "clip"}, threshold={"bootstrap": 20})
    score(1)
    threshold.run(made)
    label.run(made)
    return made


def test_what_is_up_to_date_is_built_on(chosen: Params) -> None:
    for stage in ("label", "fine_tune", "report"):
        require_current(stage, chosen)
    assert before("label") == ("prompts", "generate", "score", "threshold")


def test_scores_that_came_out_differently_make_tau_and_labels_stale(chosen: Params) -> None:
    old = read_folder(HERE.labels)
    score(2)
    assert label.shards(chosen)[0].stale == 2
    with pytest.raises(
        TgoError, match=r"the results of threshold are not those .*run `tgo run threshold` first"
    ):
        require_current("label", chosen)
    threshold.run(chosen)
    require_current("label", chosen)
    label.run(chosen)
    labels, tau = read_folder(HERE.labels), read_thresholds(HERE.thresholds)["tau"][0]
    assert labels["label"].to_list() == [int(s >= tau) for s in labels["score"]]
    assert labels["score"].to_list() == read_folder(HERE.scores)["clip"].to_list() != old["score"].to_list()


def test_one_may_go_on_and_is_told_on_what(
    chosen: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    score(2)
    monkeypatch.setenv(ALLOW, "1")
    require_current("label", chosen)
    assert any(f"going on all the same, as {ALLOW} says" in message for message in caplog.messages)
    monkeypatch.setenv(ALLOW, "0")
    with pytest.raises(TgoError):
        require_current("label", chosen)


def test_a_missing_shard_stops_what_comes_after_it(chosen: Params) -> None:
    path = next(iter(sorted(HERE.labels.glob("*.parquet"))))
    path.unlink()
    with pytest.raises(TgoError, match=r"the results of label are not those .*\(1 done, 0 stale, 1 to do"):
        require_current("report", chosen)
    label.run(chosen)
    require_current("report", chosen)


def test_results_whose_inputs_are_not_there_are_taken_as_they_are(chosen: Params) -> None:
    assert outdated("prompts", chosen) is None and outdated("generate", chosen) is None
    assert outdated("score", chosen) is None, "the images were scored elsewhere"


def test_a_table_of_another_tool_is_taken_as_it_is(chosen: Params) -> None:
    pq.write_table(pq.read_table(HERE.thresholds).replace_schema_metadata(), HERE.thresholds)
    forget_digest(HERE.thresholds)
    require_current("label", chosen)


def test_status_tells_what_a_result_is_built_on(chosen: Params) -> None:
    def notes() -> dict[str, str]:
        columns = [[str(cell) for cell in column.cells] for column in table(chosen).columns]
        return dict(zip(columns[0], columns[-1], strict=True))

    assert "not up to date" not in "".join(notes().values())
    HERE.adequacy.unlink()  # of the threshold stage alone: labels do not depend on it
    assert "built on results that are not up to date: threshold" in notes()["label"]


def test_a_bit_that_flipped_in_the_scores_is_no_score(
    chosen: Params, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(SHARDS[0].read_bytes())
    data[60] ^= 16  # among the numbers, which any reader would take as they are
    SHARDS[0].write_bytes(data)
    caplog.set_level(logging.INFO, "tgo")
    before = (
        HERE.thresholds.read_bytes(),
        [path.read_bytes() for path in sorted(HERE.labels.glob("*.parquet"))],
    )
    for stage in (threshold, label):
        with pytest.raises(TgoError, match=r"train-00000-of-00002\.parquet is damaged"):
            stage.run(chosen)
    after = (
        HERE.thresholds.read_bytes(),
        [path.read_bytes() for path in sorted(HERE.labels.glob("*.parquet"))],
    )
    assert before == after


def test_labels_say_what_they_were_made_from(chosen: Params) -> None:
    first = read_metadata(HERE.labels / SHARDS[0].name)["inputs"]
    assert len(first) == 32
    score(2)
    threshold.run(chosen)
    label.run(chosen)
    assert read_metadata(HERE.labels / SHARDS[0].name)["inputs"] != first
