"""Training curves: the tab-separated metrics of a dvclive folder, grouped into panels of related series."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

POINTS = 400
"""Points of a curve on the page; a longer one is shown by the means of as many stretches."""
NOISE = 20
"""A curve that turns more than once in as many steps is noise with a trend; chance alone turns in two of three."""
HISTOGRAM = "log_ratios.csv"
_SIDES = ("policy", "reference", "positive", "negative")
_LEFT_OUT = ("train", "mean")
_TITLES = {
    "loss": "Loss",
    "accuracy": "Implicit accuracy",
    "log ratio": "Log-ratio to the reference",
    "error": "Error of the prediction",
    "point": "Reference point",
    "reward": "Target score of the images sampled",
    "drift": "Squared distance to the reference",
    "weight ess": "Effective batch size of the weights",
    "gradient norm": "Gradient norm",
    "learning rate": "Learning rate",
}
"""Panels in the order that they are shown in; metrics without a title here follow under their own names."""
_UNSHOWN = ("epoch",)


@dataclass(frozen=True)
class Curve:
    """One metric over steps; `name` is what sets it apart inside its panel ("positive", "policy negative")."""

    name: str
    steps: list[float]
    values: list[float]

    @property
    def noisy(self) -> bool:
        """Whether it turns all the time; a learning rate with its warm-up does not and is drawn as it is."""
        moves = np.sign(np.diff(self.values))
        turns = np.count_nonzero(np.diff(moves[moves != 0]))
        return bool(turns > len(self.values) / NOISE)

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
    """Curves of one quantity; the sides share an axis."""

    title: str
    curves: list[Curve]


@dataclass(frozen=True)
class LogRatios:
    """The histogram of the log-ratios of one batch: per side its bins (low, high, count)."""

    step: int
    sides: dict[str, list[tuple[float, float, int]]]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def panels(training: Path) -> list[Panel] | None:
    """Every metric in `plots/metrics` of a dvclive folder; series that differ only by side share a panel."""
    folder = training / "plots" / "metrics"
    grouped: dict[str, list[Curve]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        title, name = split_name(path.relative_to(folder).with_suffix("").as_posix())
        steps, values = _read(path)
        if values and title not in _UNSHOWN:
            grouped.setdefault(title, []).append(Curve(name, *_thin(steps, values)))
    if not grouped:
        return None
    known = [title for title in _TITLES.values() if title in grouped]
    others = [title for title in grouped if title not in known]
    return [Panel(title, sorted(grouped[title], key=_side_order)) for title in known + others]


def split_name(metric: str) -> tuple[str, str]:
    """A metric's panel and its side in it: "train/log_ratio_positive" is of side "positive"."""
    words = [word for word in re.split(r"[/_. \-]+", metric.lower()) if word]
    side = " ".join(word for word in _SIDES if word in words)
    rest = " ".join(word for word in words if word not in _SIDES and word not in _LEFT_OUT)
    return _TITLES.get(rest, rest or "value"), side


def _side_order(curve: Curve) -> list[int]:
    return [_SIDES.index(word) for word in curve.name.split()]


def last_log_ratios(training: Path) -> LogRatios | None:
    """The histogram that fine-tuning wrote last, if it wrote any."""
    path = training / HISTOGRAM
    if not path.is_file():
        return None
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    step = max((int(row["step"]) for row in rows), default=None)
    if step is None:
        return None
    sides: dict[str, list[tuple[float, float, int]]] = {}
    for row in rows:
        if int(row["step"]) == step:
            bars = sides.setdefault(row["side"], [])
            bars.append((float(row["low"]), float(row["high"]), int(row["count"])))
    return LogRatios(step, sides)


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
