"""`tgo doctor` as a user calls it: a sound project, and each thing that can be wrong with parameters and project."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.doctor.conftest import Doctor
from tests.doctor.toy import write_params
from tgo_pipeline.doctor import examine
from tgo_pipeline.doctor.request import Needs
from tgo_pipeline.storage.locks import lock
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.storage.writing import TEMPORARY

NOBODY_WRITES = Path("/proc/self/fdinfo")


def test_a_sound_project_passes_without_network(doctor: Doctor, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    shown = doctor()
    assert shown.code == 0, shown.text
    for heading in ("parameters", "device", "memory and disk", "files", "versions", "project"):
        assert f"{heading}\n" in shown.text or f"{heading} " in shown.text
    assert "model hub" not in shown.text
    assert " fail " not in shown.text
    assert shown.line.endswith("Nothing fails.")
    assert max(map(len, shown.text.splitlines())) <= 100
    assert "unet 2.38 million" in shown.line


def test_a_broken_parameter_file_is_one_line_and_the_rest_is_checked(doctor: Doctor, project: Path):
    write_params(project, generate={"stepz": 3}, runtime={"device": "cpu", "processes": 999})
    shown = doctor()
    assert shown.code == 2
    assert "fail params.yaml: generate.stepz is not a known key. Did you mean steps?" in shown.line
    assert "files: not looked at" in shown.line
    assert "warn runtime.processes: 999 processes share" in shown.line
    assert "ok dvc.yaml: 9 stages." in shown.line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "holds list, not a mapping"),
        (None, "params.yaml does not exist"),
        (b"\xff\xfe\x00", "codec can't decode"),
    ],
)
def test_a_file_that_is_no_mapping(doctor: Doctor, project: Path, content: str | bytes | None, message: str):
    path = project / "params.yaml"
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    shown = doctor()
    assert shown.code == 2
    assert message in shown.line
    assert "ok python" in shown.line


def test_another_parameter_file(doctor: Doctor, project: Path):
    write_params(project).rename(project / "mine.yaml")
    shown = doctor("--params", "mine.yaml")
    assert shown.code == 0
    assert "ok mine.yaml: model demo, target pickscore" in shown.line


def test_a_check_that_breaks_is_a_line_and_the_others_are_made(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
):
    def broken(_: object) -> None:
        raise ZeroDivisionError("what\nnow")

    monkeypatch.setattr("tgo_pipeline.doctor.files.rewards", broken)
    shown = doctor()
    assert shown.code == 2
    assert "fail files: this check broke: ZeroDivisionError: what now" in shown.line
    assert "ok dvc.yaml: 9 stages." in shown.line


def test_names_cannot_move_the_cursor(doctor: Doctor, project: Path):
    write_params(project, prompts={"train": "a\x1b[2J[red]b.txt", "test": {"plain": "demo:plain"}})
    shown = doctor()
    assert shown.code == 2
    assert "\x1b" not in shown.text
    assert "a\\x1b[2J[red]b.txt does not exist" in shown.line


def test_a_plan_is_compared_with_memory_and_disk(project: Path):
    path = project / "params.yaml"
    groups = {
        group.title: group.findings
        for group in examine(path, lambda _: Needs({"score": 1 << 60, "label": 0}, 7))
    }
    lines = {finding.subject: finding for finding in groups["memory and disk"]}
    assert lines["memory"].level == "fail"
    assert "score takes on one device" in lines["memory"].message
    assert lines["disk"].level == "ok"


def test_a_folder_without_git_and_dvc(doctor: Doctor, project: Path):
    for name in (".git", ".dvc"):
        (project / name).rename(project.parent / name.lstrip("."))
    (project / "dvc.yaml").unlink()
    shown = doctor()
    assert shown.code == 0
    assert "is in no repository" in shown.line
    assert "is not a project of DVC" in shown.line
    assert "warn dvc.yaml: is not here" in shown.line


def test_a_repository_without_a_commit(doctor: Doctor, project: Path):
    shutil.rmtree(project / ".git")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    assert "warn git: has no commit here yet" in doctor().line


def test_a_dvc_file_of_an_earlier_version(doctor: Doctor, project: Path):
    (project / "dvc.yaml").write_text("stages:\n  prompts:\n    cmd: python -m stages.prompts\n")
    assert "warn dvc.yaml: is of an earlier version" in doctor().line


@pytest.mark.parametrize("content", ["stages: [", "stages:\n  a:\n    cmdd: x\n"])
def test_a_dvc_file_that_dvc_cannot_use(doctor: Doctor, project: Path, content: str):
    (project / "dvc.yaml").write_text(content)
    shown = doctor()
    assert shown.code == 2
    assert "fail dvc.yaml: cannot be used by DVC" in shown.line


def test_a_stage_that_runs_is_named(doctor: Doctor):
    with lock(HERE.scores):
        shown = doctor()
    assert shown.code == 0
    assert f"warn lock: process {os.getpid()} is writing data/scores" in shown.line
    assert "warn lock" not in doctor().line


def test_leftovers_of_processes_that_ended_are_counted(doctor: Doctor, project: Path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for process in (ended.pid, os.getpid()):
        folder = project / "models" / f"{TEMPORARY}{process}-tuned"
        folder.mkdir(parents=True)
        (folder / "w").write_bytes(bytes(2_000_000))
    shown = doctor()
    assert shown.code == 0
    assert (
        f"note leftovers: 1 of interrupted runs, 2.0 MB, such as models/{TEMPORARY}{ended.pid}-tuned"
        in shown.line
    )


def test_an_uncommitted_lock_is_noted(doctor: Doctor, project: Path):
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    assert "note dvc.lock: is new and is not committed" in doctor().line


@pytest.mark.skipif(not NOBODY_WRITES.is_dir(), reason="root may write everywhere else")
def test_a_folder_that_cannot_be_written(doctor: Doctor, project: Path):
    (project / "data").symlink_to(NOBODY_WRITES)
    shown = doctor()
    assert shown.code == 2
    assert "fdinfo cannot be written: change its owner or permissions" in shown.line


def test_a_tracker_that_is_not_installed(doctor: Doctor, project: Path, monkeypatch: pytest.MonkeyPatch):
    write_params(project, runtime={"device": "cpu", "trackers": ["wandb"]})
    monkeypatch.setattr("tgo_pipeline.doctor.optional.find_spec", lambda _: None)
    shown = doctor()
    assert shown.code == 2
    assert "fail runtime.trackers: wandb is not installed: pip install 'tgo-pipeline[tracking]'" in shown.line


def test_help_states_the_exit_codes(doctor: Doctor):
    shown = doctor("--help")
    assert shown.code == 0
    assert "Exit code 0 when nothing fails, 2 otherwise" in shown.line
