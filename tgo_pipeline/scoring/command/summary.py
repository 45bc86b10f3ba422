"""What a table of scores says, for the terminal: 80 columns wide, readable in a pipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tgo_pipeline.rendering.text import MISSING, score
from tgo_pipeline.rewards.toys import is_toy, meaning, shown_name
from tgo_pipeline.scoring.command.plan import images
from tgo_pipeline.storage.tables import read_metadata, read_table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from tgo_pipeline.scoring.command.run import Outcome

WIDE = 80  # columns where there is no terminal, as terminals begin with
BLOCKS = " ▁▂▃▄▅▆▇█"
LEVELS, HEIGHT, WIDTH = len(BLOCKS) - 1, 4, 60
"""Of a histogram: levels of one line of characters, lines and columns."""
BINS = (6, 10, 12, 15, 20, 30, 60)
"""Numbers of bins that divide the width."""
FAILURES = 5  # examples of images that could not be scored; the table has all
QUANTILES = (0.05, 0.5, 0.95)
TOYS = "(demo): tiny weights to try the command with. These are toys: their scores say nothing of an image."


@dataclass(frozen=True)
class Column:
    """The scores of one reward: those that are there, how many are not, and what the numbers mean."""

    name: str
    scores: np.ndarray
    failed: int
    about: dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """A table of scores as it is shown: its rewards, its number of images, and the first that failed with reasons."""

    out: Path
    images: int
    failed: int
    columns: list[Column]
    failures: list[tuple[str, str]]


def summarise(path: Path, out: Path) -> Summary:
    """Read the table that `tgo score` wrote for `out`."""
    rewards = read_metadata(path, ("rewards",))["rewards"]
    table = read_table(path, columns=[*rewards, "error"])
    failed = np.flatnonzero(np.asarray(table["error"].is_valid()))
    first = failed[:FAILURES]
    images = read_table(path, columns=["image"])["image"].take(first).to_pylist()
    reasons = table["error"].take(first).to_pylist()
    columns = [
        Column(name, table[name].drop_null().to_numpy(), table[name].null_count, about)
        for name, about in rewards.items()
    ]
    return Summary(out, table.num_rows, len(failed), columns, list(zip(images, reasons, strict=True)))


def show(summary: Summary, outcome: Outcome) -> Group:
    """The summary for `rich.console.Console.print`."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_table(summary.columns)]
    parts += [Group(Text(), _histogram(column)) for column in summary.columns if len(column.scores)]
    if any(is_toy(column.about.get("source")) for column in summary.columns):
        parts += [Text(), Text(TOYS, style="yellow")]
    if summary.failures:
        parts += [Text(), _failures(summary)]
    return Group(*parts, Text(), Text(_last_line(summary, outcome)))


def _last_line(summary: Summary, outcome: Outcome) -> str:
    every = images(summary.images)
    if not outcome.written:
        return f"nothing to do: {summary.out} has the scores of all {every}"
    if not outcome.scored:
        return f"{summary.out}: {every}, all scored before"
    kept = "" if outcome.scored >= summary.images else f", {outcome.scored:,} of them now"
    return f"{summary.out}: {every}{kept}, {outcome.images_per_s:.3g} images/s"


def _table(columns: Sequence[Column]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("reward", style="cyan", overflow="fold")
    for header in ("n", "failed", "mean", "std", "min", "5 %", "50 %", "95 %", "max"):
        table.add_column(header, justify="right", no_wrap=True)
    for column in columns:
        failed = f"[red]{column.failed:,}[/]" if column.failed else "0"
        table.add_row(
            shown_name(column.name, column.about.get("source")),
            f"{len(column.scores):,}",
            failed,
            *_statistics(column.scores),
        )
    return table


def _statistics(scores: np.ndarray) -> list[str]:
    if not len(scores):
        return [MISSING] * 7
    values = scores.astype(np.float64)
    std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    low, median, high = np.quantile(values, QUANTILES)
    numbers = (values.min(), low, median, high, values.max())
    return [score(values.mean(), std), score(std, std), *(score(value, std) for value in numbers)]


def _histogram(column: Column) -> Group:
    from rich.console import Group
    from rich.text import Text

    heading = Text.assemble(
        (shown_name(column.name, column.about.get("source")), "bold cyan"), "  ", meaning(column.about)
    )
    values = column.scores.astype(np.float64)
    low, high = (score(end, float(values.std())) for end in (values.min(), values.max()))
    if values.min() == values.max():
        return Group(heading, Text(f"all are {low}"))
    wanted = 2 * len(values) ** (1 / 3)  # Rice's rule
    bins = max(count for count in BINS if count <= max(wanted, BINS[0]))
    counts, _ = np.histogram(values, bins=bins)
    axis = f"{low}{high:>{WIDTH - len(low)}}"
    return Group(
        heading, *(Text(line) for line in bars(counts.repeat(WIDTH // bins))), Text(axis, style="dim")
    )


def bars(counts: np.ndarray) -> list[str]:
    """Counts as lines of block characters, the highest on top; what is not empty shows at least the lowest block."""
    steps = np.ceil(counts / counts.max() * HEIGHT * LEVELS).astype(int)
    return [
        "".join(BLOCKS[level] for level in np.clip(steps - row * LEVELS, 0, LEVELS)).rstrip()
        for row in reversed(range(HEIGHT))
    ]


def _failures(summary: Summary) -> Group:
    from rich.console import Group
    from rich.text import Text

    more = summary.failed - len(summary.failures)
    lines = [Text.assemble("  ", (image, "bold"), f": {reason}") for image, reason in summary.failures]
    if more:
        lines.append(Text(f"  ... and {more:,} more, in the column `error`", style="dim"))
    heading = f"{summary.failed:,} of {summary.images:,} images could not be scored"
    return Group(Text(heading, style="red"), *lines)
