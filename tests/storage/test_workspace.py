"""The places of a project: below its root, where dvc.yaml has them, and nowhere twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tgo_pipeline.storage.digests import sidecar
from tgo_pipeline.storage.workspace import HERE, Workspace

ROOT = Path(__file__).parents[2]
NAMES = [name for name, value in vars(Workspace).items() if type(value).__name__ == "_At"]


def _named(stage: dict[str, Any]) -> Iterator[Path]:
    for key in ("deps", "outs", "metrics", "plots"):
        for entry in stage.get(key, []):
            yield from map(Path, [entry] if isinstance(entry, str) else entry)


def test_dvc_names_no_other_places() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {path for stage in stages.values() for path in _named(stage)}
    places = {getattr(HERE, name) for name in NAMES}
    places |= {sidecar(place) for place in places}
    assert named
    assert [path for path in named if places.isdisjoint([path, *path.parents])] == []


def test_every_place_lies_below_the_root_by_itself(tmp_path: Path) -> None:
    places = [getattr(Workspace(tmp_path), name) for name in NAMES]
    assert len(set(places)) == len(NAMES) > 20
    assert all(place.is_relative_to(tmp_path) and place != tmp_path for place in places)
    assert [tmp_path / getattr(HERE, name) for name in NAMES] == places


def test_a_moved_place_leaves_the_others(tmp_path: Path) -> None:
    moved = Workspace(tmp_path).moved(labels=Path("mine")).moved(model=Path("model"))
    assert (moved.labels, moved.model, moved.scores) == (
        Path("mine"),
        Path("model"),
        tmp_path / "data/scores",
    )
    assert Workspace(tmp_path).labels == tmp_path / "data/labels"
