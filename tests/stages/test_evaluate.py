"""The stage evaluate as a command."""

from pathlib import Path

import pytest

from stages import USER_ERROR, run_stage
from tests.project import ROOT


def test_without_its_inputs_it_says_what_to_run_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_stage("evaluate", ROOT / "params.yaml")
    assert ended.value.code == USER_ERROR
    assert "data/prompts.parquet does not exist: run `tgo run prompts` first" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*"))
