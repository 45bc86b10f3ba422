"""The working folder: git and DVC, who is writing in it, and what interrupted runs left."""

from __future__ import annotations

import errno
import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.doctor.findings import Finding, fail, note, ok, warn
from tgo_pipeline.doctor.request import Request
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.formats.files import read_text
from tgo_pipeline.inputs.demanded import lacking
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.storage.writing import TEMPORARY, is_abandoned

if TYPE_CHECKING:
    from tgo_pipeline.doctor.examine import Check

DVC, LOCK = HERE.pipeline, HERE.lock
DVC_LOCK = Path(".dvc/tmp/lock")
STEP_BY_STEP = "`tgo run all` runs the stages without it"


def checks(case: Request) -> Iterator[Check]:
    """Permission, git, DVC, locks and leftovers of the working folder."""
    yield "folder", _writable
    yield "git", _git
    yield "dvc", _dvc
    yield str(DVC), lambda: _stages(case.path if case.params else None)
    yield "lock", _locks
    yield "leftovers", _leftovers


def _outputs() -> list[Path]:
    """The folders that stages write to."""
    named = (
        HERE.generations,
        HERE.evaluation_images,
        HERE.model,
        HERE.metrics,
        HERE.plots,
        HERE.training,
        HERE.tables,
        HERE.runs,
        HERE.share,
    )
    return sorted({Path(path.parts[0]) for path in named})


def _writable() -> Iterator[Finding]:
    refused = [folder for folder in (Path(), *_outputs()) if folder.is_dir() and not _can_write(folder)]
    for folder in refused:
        yield fail("folder", f"{folder.resolve()} cannot be written: change its owner or permissions.")
    if not refused:
        yield ok("folder", f"{Path.cwd()} can be written.")


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _git() -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield warn("git", f"is not installed, and `dvc repro` needs it; {STEP_BY_STEP}.")
    elif _ask_git("rev-parse", "--is-inside-work-tree") is None:
        yield warn(
            "git", f"{Path.cwd()} is in no repository: `dvc repro` needs one (git init); {STEP_BY_STEP}."
        )
    elif _ask_git("rev-parse", "--verify", "HEAD") is None:
        yield warn(
            "git", "has no commit here yet, which the log of the training needs: git add -A, git commit."
        )
    elif changed := _ask_git("status", "--porcelain", "--", str(LOCK)):
        state = "is new" if changed.startswith("?") else "has changed"
        yield note(
            str(LOCK), f"{state} and is not committed: commit it with params.yaml, to find this run again."
        )
    else:
        yield ok("git", "a repository.")


def _ask_git(*arguments: str) -> str | None:
    """What git answers; None if it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout if done.returncode == 0 else None


def _dvc() -> Iterator[Finding]:
    root = next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".dvc").is_dir()), None)
    if root is None:
        yield warn(
            "dvc", f"{Path.cwd()} is not a project of DVC: `dvc init`, then `dvc repro`; {STEP_BY_STEP}."
        )
    else:
        yield ok("dvc", f"initialised in {root}.")


def _stages(params: Path | None) -> Iterator[Finding]:
    from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA
    from voluptuous import Invalid

    if not DVC.is_file():
        yield warn(str(DVC), f"is not here: `dvc repro` needs it (`tgo init` writes it); {STEP_BY_STEP}.")
        return
    try:
        content: Any = COMPILED_MULTI_STAGE_SCHEMA(yaml_text.loads(read_text(DVC)))
    except (TgoError, Invalid, OSError, UnicodeDecodeError) as error:
        yield fail(str(DVC), f"cannot be used by DVC: {error}. Fix it, or `git checkout {DVC}`.")
        return
    stages = content.get("stages", {})
    if "inputs" not in stages:
        yield warn(
            str(DVC),
            "is of an earlier version, whose DVC sees neither changed files that the parameters name nor another "
            "version of the code: `tgo init` in another folder writes the present one.",
        )
        return
    yield ok(str(DVC), f"{len(stages)} stages.")
    if params is not None and (said := lacking(HERE.moved(params=params))):
        yield fail(str(DVC), f"{said} `tgo run` needs none of it.")


def _locks() -> Iterator[Finding]:
    files = [file for folder in _outputs() for file in sorted(folder.rglob(".*.lock"))]
    for file in (file for file in files if _held(file)):
        folder = file.parent / file.name.removeprefix(".").removesuffix(".lock")
        yield warn("lock", f"process {_holder(file)} is writing {folder}: wait for it, or end it first.")
    if DVC_LOCK.is_file() and _held(DVC_LOCK):
        yield warn("lock", f"process {_holder(DVC_LOCK)} runs DVC here: wait for it, or end it first.")


def _holder(file: Path) -> str:
    """The number of the process that wrote its own into a lock."""
    return file.read_text(errors="replace").strip() or "unknown"


def _held(file: Path) -> bool:
    """Whether another process has locked a file; nothing is changed."""
    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
        fcntl.flock(stream, fcntl.LOCK_UN)
        return False


def _leftovers() -> Iterator[Finding]:
    found = [path for folder in _outputs() for path in sorted(folder.rglob(f"{TEMPORARY}*"))]
    found += sorted(Path().glob(f"{TEMPORARY}*"))
    left = [path for path in found if is_abandoned(path)]
    if left:
        size = sum(file.stat().st_size for path in left for file in _files(path))
        yield note(
            "leftovers",
            f"{len(left)} of interrupted runs, {size / 1e6:.1f} MB, such as {left[0]}: the stage that wrote them "
            "removes them, and they may be deleted.",
        )


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
