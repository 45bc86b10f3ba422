"""Training curves: the tab-separated metrics of a dvclive folder, grouped into panels of related series."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

POINTS = 400
_SIDES = ("policy", "reference", "positive", "negative")
_ORDER = ("loss", "accuracy", "log ratio", "mse", "error", "ess", "weight", "learning rate")
_DROPPED = ("train", "mean")


@dataclass(frozen=True)
class Curve:
    """One metric over steps; `name` is what sets it apart inside its panel ("positive", "policy negative")."""

    name: str
    steps: list[float]
    values: list[float]

    @property
    def first(self) -> float:
        """Mean over the first tenth of the steps."""
        return _mean(self.values[: max(1, len(self.values) // 10)])

    @property
    def last(self) -> float:
        """Mean over the last tenth of the steps."""
        return _mean(self.values[-max(1, len(self.values) // 10) :])


@dataclass(frozen=True)
class Panel:
    title: str
    curves: list[Curve]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def panels(training: Path) -> list[Panel] | None:
    """Every metric in `plots/metrics` of a dvclive folder; series that differ only by side share a panel."""
    folder = training / "plots" / "metrics"
    grouped: dict[str, list[Curve]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        title, name = split_name(path.relative_to(folder).with_suffix("").as_posix())
        steps, values = _read(path)
        if values:
            grouped.setdefault(title, []).append(Curve(name, *_thin(steps, values)))
    if not grouped:
        return None
    return [Panel(title, grouped[title]) for title in sorted(grouped, key=_rank)]


def split_name(metric: str) -> tuple[str, str]:
    """A metric's panel and its side in it: "train/log_ratio_positive" is ("log ratio", "positive")."""
    words = [word for word in re.split(r"[/_. \-]+", metric.lower()) if word]
    side = [word for word in _SIDES if word in words]
    rest = [word for word in words if word not in _SIDES and word not in _DROPPED]
    return " ".join(rest) or "value", " ".join(side)


def _rank(title: str) -> tuple[int, str]:
    places = [place for place, known in enumerate(_ORDER) if known in title]
    return (min(places) if places else len(_ORDER), title)


def _read(path: Path) -> tuple[list[float], list[float]]:
    with path.open(newline="") as stream:
        reader = csv.reader(stream, delimiter="\t")
        header = next(reader, [])
        if "step" not in header or len(header) < 2:
            return [], []
        step = header.index("step")
        rows = [(float(row[step]), float(row[-1])) for row in reader if len(row) == len(header)]
    kept = [row for row in rows if np.isfinite(row[1])]
    return [row[0] for row in kept], [row[1] for row in kept]


def _thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most `POINTS` points: the mean of each of that many stretches of equal length."""
    if len(steps) <= POINTS:
        return list(steps), list(values)
    edges = np.linspace(0, len(steps), POINTS + 1).astype(int)
    return _block_means(steps, edges), _block_means(values, edges)


def _block_means(series: Sequence[float], edges: np.ndarray) -> list[float]:
    return (np.add.reduceat(np.asarray(series, dtype=np.float64), edges[:-1]) / np.diff(edges)).tolist()
