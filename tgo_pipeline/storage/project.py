"""The files that make a folder a project: the pipeline in dvc.yaml, and DVC's settings and plot templates.

They are those of this repository (`project_files` links to them), so that an installed package brings the same ones.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.storage.writing import atomic

PIPELINE = HERE.pipeline
FILES = {
    "pipeline.yaml": PIPELINE,  # DVC would take a second dvc.yaml for a second pipeline
    "gitignore": Path(".gitignore"),
    "dvcignore": Path(".dvcignore"),
    "dvc/config": Path(".dvc/config"),
    "dvc/gitignore": Path(".dvc/.gitignore"),
    "dvc/plots/threshold_histogram.json": Path(".dvc/plots/threshold_histogram.json"),
    "dvc/plots/weight_histogram.json": Path(".dvc/plots/weight_histogram.json"),
    "dvc/plots/win_rates.json": Path(".dvc/plots/win_rates.json"),
}
"""What the package brings, and where it belongs in a project."""


def make_project(folder: Path) -> bool:
    """Write dvc.yaml and what belongs to it, unless it is there or DVC has a project around the folder.

    Other files that are there stay as they are. Returns whether dvc.yaml was written.
    """
    place = folder.resolve()
    if (place / PIPELINE).exists() or any((above / ".dvc").is_dir() for above in place.parents):
        return False
    for name, target in FILES.items():
        if not (place / target).exists():
            with atomic(place / target) as temporary:
                temporary.write_bytes(
                    (resources.files("tgo_pipeline.storage") / "project_files" / name).read_bytes()
                )
    return True
