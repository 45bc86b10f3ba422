"""What `tgo status` shows of inputs that cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from stages.commands.status import table
from tgo_pipeline.params import Params, PromptsParams, ScoreParams


def test_a_name_in_square_brackets_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/prompts.parquet").touch()
    params = Params(
        prompts=PromptsParams(train="[red]a[/b].txt", test_fraction=0.5),
        score=ScoreParams(rewards={"clip": "demo"}),
    )
    stream = io.StringIO()
    Console(file=stream, width=1000).print(table(params))
    assert "[red]a[/b].txt does not exist" in stream.getvalue()
