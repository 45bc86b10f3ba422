"""Histograms of the scores with tau: rows for `dvc plots`, a Vega-Lite spec and an offline SVG per reward."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tgo_pipeline.rendering.sheets import written
from tgo_pipeline.storage.paths import file_name
from tgo_pipeline.storage.writing import atomic
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

if TYPE_CHECKING:
    import altair as alt

    from tgo_pipeline.rewards.toys import ShownNames

BINS = 48  # bars of a histogram, of a few pixels each
COLOURS = {"below tau": "#c98a3c", "at or above tau": "#2f7f86"}
TAU_COLOUR = "#1d1d1f"


class Bin(NamedTuple):
    """One bar: scores in [low, high), all of them on one side of tau."""

    low: float
    high: float
    count: int
    positive: bool


def histogram(ordered: SortedParts, tau: float, bins: int = BINS) -> list[Bin]:
    """About `bins` equal bins over all numbers, placed so that tau is an edge: no bar straddles it."""
    low, high = min(ordered.minimum, tau), max(ordered.maximum, tau)
    width = (high - low) / bins or max(abs(tau), 1.0) / bins
    # a score that is less than tau by very little would round to no step, and stand above it
    first = min(np.floor((low - tau) / width), -1.0 if low < tau else 0.0)
    steps = np.arange(first, np.floor((high - tau) / width) + 2)
    edges = tau + steps * width
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    counts = ordered.histogram(edges)
    sides = (steps >= 0).tolist()
    return [
        Bin(*bar) for bar in zip(edges.tolist(), edges[1:].tolist(), counts.tolist(), sides, strict=False)
    ]


def write_csv(
    histograms: Mapping[str, Sequence[Bin]], taus: Mapping[str, float], path: Path, shown: ShownNames
) -> None:
    """All histograms as one long table for `dvc plots` and its template `threshold_histogram`."""
    rows = (
        (shown(reward), bar.low, bar.high, bar.count, str(bar.positive).lower(), taus[reward])
        for reward, bars in histograms.items()
        for bar in bars
    )
    columns = ("reward", "bin_low", "bin_high", "count", "positive", "tau")
    with atomic(path) as temporary:
        temporary.write_text(written(columns, rows, end="\r\n"), encoding="utf-8", newline="")


def chart(row: Mapping[str, Any], bars: Iterable[Bin], name: str) -> dict[str, Any]:
    """Vega-Lite spec: histogram of the reward that is shown as `name`, tau as a rule, its bootstrap interval as a band.

    `row` is a row of the thresholds table that has a tau.
    """
    import altair as alt

    values = [
        {"low": bar.low, "high": bar.high, "count": bar.count, "side": list(COLOURS)[bar.positive]}
        for bar in bars
    ]
    colour = alt.Color(
        "side:N",
        title=None,
        scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
        legend=alt.Legend(orient="top-left", offset=6),
    )
    shape = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar(binSpacing=0.5)
        .encode(
            x=alt.X("low:Q", title="score", scale=alt.Scale(zero=False, nice=False), bin="binned"),
            x2="high:Q",
            y=alt.Y("count:Q", title="samples"),
            color=colour,
            tooltip=["low:Q", "high:Q", "count:Q", "side:N"],
        )
    )
    rule = (
        alt.Chart(alt.InlineData(values=[{"tau": row["tau"]}]))
        .mark_rule(color=TAU_COLOUR, strokeWidth=1.5)
        .encode(x="tau:Q")
    )
    title = alt.TitleParams(name, subtitle=_subtitle(row), anchor="start", subtitleColor="#555")
    layers = alt.layer(*_band(row), shape, rule).properties(title=title, width=420, height=200)
    return layers.configure_view(stroke=None).configure_axis(grid=False).to_dict(validate=False)


def _band(row: Mapping[str, Any]) -> list[alt.Chart]:
    import altair as alt

    low, high = row["tau_bootstrap_low"], row["tau_bootstrap_high"]
    if low is None or high is None or low == high:
        return []
    data = alt.InlineData(values=[{"from": low, "to": high}])
    return [alt.Chart(data).mark_rect(color=TAU_COLOUR, opacity=0.15).encode(x="from:Q", x2="to:Q")]


def _subtitle(row: Mapping[str, Any]) -> list[str]:
    tau = f"tau = {row['tau']:.5g} at percentile {row['percentile']:g}"
    if row["tau_bootstrap_low"] is not None:
        low, high = row["tau_bootstrap_low"], row["tau_bootstrap_high"]
        tau += f", {100 * row['confidence']:g} % interval {low:.5g} to {high:.5g}"
    share = f"{100 * row['positive_fraction']:.1f} % at or above"
    return [tau, f"{row['n']:,} samples of {row['n_prompts']:,} prompts, {share}"]


def write_charts(charts: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """`<reward>.vl.json` (Vega-Lite) and `<reward>.svg` (opens anywhere, offline); charts of other rewards go.

    Characters of a reward's name that no file name should have are replaced.
    """
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    named = {file_name(reward): spec for reward, spec in charts.items()}
    written = {name + suffix for name in named for suffix in (".vl.json", ".svg")}
    for file in (*folder.glob("*.vl.json"), *folder.glob("*.svg")):
        if file.name not in written:
            file.unlink()
    for name, spec in named.items():
        with atomic(folder / f"{name}.vl.json") as temporary:
            temporary.write_text(json.dumps(spec, indent=1) + "\n")
        with atomic(folder / f"{name}.svg") as temporary:
            temporary.write_text(vl_convert.vegalite_to_svg(spec))
