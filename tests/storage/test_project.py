"""What makes a folder a project: dvc.yaml and DVC's settings, from the package and beside a recipe."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

from tests.project import ROOT
from tgo_pipeline.storage.project import FILES, make_project

PACKAGE = ROOT / "tgo_pipeline/storage"


def test_a_project_gets_the_files_of_this_repository(tmp_path: Path):
    assert make_project(tmp_path)
    tracked = subprocess.run(
        ["git", "ls-files", ".dvc", ".dvcignore", ".gitignore", "dvc.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {str(target) for target in FILES.values()} == set(tracked)
    for name in tracked:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
        assert not (tmp_path / name).is_symlink()


def test_they_come_with_the_package():
    """As package data; under a name that DVC does not take for another pipeline of this repository."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        patterns = tomllib.load(stream)["tool"]["setuptools"]["package-data"]["tgo_pipeline.storage"]
    found = {path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()}
    assert {PACKAGE / "project_files" / name for name in FILES} == found
    assert not [path for path in found if path.name in ("dvc.yaml", "dvc.lock") or path.suffix == ".dvc"]


def test_what_is_there_stays(tmp_path: Path):
    (tmp_path / ".gitignore").write_text("/own\n")
    assert make_project(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "/own\n"
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    assert not make_project(tmp_path)
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {}\n"


def test_a_folder_inside_of_a_project_of_dvc_is_left_alone(tmp_path: Path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    assert not make_project(tmp_path / "recipes")
    assert not list((tmp_path / "recipes").iterdir())
    assert make_project(tmp_path)  # after `dvc init` the pipeline is all that is missing
