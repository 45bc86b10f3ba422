"""The files that `module:object` stands for, found without running any of them.

    code_files("rewards_of_mine:brightness")    # [Path("rewards_of_mine.py")]

DVC's first stage runs before every `dvc repro` and looks at this code without importing it: an import may take seconds,
or load weights.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


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
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(first, [str(Path.cwd())]) or _installed(first)
    name = first
    for part in rest:
        name = f"{name}.{part}"
        places = spec.submodule_search_locations if spec is not None else None
        spec = None if places is None else PathFinder.find_spec(name, list(places))
    return spec


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
