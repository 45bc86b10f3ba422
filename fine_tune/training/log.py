"""What training says of itself: dvclive metrics at every step, now and then a histogram of the log-ratios.

Trackers, if there are any, hear the same; dvclive's files are what they are filled from when a training resumes.

A row's step is the number of updates done, its values are those of the batch of that update, before it.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.writing import TEMPORARY, atomic

if TYPE_CHECKING:
    from dvclive.live import Live

    from fine_tune.training.trackers import Tracker

HISTOGRAM, HISTOGRAM_BINS = "log_ratios.csv", 24
"""Few enough bins that the samples of one update, some tens to hundreds, leave several in most of them."""
SUMMARY = "metrics.json"
IMAGES = "images"
SERIES = "train"
_SIDES = ("negative", "positive")


def _live(folder: Path, resume: bool) -> Live:
    """Open dvclive's log. Raises `TgoError` in a git repository without a commit, where dvclive asks for one."""
    from dvclive.live import Live
    from scmrepo.exceptions import SCMError

    try:
        return Live(str(folder), resume=resume, save_dvc_exp=False, dvcyaml=False)
    except SCMError as error:
        raise TgoError(
            f"dvclive cannot open the log of the training ({error}): it needs a git repository with a commit. "
            "`git add -A`, `git commit`, and run again."
        ) from error


class TrainingLog:
    """Metrics in `folder` as dvclive writes them, going on after `step` without repeating or losing one."""

    def __init__(
        self,
        folder: Path,
        step: int,
        trackers: Callable[[Written], Sequence[Tracker]] = lambda _: (),
    ) -> None:
        """`trackers` opens those that follow, given what the log holds up to `step`."""
        rewind(folder, step)
        self._folder = folder
        self._live = _live(folder, resume=step > 0)
        self._trackers = trackers(Written(folder))  # dvclive has removed what a training before this one left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self._trackers:
            tracker.close()

    def parameter(self, name: str, value: Any) -> None:
        """Note what the training found out before its first step, in `params.yaml` of the folder."""
        self._live.log_param(name, value)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step."""
        named = {f"{SERIES}/{name}": value for name, value in values.items()}
        self._live.step = step
        for name, value in named.items():
            self._live.log_metric(name, value)
        self._live.sync()
        for tracker in self._trackers:
            tracker.metrics(step, named)

    def image(self, step: int, path: Path) -> None:
        """Tell the trackers of the validation images of a step, which are in the folder already."""
        for tracker in self._trackers:
            tracker.image(step, path)

    def histogram(self, step: int, log_ratio: np.ndarray, label: np.ndarray) -> None:
        """Append the histogram of a step: one row for each side and bin, bins shared by the two sides."""
        edges = np.histogram_bin_edges(log_ratio, HISTOGRAM_BINS)
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        for side, name in enumerate(_SIDES):
            counts, _ = np.histogram(log_ratio[label == side], edges)
            rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
            writer.writerows((step, name, *row) for row in rows)
        path = self._folder / HISTOGRAM
        if not path.is_file():
            path.write_text("step,side,low,high,count\n")
        with path.open("a") as file:
            file.write(stream.getvalue())


@dataclass(frozen=True)
class Written:
    """What a log's folder holds."""

    folder: Path

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Each step with its metrics, in order."""
        by_step: dict[int, dict[str, float]] = defaultdict(dict)
        for path in sorted(self.folder.glob(f"plots/metrics/{SERIES}/*.tsv")):
            with path.open() as stream:
                for row in csv.DictReader(stream, delimiter="\t"):
                    by_step[int(row["step"])][f"{SERIES}/{path.stem}"] = float(row[path.stem])
        yield from sorted(by_step.items())

    def images(self) -> dict[int, Path]:
        """Each step with validation images."""
        return {image_step(path): path for path in (self.folder / IMAGES).glob("step-*.png")}


def image_path(folder: Path, step: int) -> Path:
    """Where the validation images of a step lie."""
    return folder / IMAGES / f"step-{step:05d}.png"


def image_step(path: Path) -> int:
    """The step of a file of validation images."""
    return int(path.stem.removeprefix("step-"))


def rewind(folder: Path, step: int) -> None:
    """Bring a log back to where it was after `step` steps; what a killed run left unfinished goes too."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink()
    if step == 0:
        shutil.rmtree(folder / IMAGES, ignore_errors=True)
        (folder / HISTOGRAM).unlink(missing_ok=True)
        return
    for path in (folder / IMAGES).glob("step-*.png"):
        if image_step(path) > step:
            path.unlink()
    _drop_broken(folder / SUMMARY)
    for path in (*folder.glob("plots/metrics/**/*.tsv"), folder / HISTOGRAM):
        if path.is_file():
            _cut(path, step)


def _drop_broken(path: Path) -> None:
    """dvclive overwrites its summary in place: a kill may leave half of it, which dvclive cannot continue from."""
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        path.unlink()


def _cut(path: Path, step: int) -> None:
    header, *rows = path.read_text().splitlines(keepends=True) or [""]
    if not header.endswith("\n"):  # killed before its first row: it starts again
        path.unlink()
        return
    delimiter = "\t" if path.suffix == ".tsv" else ","
    kept = [row for row in rows if row.endswith("\n") and int(row.split(delimiter, 1)[0]) <= step]
    with atomic(path) as temporary:
        temporary.write_text(header + "".join(kept))


def summarise(
    per_sample: Mapping[str, np.ndarray], label: np.ndarray | None, weight: np.ndarray | None
) -> dict[str, float]:
    """Metrics of a batch: the mean of `accuracy`, of everything else the mean on each side.

    Without sides (`label`) all are means of the batch, and one of what is not finite is left out. `weight_ess` is the
    effective sample size of the weights, (sum w)^2 / sum w^2 (Kish). A side without samples is left out.
    """
    whole = {"accuracy"} if label is not None else per_sample.keys()
    values = {name: float(per_sample[name].mean()) for name in per_sample if name in whole}
    if label is None:
        values = {name: value for name, value in values.items() if np.isfinite(value)}
    for name in per_sample.keys() - whole:
        for side, side_name in enumerate(_SIDES):
            if (label == side).any():
                values[f"{name}_{side_name}"] = float(per_sample[name][label == side].mean())
    if weight is not None:
        total = weight.astype(np.float64)
        values["weight_ess"] = float(total.sum() ** 2 / np.square(total).sum()) if total.any() else 0.0
    return dict(sorted(values.items()))
