"""What makes a folder a project: dvc.yaml and DVC's settings, from the package, with the parameters of a recipe."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.project import ROOT
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.project import FILES, README, first_run, make_project

PACKAGE = ROOT / "tgo_pipeline/storage"


def test_a_project_gets_the_files_of_this_repository(tmp_path: Path):
    written = make_project(tmp_path, "seed: 1\n")
    tracked = subprocess.run(
        ["git", "ls-files", ".dvc", ".dvcignore", ".gitignore", "dvc.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {str(target) for target in FILES.values()} == set(tracked)
    assert {str(path) for path in written} == {*tracked, README, "params.yaml"}
    for name in tracked:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "params.yaml").read_text() == "seed: 1\n"


def test_they_come_with_the_package():
    """As package data; under a name that DVC does not take for another pipeline of this repository."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        patterns = tomllib.load(stream)["tool"]["setuptools"]["package-data"]["tgo_pipeline.storage"]
    found = {path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()}
    assert {PACKAGE / "project_files" / name for name in (*FILES, README)} == found
    assert not [path for path in found if path.name in ("dvc.yaml", "dvc.lock") or path.suffix == ".dvc"]


def test_files_of_ones_own_stay(tmp_path: Path):
    (tmp_path / ".gitignore").write_text("/own\n")
    make_project(tmp_path, "seed: 1\n")
    assert (tmp_path / ".gitignore").read_text() == "/own\n"


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "README.md", ".dvc/config"])
def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path: Path, name: str):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("own\n")
    with pytest.raises(TgoError, match=f"{name}: there already, and nothing is overwritten"):
        make_project(tmp_path, "seed: 1\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "own\n"


def test_again_with_the_same_parameters_is_no_overwriting(tmp_path: Path):
    make_project(tmp_path, "seed: 1\n")
    assert make_project(tmp_path, "seed: 1\n") == []


def test_a_folder_inside_of_a_project_of_dvc_is_refused(tmp_path: Path):
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(TgoError, match="a project of DVC already"):
        make_project(tmp_path / "inside", "seed: 1\n")
    assert not (tmp_path / "inside").exists()
    make_project(tmp_path, "seed: 1\n")  # after `dvc init` the pipeline is all that is missing


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(TgoError, match="is a file: name a folder"):
        make_project(tmp_path / "file", "seed: 1\n")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/prompts.parquet", "run `tgo run prompts` first, which writes it"),
        ("/home/me/project/data/scores", "run `tgo run score` first, which writes it"),
        ("data/evaluation/samples.parquet", "run `tgo run evaluate` first, which writes it"),
        ("data/thresholds.parquet", "run `tgo run threshold` first, which writes it"),
        ("elsewhere/scores", "run the stage that writes it first"),
    ],
)
def test_the_stage_of_a_missing_result_is_named(path: str, said: str):
    assert first_run(Path(path)) == said
