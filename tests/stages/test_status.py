"""What `tgo status` shows of inputs that cannot be read, and of an adequacy table of an earlier version."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from stages import label, threshold
from stages.commands.status import table
from tests.thresholds.shards import params, write_scores
from tgo_pipeline.params import Params, PromptsParams, ScoreParams
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.thresholds.adequacy import table as adequacy_table


def test_a_name_in_square_brackets_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/prompts.parquet").touch()
    chosen = Params(
        prompts=PromptsParams(train="[red]a[/b].txt", test_fraction=0.5),
        score=ScoreParams(rewards={"clip": "demo"}),
    )
    stream = io.StringIO()
    Console(file=stream, width=1000).print(table(chosen))
    assert "[red]a[/b].txt does not exist" in stream.getvalue()


def states(params: Params) -> dict[str, tuple[int, int, int]]:
    """Shards or tables of the threshold and the label stage that are done, stale and to do."""
    found = {"threshold": threshold.shards(params)[0], "label": label.shards(params)[0]}
    return {name: (now.done, now.stale, now.to_do) for name, now in found.items()}


def test_a_new_version_of_the_adequacy_table_makes_nothing_else_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = params(["clip"], target={"reward": "clip"}, threshold={"bootstrap": 20})
    write_scores(HERE.scores, {"clip": np.random.default_rng(0).normal(size=60)}, per_prompt=3)
    done = {"threshold": (1, 0, 0), "label": (2, 0, 0)}
    threshold.run(chosen)
    label.run(chosen)
    assert states(chosen) == done
    before = HERE.thresholds.read_bytes(), HERE.adequacy.read_bytes()
    monkeypatch.setattr(adequacy_table, "VERSION", adequacy_table.VERSION + 1)
    assert states(chosen) == {**done, "threshold": (0, 1, 0)}
    threshold.run(chosen)
    assert states(chosen) == done
    assert HERE.thresholds.read_bytes() == before[0]
    assert HERE.adequacy.read_bytes() != before[1]
