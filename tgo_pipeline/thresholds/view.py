"""The thresholds table for the terminal, 100 columns wide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.rendering.text import MISSING, score
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.thresholds.moments import QUANTILE_NAMES
from tgo_pipeline.thresholds.table import read_thresholds
from tgo_pipeline.thresholds.targets import meanings, shown_names

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def show(path: Path) -> Group:
    """Everything the thresholds table knows, as tables for `rich.console.Console.print`. Raises `TgoError`."""
    from rich.console import Group
    from rich.text import Text

    scores = path.parent / HERE.scores.name
    rows = shown_names(scores).rows(read_thresholds(path).to_dicts(), "reward")
    first = rows[0]
    units = [Text(f"{name}: {text}.", style="dim") for name, text in meanings(scores).items()]
    notes = [Text.assemble((f"{row['reward']}: ", "bold"), row["note"]) for row in rows if row["note"]]
    return Group(
        _table(f"Thresholds at percentile {first['percentile']:g}", _thresholds(first), rows),
        _table("Scores", _SCORES, rows),
        _table("Quantiles", [(name, _in_score_units(name)) for name in QUANTILE_NAMES], rows, gap=1),
        _table("Prompts", _PROMPTS, rows),
        *notes,
        *units,
        Text(_LEGEND, style="dim"),
        Text(
            f"Estimated from the {_SOURCES[first['source']]} (fingerprint {first['scores_fingerprint']}), {path}.",
            style="dim",
        ),
    )


_LEGEND = (
    "samples: exact interval from order statistics, as if samples were independent; prompts: bootstrap that draws "
    "whole prompts. between: share of the variance that lies between prompts; flips: labels that would change with the "
    "prompt's own mean or median in place of tau, many of them by chance alone where samples of a prompt are few: "
    "`tgo thresholds --explain` tells them apart."
)
_SOURCES = {"dataset": "data set", "proxy": "proxy set"}


def _table(title: str, columns: Sequence[Column], rows: Sequence[Row], gap: int = 2) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("reward", style="cyan", no_wrap=True)
    for header, _ in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["reward"], *(cell(row) for _, cell in columns))
    return table


def _in_score_units(name: str) -> Callable[[Row], str]:
    return lambda row: score(row[name], row["std"])


def _as(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: MISSING if row[name] is None else format(row[name], form)


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: MISSING if row[name] is None else f"{100 * row[name]:.1f} %"


def _interval(low: str, high: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        """Both ends in score units, or a dash where neither is known."""
        if row[low] is None and row[high] is None:
            return MISSING
        return " to ".join(score(row[end], row["std"]) for end in (low, high))

    return cell


def _between_share(row: Row) -> str:
    """Between-prompt variance over the sum of both: 0 means that one global tau fits every prompt equally well."""
    between, within = row["between_prompt_variance"], row["within_prompt_variance"]
    if between is None or between + within <= 0:
        return MISSING
    return f"{100 * max(between, 0.0) / (max(between, 0.0) + within):.1f} %"


def _thresholds(first: Row) -> list[Column]:
    level = f"{100 * first['confidence']:g} %"
    return [
        ("tau", _in_score_units("tau")),
        (f"{level}, samples", _interval("tau_low", "tau_high")),
        (f"{level}, prompts", _interval("tau_bootstrap_low", "tau_bootstrap_high")),
        ("at or above", _percent("positive_fraction")),
        ("ties", _as("ties", ",")),
    ]


_SCORES: list[Column] = [
    ("n", _as("n", ",")),
    ("null", _as("n_null", ",")),
    ("NaN/inf", _as("n_nonfinite", ",")),
    ("mean", _in_score_units("mean")),
    ("std", _in_score_units("std")),
    ("skew", _as("skewness", ".2f")),
    ("kurtosis", _as("kurtosis", ".2f")),
    ("min", _in_score_units("minimum")),
    ("max", _in_score_units("maximum")),
]
_PROMPTS: list[Column] = [
    ("prompts", _as("n_prompts", ",")),
    ("var. between", _as("between_prompt_variance", ".3g")),
    ("var. within", _as("within_prompt_variance", ".3g")),
    ("between", _between_share),
    ("flips, mean", _percent("flip_rate_prompt_mean")),
    ("flips, median", _percent("flip_rate_prompt_median")),
]
