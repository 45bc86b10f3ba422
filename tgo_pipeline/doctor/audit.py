"""Every stored file of a project read and held against its digest; those that have none get one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import TEMPORARY, adopt, adopt_folder


@dataclass
class Audit:
    """What was found: files that hold what was written, those that had no digest and have one now, and the others."""

    right: int = 0
    noted: int = 0
    size_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """What to say of each file that holds something else."""


def audit(workspace: Workspace) -> Audit:
    """Read all tables, caches and models of a project."""
    found = Audit()
    for path in _files(workspace):
        _check(path, digests.sidecar(path), digests.verify, adopt, found)
    for folder in _folders(workspace):
        _check(folder, folder / digests.MANIFEST, digests.verify_folder, adopt_folder, found)
    return found


def _check(
    path: Path, digest: Path, verify: Callable[[Path], object], note: Callable[[Path], None], found: Audit
) -> None:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    found.size_bytes += sum(file.stat().st_size for file in files)
    try:
        if not digest.is_file():
            note(path)
            found.noted += 1
            return
        verify(path)
        found.right += 1
    except TgoError as error:
        found.damaged.append(str(error))


def _files(workspace: Workspace) -> Iterator[Path]:
    """The files that have a sidecar each."""
    tables = (
        workspace.prompts,
        workspace.thresholds,
        workspace.baselines,
        workspace.adequacy,
        workspace.evaluation,
        workspace.sweep,
    )
    yield from (path for path in tables if path.is_file())
    folders = (
        workspace.generations,
        workspace.scores,
        workspace.labels,
        workspace.encoded,
        workspace.evaluation_images,
        workspace.sweep_images,
        workspace.tables,
    )
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
            if path.suffix in digests.KINDS and not hidden:
                yield path


def _folders(workspace: Workspace) -> Iterator[Path]:
    """The folders that were written as a whole: the tuned model, or each module of a guidance, and checkpoints."""
    for parent in (workspace.model.parent, workspace.checkpoints):
        for path in sorted(parent.rglob("*")):
            hidden = any(part.startswith(TEMPORARY) for part in path.parts)
            if not hidden and path.is_dir() and _is_whole(path):
                yield path


def _is_whole(folder: Path) -> bool:
    if (folder / digests.MANIFEST).is_file():
        return True
    if any((folder / name).is_file() for name in ("model_index.json", "state.json")):
        return True
    return (folder / "tgo.json").is_file() and any(folder.glob("*.safetensors"))
