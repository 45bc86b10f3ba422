"""Imports go one way: the rooms of the house in layers, and no circle of files or folders.

`LAYERS` is the order, lowest first; a room imports from rooms above it in this list alone. docs/ARCHITECTURE.md shows
the same rooms. Imports for types alone and imports inside functions count like any other.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tgo_pipeline", "fine_tune", "stages")
LAYERS = (
    "tgo_pipeline",  # errors, seeds, devices, memory, signals
    "tgo_pipeline/formats",
    "tgo_pipeline/rendering",
    "tgo_pipeline/storage",
    "tgo_pipeline/demo",
    "tgo_pipeline/hub",
    "tgo_pipeline/reading",
    "tgo_pipeline/plugins",
    "tgo_pipeline/rewards",
    "tgo_pipeline/datasets",
    "tgo_pipeline/params",
    "tgo_pipeline/executors",
    "tgo_pipeline/demo_training",
    "tgo_pipeline/prompts",
    "tgo_pipeline/feedback",
    "tgo_pipeline/images",
    "tgo_pipeline/generators",
    "tgo_pipeline/scoring",
    "tgo_pipeline/thresholds",
    "tgo_pipeline/rating",
    "tgo_pipeline/planning",
    "tgo_pipeline/evaluation",
    "tgo_pipeline/report",
    "tgo_pipeline/inputs",
    "tgo_pipeline/doctor",
    "tgo_pipeline/sharing",
    "fine_tune/policies",
    "fine_tune/distributed",
    "fine_tune/data",
    "fine_tune/objectives",
    "fine_tune/training",
    "fine_tune/reward_backprop",
    "fine_tune/noise_levels",
    "fine_tune",
    "stages",
    "stages/commands",
    "stages/cli.py",
)
LOOSE = 5
"""How many modules may lie at the root of `tgo_pipeline`."""
FULL = 15
"""How many modules a folder may hold before it wants parting."""

Imports = Mapping[str, set[str]]


def modules(root: Path) -> dict[str, str]:
    """Dotted name to path, relative to `root`, of every module of the packages."""
    paths = (path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): str(path) for path in paths}


def imports(root: Path) -> dict[str, set[str]]:
    """The files that each file imports."""
    known = modules(root)
    return {path: set(_imported(root / path, known)) - {path} for path in known.values()}


def _imported(path: Path, known: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: imports are absolute here"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in full]
        else:
            continue
        yield from (known[name] for name in names if name in known)


def room(path: str) -> str:
    """The room of a file: its folder, two names deep at most; the command line has one of its own."""
    return path if path in LAYERS else "/".join(Path(path).parent.parts[:2])


def circle(graph: Imports) -> list[str]:
    """One circle of a graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def upward(found: Imports) -> list[str]:
    """Imports from a room of a higher layer."""
    height = {name: place for place, name in enumerate(LAYERS)}
    pairs = ((importer, imported) for importer, files in found.items() for imported in files)
    return [f"{a} imports {b}" for a, b in pairs if height[room(a)] < height[room(b)]]


def without_faces(found: Imports) -> dict[str, set[str]]:
    """The graph of files without `__init__.py`, which re-exports what its folder holds."""
    return {
        path: {file for file in files if not file.endswith("__init__.py")}
        for path, files in found.items()
        if not path.endswith("__init__.py")
    }


def test_every_room_has_its_layer() -> None:
    assert {room(path) for path in modules(ROOT).values()} == set(LAYERS)


def test_imports_go_down() -> None:
    assert upward(imports(ROOT)) == []


def test_no_circle_of_files() -> None:
    assert circle(without_faces(imports(ROOT))) == []


def test_rooms_are_not_crowded() -> None:
    paths = [Path(path) for path in modules(ROOT).values()]
    loose = [path for path in paths if path.parent == Path("tgo_pipeline") and path.stem != "__init__"]
    assert len(loose) <= LOOSE
    folders = {path.parent for path in paths}
    assert {folder for folder in folders if sum(path.parent == folder for path in paths) > FULL} == set()


@pytest.mark.parametrize("line", ["import fine_tune.stage", "from fine_tune import stage"])
def test_an_import_upward_is_seen(tmp_path: Path, line: str) -> None:
    write(tmp_path, "tgo_pipeline/hub/files.py", f"def fetch():\n    {line}\n")
    write(tmp_path, "fine_tune/stage.py", "")
    assert upward(imports(tmp_path)) == ["tgo_pipeline/hub/files.py imports fine_tune/stage.py"]


def test_a_circle_is_seen_where_it_is_for_types_alone(tmp_path: Path) -> None:
    write(tmp_path, "tgo_pipeline/hub/files.py", "from tgo_pipeline.hub.cache import a")
    lines = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tgo_pipeline.hub import files\n"
    write(tmp_path, "tgo_pipeline/hub/cache.py", lines)
    assert set(circle(without_faces(imports(tmp_path)))) == {
        "tgo_pipeline/hub/files.py",
        "tgo_pipeline/hub/cache.py",
    }


def test_the_architecture_shows_every_room() -> None:
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    assert [name for name in LAYERS if f"`{name}/`" not in page and not name.endswith(".py")] == []


def started(path: Path) -> set[str]:
    """Functions that a file both defines and hands to another process, by `submit(name, …)` or `target=name`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    handed = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "target"]
    handed += [call.args[0] for call in calls if ast.unparse(call.func).endswith(".submit") and call.args]
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return defined & {ast.unparse(value) for value in handed}


def test_a_package_starts_no_function_of_its_main_file() -> None:
    """A spawned process does not import the `__main__` of a package again, and would not find the function."""
    files = [path for folder in (*PACKAGES, "benchmarks") for path in (ROOT / folder).rglob("__main__.py")]
    assert files
    assert {path: names for path in files if (names := started(path))} == {}


def test_a_function_started_from_a_main_file_is_seen(tmp_path: Path) -> None:
    write(tmp_path, "a/__main__.py", "def ask(): ...\npool.submit(ask, 1)\ncontext.Process(target=ask)\n")
    assert started(tmp_path / "a/__main__.py") == {"ask"}


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
