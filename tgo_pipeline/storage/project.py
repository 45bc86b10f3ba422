"""The files that make a folder a project: parameters, the pipeline in dvc.yaml, DVC's settings and plot templates.

Those of DVC are this repository's own (`project_files` links to them): an installed package brings the same ones.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.storage.workspace import HERE, Workspace
from tgo_pipeline.storage.writing import atomic

FILES = {
    "pipeline.yaml": HERE.pipeline,  # DVC would take a second dvc.yaml for a second pipeline
    "gitignore": Path(".gitignore"),
    "dvcignore": Path(".dvcignore"),
    "dvc/config": Path(".dvc/config"),
    "dvc/gitignore": Path(".dvc/.gitignore"),
    "dvc/stage": Path(".dvc/stage"),
    "dvc/plots/threshold_histogram.json": Path(".dvc/plots/threshold_histogram.json"),
    "dvc/plots/weight_histogram.json": Path(".dvc/plots/weight_histogram.json"),
    "dvc/plots/win_rates.json": Path(".dvc/plots/win_rates.json"),
}
"""What the package brings, and where it belongs in a project."""
README = "README.md"
KEPT = (FILES["gitignore"], FILES["dvcignore"])
"""Files that people have of their own: they stay as they are."""
NO_SCM = "    no_scm = true\n"
"""The setting with which DVC runs without git; the last line of its section `core`."""


def make_project(folder: Path, params: str) -> list[Path]:
    """Write a project with these parameters into a folder, which may hold other files; the files that were written.

    Without git on this machine the project does without it. Raises `TgoError`, before anything is written, if one of
    its files is there with another content, or if the folder is inside of another project.
    """
    contents = {target: _content(name) for name, target in FILES.items()}
    contents |= {HERE.params: params.encode(), Path(README): _content(README)}
    if not has_git():
        contents[FILES["dvc/config"]] += NO_SCM.encode()
    _refuse_inside_of_another(folder)
    _refuse_to_overwrite(folder, contents)
    written = [target for target in contents if not (folder / target).exists()]
    for target in written:
        with atomic(folder / target) as temporary:
            temporary.write_bytes(contents[target])
    with atomic(Workspace(folder).python) as temporary:
        temporary.write_text(f"{sys.executable}\n", encoding="utf-8")
    return written


@functools.cache
def pipeline() -> dict[str, Any]:
    """The pipeline that the package brings, as dvc.yaml has it."""
    return yaml_text.loads(_content("pipeline.yaml").decode())


def first_run(path: Path) -> str:
    """What to do where a result is missing: which stage writes it, if it is a place of the pipeline."""
    for stage, entry in pipeline()["stages"].items():
        for out in entry["outs"]:
            parts = Path(out if isinstance(out, str) else next(iter(out))).parts
            if any(path.parts[at : at + len(parts)] == parts for at in range(len(path.parts))):
                return f"run `tgo run {stage}` first, which writes it"
    return "run the stage that writes it first"


def _content(name: str) -> bytes:
    return (resources.files("tgo_pipeline.storage") / "project_files" / name).read_bytes()


def _refuse_inside_of_another(folder: Path) -> None:
    above = next((above for above in folder.resolve().parents if (above / ".dvc").is_dir()), None)
    if above is not None:
        raise TgoError(
            f"{folder} is inside of {above}, a project of DVC already: choose a folder elsewhere, or "
            f"work in that one."
        )


def _refuse_to_overwrite(folder: Path, contents: Mapping[Path, bytes]) -> None:
    if folder.exists() and not folder.is_dir():
        raise TgoError(f"{folder} is a file: name a folder, which may be new.")
    there = [
        str(folder / target)
        for target, content in contents.items()
        if target not in KEPT and _differs(folder / target, content)
    ]
    if there:
        raise TgoError(
            f"{', '.join(there)}: there already, and nothing is overwritten. Choose another folder, or move them away."
        )


def _differs(path: Path, content: bytes) -> bool:
    return path.exists() and not (path.is_file() and path.read_bytes() == content)


def begin_repository(folder: Path, written: list[Path]) -> bool:
    """Make a folder a git repository whose first commit has these files, unless it is in one, or there is no git.

    The commit is made because dvclive, which writes the log of the training, needs one.
    """
    if not has_git() or git_agrees(folder, "rev-parse", "--is-inside-work-tree"):
        return False
    author = (
        ()
        if git_agrees(folder, "config", "user.email")
        else ("-c", "user.name=tgo", "-c", "user.email=tgo@localhost")
    )
    commands = (
        ("init", "--quiet"),
        ("add", "--", *map(str, written)),
        (*author, "commit", "--quiet", "--message", "Begin the project"),
    )
    for command in commands:
        if not git_agrees(folder, *command):
            raise TgoError(
                f"{folder}: `git {' '.join(command)}` failed. The files of the project are written: make the folder a "
                "repository with a commit by hand."
            )
    return True


def has_git() -> bool:
    """Whether this machine has git."""
    return shutil.which("git") is not None


def git_agrees(folder: Path, *arguments: str) -> bool:
    """Whether a command of git ends well in a folder; without git none does."""
    return (
        has_git()
        and subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False).returncode == 0
    )
