"""How a stage ends that cannot continue."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import PIPELINE, USER_ERROR, run_stage
from stages.cli import main

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_a_disk_that_fills_up_outside_an_atomic_write_is_an_error_of_the_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stages.report.run", lambda params: FULL.write_text(params.model))
    monkeypatch.setattr("stages.require_current", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_stage("report", ROOT / "params.yaml")
    assert ended.value.code == USER_ERROR
    assert "tgo report: the disk is full while writing" in capsys.readouterr().err


def test_every_stage_of_the_pipeline_can_be_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[str] = []
    monkeypatch.setattr("stages.commands.run.run_stage", lambda name, params, **_: ran.append(name))
    for name in PIPELINE:
        monkeypatch.setattr("sys.argv", ["tgo", "run", name])
        with pytest.raises(SystemExit):
            main()
    assert ran == list(PIPELINE)
    monkeypatch.setattr("sys.argv", ["tgo", "run", "no_stage"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == USER_ERROR
    assert "'no_stage' is not a stage: it must be one of prompts" in capsys.readouterr().err
