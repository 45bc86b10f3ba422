"""Code of the project folder: the files that `module:object` stands for, and who may run them.

    code_files("rewards_of_mine:brightness")    # [Path("rewards_of_mine.py")]

Commands that only look (`tgo status`, `tgo plan`, `tgo doctor`, DVC's first stage) run no code of a folder that may
just have been cloned, and wait for no import: they find the files of a part by reading, and compare hashes.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.fingerprints import content_fingerprint

_looking = False


class NotChecked(TgoError):
    """What a command that only looks leaves unsaid, because it would have to run code of the project folder."""


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """While it lasts, code of the project folder is not imported: asking for it raises `NotChecked`."""
    global _looking
    before, _looking = _looking, True
    try:
        yield
    finally:
        _looking = before


def require_leave(what: str, reference: str) -> None:
    """Raise `NotChecked` for code of the project folder in a command that only looks."""
    if _looking and is_of_project(reference):
        raise NotChecked(
            f"not checked: {what} is code of this folder, which only commands that run stages import."
        )


def is_of_project(reference: str) -> bool:
    """Whether `module:object` is found in the current folder, before any that is installed."""
    return _of_project(reference.split(":")[0].split(".")[0]) is not None


def code_hashes(reference: str) -> list[str]:
    """A hash of each file of `code_files`. Raises `TgoError` if the module is not there."""
    module = reference.partition(":")[0]
    if _find(module) is None:
        raise TgoError(f"there is no module {module!r}, neither installed nor in {Path.cwd()}.")
    return [content_fingerprint(file) for file in code_files(reference)]


def code_files(reference: str) -> list[Path]:
    """The file of the module, then that of each module which it imports the object from; empty if there is none.

    Modules of the current folder come first, as they do when the object is imported.
    """
    module, _, path = reference.partition(":")
    place: tuple[str, str] | None = (module, path.split(".")[0])
    files: list[Path] = []
    while place is not None and (spec := _find(place[0])) is not None:
        file = Path(spec.origin or "")
        if file in files or not file.is_file():
            break
        files.append(file)
        place = _imported_from(spec, file, place[1])
    return files


def _find(module: str) -> ModuleSpec | None:
    """`importlib.util.find_spec`, except that parent packages are not imported."""
    first, *rest = module.split(".")
    spec = _of_project(first) or _installed(first)
    name = first
    for part in rest:
        name = f"{name}.{part}"
        places = spec.submodule_search_locations if spec is not None else None
        spec = None if places is None else PathFinder.find_spec(name, list(places))
    return spec


def _of_project(name: str) -> ModuleSpec | None:
    importlib.invalidate_caches()
    return PathFinder.find_spec(name, [str(Path.cwd())])


def _installed(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return None


def _imported_from(spec: ModuleSpec, file: Path, name: str) -> tuple[str, str] | None:
    """Module and name that `from module import name` takes the object from; None if the file defines it itself."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):  # a compiled module, or a file that cannot be imported either
        return None
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return _absolute(spec, statement), alias.name
    return None


def _absolute(spec: ModuleSpec, statement: ast.ImportFrom) -> str:
    package = spec.name if spec.submodule_search_locations is not None else spec.parent or ""
    return importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)


def stated_version(reference: str) -> str:
    """The attribute `version` of an object as its file states it, "" if it states none.

    Read and not run: `version = "2"` in the body of a class, or `name.version = "2"` beside a function.
    """
    value = stated(reference, "version")
    if value is None:
        return ""
    return str(value.value) if isinstance(value, ast.Constant) else ast.unparse(value)


def stated(reference: str, attribute: str, file: Path | None = None) -> ast.expr | None:
    """What the file of an object gives an attribute of it, read and not run; None if it gives it nothing.

    `file` is the one that defines the object, where that is not found from here.
    """
    if file is None:
        file = next(reversed(code_files(reference)), None)
    try:
        body = ast.parse(file.read_bytes()).body if file is not None else []
    except (SyntaxError, ValueError):
        return None
    name = reference.partition(":")[2].split(".")[-1]
    given = [_given(node, f"{name}.{attribute}") for node in body]
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.ClassDef) and node.name == name:
            given += [_given(line, attribute) for line in node.body]
    return next((value for value in given if value is not None and ast.unparse(value) != "None"), None)


def _given(node: ast.stmt, target: str) -> ast.expr | None:
    """What an assignment gives `target`; None if it gives it nothing."""
    pairs: list[tuple[ast.expr, ast.expr | None]] = []
    if isinstance(node, ast.AnnAssign):
        pairs = [(node.target, node.value)]
    elif isinstance(node, ast.Assign):
        pairs = [(each, node.value) for each in node.targets]
    for left, right in pairs:
        if isinstance(left, ast.Tuple) and isinstance(right, ast.Tuple):
            pairs += zip(left.elts, right.elts, strict=False)
        elif right is not None and ast.unparse(left) == target:
            return right
    return None
