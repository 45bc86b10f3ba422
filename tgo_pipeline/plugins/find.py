"""Import what `module:object` names, and say what is wrong with it in one line."""

from __future__ import annotations

import functools
import importlib
import logging
import multiprocessing
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.plugins import folder
from tgo_pipeline.storage.disk import explanation

log = logging.getLogger("tgo")
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_LOADED: dict[str, str] = {}
"""The files of parts that were imported from outside this package, and what each part is called in messages."""


def is_reference(name: str) -> bool:
    """Whether a name is written as `module:object`."""
    return _REFERENCE.fullmatch(name) is not None


def load(what: str, reference: str) -> Any:
    """The object of `module:object`; modules of the current folder come first. `what` names the part in messages.

    Raises `TgoError` if there is no such module or object, the import fails, or the module may not be run here.
    """
    module, path = reference.split(":")
    folder.require_leave(what, reference)
    if folder.is_of_project(reference):
        _announce(what, module)
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = _import(what, module)
    for part in path.split("."):
        if not hasattr(found, part):
            offered = ", ".join(sorted(key for key, value in vars(found).items() if _offers(key, value)))
            raise TgoError(f"{what}: {module} has no {path!r}; it has {offered or 'nothing to call'}.")
        found = getattr(found, part)
    for name in (module, getattr(found, "__module__", "")):
        if file := getattr(sys.modules.get(name), "__file__", None):
            _LOADED[file] = what
    return found


@functools.cache  # once a process is enough
def _announce(what: str, module: str) -> None:
    """Name code of the project folder before it runs."""
    if multiprocessing.parent_process() is None:
        files = folder.code_files(f"{module}:")
        log.info("%s: running code of this folder, %s", what, files[0] if files else module)


def _import(what: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise TgoError(
                f"{what}: there is no module {error.name!r}, neither installed nor in {Path.cwd()}."
            ) from error
        raise TgoError(f"{what}: {module} needs {error.name!r}, which is not installed.") from error
    except (Exception, SystemExit) as error:  # the latter would end the command without a word
        raise TgoError(f"{what}: importing {module} raised {described(error)}") from error


def _offers(key: str, value: Any) -> bool:
    return callable(value) and not key.startswith("_")


def described(error: BaseException) -> str:
    """The error and the line it came from, without a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SystemExit):  # wandb has a function of its own in the place of `sys.exit`
        frames = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    frame = frames[-1]
    kind, said = type(error).__name__, first_line(error)
    what = kind if said == kind else f"{kind}: {said}"
    return f"{what} ({Path(frame.filename).name}, line {frame.lineno})."


def blamed(error: Exception) -> TgoError | None:
    """What to say of an error that is no fault of this package, in one line; None for any other.

    It is a `TgoError` itself, comes from a part of one's own (its innermost line is named), or is a disk's refusal.
    """
    if isinstance(error, TgoError):
        return error
    return blamed_part(error) or explanation(error)


def blamed_part(error: BaseException) -> TgoError | None:
    """What to say of an error, or of an end of the process, that comes from a part of one's own; None for any other."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if what := _LOADED.get(frame.filename):
            return TgoError(f"{what}, {Path(frame.filename).name}, line {frame.lineno}: {described(error)}")
    return None
