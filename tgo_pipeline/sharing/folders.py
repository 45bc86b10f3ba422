"""The folders that are shared: files of the run as hard links beside their card, which is all that is new on the disk.

A file of a run is never written into, only replaced, so that a link stays what it was. Where links cannot be made (to
another disk) files are copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.sharing.facts import shards
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.locks import lock
from tgo_pipeline.storage.shards import stored_fingerprint
from tgo_pipeline.storage.stores.mirror import here
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic_folder, sweep_temporaries

MARK = ".tgo-share"
CARD = "README.md"
MODEL, DATASET = "model", "dataset"
DATASET_PARTS = ("generations", "scores", "labels")
DESCRIPTIONS = ("tgo.json", "model_index.json", "config.json")
PLACES = ("base", "_name_or_path")
"""Keys of descriptions that may name a folder of this machine."""
_FOLDERS = ("checkpoints", "__pycache__", "encoded")
_SUFFIXES = (".lock", ".tmp", ".part", ".incomplete", ".pyc")
LEFT_OUT = (
    *(".*", "*/.*"),  # hidden, and temporary
    *(f"{before}{name}/*" for name in _FOLDERS for before in ("", "*/")),
    *(f"*{suffix}" for suffix in _SUFFIXES),
)
"""What is not shared, as the hub's library matches names below a folder (`*` goes through folders too)."""


def shared_files(folder: Path) -> list[Path]:
    """The files of a folder that are shared, in order: no temporary, lock, checkpoint or hidden file."""
    from huggingface_hub.utils import filter_repo_objects

    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(folder / name for name in filter_repo_objects(names, ignore_patterns=list(LEFT_OUT)))


@contextlib.contextmanager
def new_folder(folder: Path, kind: str, state: str) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `folder` at the end, marked with what it was made of.

    Raises `TgoError` if `folder` holds something that no earlier call wrote.
    """
    _require_ours(folder)
    with lock(folder):
        sweep_temporaries(folder)
        with atomic_folder(folder, checked=False) as temporary:
            yield temporary
            (temporary / MARK).write_text(json.dumps({"kind": kind, "state": state}) + "\n")


def _require_ours(folder: Path) -> None:
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise TgoError(f"{place} is a file: name a folder with --to.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise TgoError(
            f"{folder} holds files that `tgo card` did not write, and would replace: move them, or name another "
            "folder with --to."
        )


def link_files(source: Path, target: Path, base_model: str | None = None) -> None:
    """Put what is shared of `source` into `target` under the same names.

    Where a model's description names a folder of this machine, a copy says `base_model` or the folder's last name.
    """
    for path in shared_files(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.name in DESCRIPTIONS and (content := _without_folders(path, base_model)):
            place.write_text(content)
        else:
            _link(path, place)


def _without_folders(path: Path, base_model: str | None) -> str | None:
    """The description as it is shared; None if it can stay as it is."""
    content = read_json(path)
    named = {key: value for key, value in content.items() if key in PLACES and _is_folder(value)}
    if not named:
        return None
    shown = {key: base_model or Path(value).name for key, value in named.items()}
    return json.dumps({**content, **shown}, indent=2) + "\n"


def _is_folder(value: Any) -> bool:
    """Whether a value is a folder of this machine rather than an id of the hub, or a module beside the description."""
    return isinstance(value, str) and (Path(value).is_absolute() or Path(value).expanduser().is_dir())


def _link(source: Path, target: Path) -> None:
    source = here(source)
    try:
        os.link(source.resolve(), target)  # DVC may have made the file a link into its cache
    except OSError:
        shutil.copy2(source, target)


def state_of(kind: str, workspace: Workspace) -> str:
    """What a shared folder depends on, without reading images or weights: it is out of date when this changes."""
    if kind == MODEL:
        described = workspace.model / "tgo.json"
        sizes = [
            [str(p.relative_to(workspace.model)), p.stat().st_size] for p in shared_files(workspace.model)
        ]
        return fingerprint(files=sizes, described=described.read_text() if described.is_file() else None)
    folders = {name: getattr(workspace, name) for name in DATASET_PARTS}
    return fingerprint(
        **{
            name: [[p.name, stored_fingerprint(p)] for p in shards(folder)]
            for name, folder in folders.items()
        }
    )


def stored_state(folder: Path) -> dict[str, str]:
    """The kind of a shared folder and the state it was made of; empty if `tgo card` did not write it."""
    try:
        return json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return {}
