"""A project of one's own, begun by `tgo init` and run by `tgo run` without DVC and git, from another folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.commands.exchange import _in_yaml
from tests.project import ROOT, TOY, environment, run, set_params
from tgo_pipeline.params.recipes import recipe

PACKAGE = {"PYTHONPATH": str(ROOT)}
TOY_HERE = {**TOY, "prompts": {"train": "demo:train", "test": {"plain": "demo:plain"}, "limit": 8}}


def tgo(folder: Path, *words: str, ok: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "stages.cli", *words, ok=ok, variables={**PACKAGE, **variables})


def without(tmp_path: Path, *names: str) -> str:
    """A PATH with everything but these programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in (Path(sys.executable).parent, Path("/usr/bin"), Path("/bin")):
        for program in place.iterdir():
            if program.name not in names and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


def test_a_project_is_a_repository_with_a_commit(tmp_path: Path):
    done = tgo(tmp_path, "init", "new/project", "--demo")
    folder = tmp_path / "new/project"
    assert f"{folder} is a project of demo, with git." in done.stdout
    assert "cd new/project, tgo doctor" in done.stdout
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    assert run(folder, "git", "log", "--format=%s").stdout == "Begin the project\n"
    assert (folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_what_is_to_be_typed_can_be_copied(tmp_path: Path):
    done = tgo(tmp_path, "init", "a folder; echo", "--demo")
    assert "Then: cd 'a folder; echo', tgo doctor" in done.stdout
    assert [_in_yaml(path) for path in ("to-rate/ratings.csv", "a b/it's, r.csv")] == [
        "to-rate/ratings.csv",
        "'a b/it''s, r.csv'",
    ]


def test_a_repository_that_is_there_gets_no_commit(tmp_path: Path):
    run(tmp_path, "git", "init", "-q")
    done = tgo(tmp_path, "init", "--recipe", "sd15")
    assert "is a project of sd15.\nReplace COMMIT" in done.stdout
    assert run(tmp_path, "git", "log", ok=False).returncode != 0
    assert (tmp_path / "params.yaml").read_text() == recipe("sd15").text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "say what the project aligns: --demo, or one of --recipe"),
        (("--demo", "--recipe", "sd15"), "say what the project aligns"),
        (("--recipe", "sd5"), "'sd5' is not a recipe. Did you mean sd15?"),
    ],
)
def test_a_wrong_call_writes_nothing(tmp_path: Path, words: tuple[str, ...], message: str):
    refused = tgo(tmp_path, "init", *words, ok=False)
    assert refused.returncode == 2 and message in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_stage_finds_its_python_without_an_active_environment(tmp_path: Path):
    tgo(tmp_path, "init", "--demo")
    path = without(tmp_path, "python", "python3")
    command = ("/bin/sh", ".dvc/stage", "prompts")
    done = run(tmp_path, *command, variables={**PACKAGE, "PATH": path})
    assert done.returncode == 0 and (tmp_path / "data/prompts.parquet").is_file()
    (tmp_path / ".dvc/tmp/python").unlink()
    refused = run(tmp_path, *command, variables={**PACKAGE, "PATH": path}, ok=False)
    assert refused.returncode == 2
    assert "no Python here has tgo-pipeline: activate its environment" in refused.stderr
    named = run(tmp_path, *command, variables={**PACKAGE, "PATH": path, "TGO_PYTHON": sys.executable})
    assert named.returncode == 0


def test_a_file_of_the_project_is_no_module(tmp_path: Path):
    tgo(tmp_path, "init", "--demo")
    (tmp_path / "typer.py").write_text("raise SystemExit(7)\n")
    assert run(tmp_path, "sh", ".dvc/stage", "prompts", variables=PACKAGE).returncode == 0


def test_dvc_runs_without_git(tmp_path: Path):
    folder = tmp_path / "project"
    path = without(tmp_path, "git", "python", "python3")
    tgo(tmp_path, "init", "project", "--demo", PATH=path)
    assert not (folder / ".git").exists()
    done = run(folder, "dvc", "repro", "prompts", variables={**PACKAGE, "PATH": path})
    assert "Running stage 'prompts'" in done.stdout
    assert (folder / "data/prompts.parquet").is_file()


def test_captions_that_the_oracle_does_not_know_stop_a_run_at_its_beginning(tmp_path: Path):
    tgo(tmp_path, "init", "--demo")
    (tmp_path / "own.txt").write_text("a dog in the snow\n")
    set_params(tmp_path, {"prompts": {"train": "own.txt", "test": {"own": "own.txt"}}})
    said = "prompts.test.own is own.txt, with 'a dog in the snow': remove oracle from the rewards"
    for words in (["run", "all"], ["run", "inputs"]):
        refused = tgo(tmp_path, *words, ok=False)
        assert refused.returncode == 2 and said in refused.stderr
    assert said in tgo(tmp_path, "doctor", ok=False).stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("al", "'al' is not a stage: it must be one of prompts, generate"),
        ("score..labels", "score..labels: 'labels' is not a stage"),
        ("label..score", "label..score: score comes before label"),
    ],
)
def test_stages_that_there_are_not(tmp_path: Path, stage: str, message: str):
    refused = tgo(tmp_path, "run", stage, ok=False)
    assert refused.returncode == 2 and message in refused.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project that ran to its end without DVC, git and a home that can be written."""
    base = tmp_path_factory.mktemp("all")
    folder = base / "project"
    path = without(base, "git", "dvc")
    tgo(base, "init", "project", "--demo", PATH=path)
    set_params(folder, TOY_HERE)
    done = tgo(folder, "run", "all", PATH=path, HOME="/proc/nowhere")
    assert done.stdout.rstrip().endswith(f"The report: {folder / 'report.html'}")
    return folder


def results(output: str) -> dict[str, str]:
    """What the summary says of each stage."""
    rows = (line.strip("│┃ ").split("│") for line in output.splitlines() if "│" in line)
    return {row[0].strip(): row[1].strip() for row in rows}


def test_all_stages_run_and_then_none(project: Path):
    assert (project / "report.html").stat().st_size > 100_000
    again = results(tgo(project, "run", "all").stdout)
    assert set(again.values()) == {"up to date"} and len(again) == 8


def test_what_is_missing_after_the_last_shard_is_written(project: Path):
    (project / "metrics/label.json").unlink()
    again = results(tgo(project, "run", "..label").stdout)
    assert [stage for stage, result in again.items() if result == "done"] == ["label"]
    assert (project / "metrics/label.json").is_file()


def test_a_value_that_was_set_makes_later_stages_stale(project: Path):
    again = results(tgo(project, "run", "threshold..label", "--set", "label.c=1").stdout)
    assert again == {"threshold": "done", "label": "done"}
    refused = tgo(project, "run", "fine_tune", ok=False)
    assert refused.returncode == 2
    assert (
        "the results of threshold are not those" in refused.stderr
        and "made with --set label.c=1" in refused.stderr
    )
    back = results(tgo(project, "run", "..label").stdout)
    assert [stage for stage, result in back.items() if result == "done"] == ["threshold", "label"]
    assert set(results(tgo(project, "run", "all").stdout).values()) == {"up to date"}


def test_a_stage_that_fails_ends_the_row(project: Path, tmp_path: Path):
    folder = shutil.copytree(project, tmp_path / "copy")
    shutil.rmtree(folder / "data/generations")
    set_params(folder, {"model": "nowhere"})
    refused = tgo(folder, "run", "all", ok=False)
    assert refused.returncode == 2 and "nowhere" in refused.stderr
    said = results(refused.stdout)
    assert said["generate"] == "ended with exit code 2" and said["report"] == "not begun"


@pytest.mark.parametrize("whom", ["the command", "the group"])
def test_a_signal_ends_the_stage_once(project: Path, tmp_path: Path, whom: str):
    folder = shutil.copytree(project, tmp_path / "copy")
    shutil.rmtree(folder / "data/generations")
    set_params(folder, {"prompts": {"limit": 200}, "generate": {"steps": 8}})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.cli", "run", "all"],
        cwd=folder,
        env={**environment(), **PACKAGE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not list((folder / "data").glob("generations/*.parquet")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM) if whom == "the command" else os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "finishing the work in hand" in errors and "interrupted; what was finished is kept" in errors
    assert "Traceback" not in errors
    assert results(output)["generate"] == "ended with exit code 130"
    assert not list(folder.rglob(".tmp-*"))
