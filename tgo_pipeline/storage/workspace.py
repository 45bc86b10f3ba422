"""Where every stage of a project reads and writes: `Workspace(root)`; `dvc.yaml` names the same places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


class _At:
    """A place of a workspace, by its name under the root."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, workspace: Workspace, owner: type) -> Path:
        return workspace.elsewhere.get(self._name) or workspace.root / self._path


@dataclass(frozen=True)
class Workspace:
    """The places of one project.

    A place is an address: stages get it from here, and open it through `storage` (tables, shards, atomic writes). No
    other code says where something lies, or joins the root to a name. `elsewhere` has places that are not where they
    would be under the root.
    """

    root: Path = Path()
    elsewhere: Mapping[str, Path] = field(default_factory=dict)

    params = _At("params.yaml")
    data = _At("data")
    pipeline = _At("dvc.yaml")
    lock = _At("dvc.lock")
    inputs = _At("inputs.yaml")
    prompts = _At("data/prompts.parquet")
    generations = _At("data/generations")
    scores = _At("data/scores")
    thresholds = _At("data/thresholds.parquet")
    baselines = _At("data/baselines.parquet")
    adequacy = _At("data/adequacy.parquet")
    labels = _At("data/labels")
    encoded = _At("data/encoded")
    noise_levels = _At("data/noise_levels.parquet")
    model = _At("models/tuned")
    checkpoints = _At("models/checkpoints")
    evaluation = _At("data/evaluation.parquet")
    evaluation_images = _At("data/evaluation")
    sweep = _At("data/sweep.parquet")
    sweep_images = _At("data/sweep")
    tables = _At("tables")
    metrics = _At("metrics")
    plots = _At("plots")
    training = _At("training")
    runs = _At("runs")
    share = _At("share")
    report = _At("report.html")
    python = _At(".dvc/tmp/python")
    overrides = _At("data/.overrides.json")

    @property
    def samples(self) -> Path:
        """The table of single images of the evaluation."""
        return self.evaluation_images / "samples.parquet"

    def side(self, name: str, kind: str = "generations") -> Path:
        """The `generations` or `scores` of a model of the evaluation, by the name of its folder."""
        return self.evaluation_images / name / kind

    def moved(self, **places: Path) -> Workspace:
        """The same workspace with these places elsewhere."""
        return replace(self, elsewhere={**self.elsewhere, **places})


HERE = Workspace()
"""The project in the working directory, where DVC and the command line run."""
