"""The study's figure: each method's effect on the target and on the oracle, with intervals, a row for each family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.objectives.tables import ORACLE, find, standardised

INK, QUIET, OURS = "#1f2933", "#7b8794", "#c2410c"


def points(families: Mapping[str, Mapping[str, Any]], target: str) -> list[dict[str, Any]]:
    """One point for each family, method and of target and oracle, with its interval, in base deviations."""
    return [
        {"family": family, "method": name, "score": "oracle" if reward == ORACLE else f"target ({target})"}
        | standardised(find(entry["pooled"], reward))
        for family, summary in families.items()
        for name, entry in summary["methods"].items()
        for reward in (target, ORACLE)
    ]


def chart(families: Mapping[str, Mapping[str, Any]], target: str) -> Any:
    """An altair chart; methods are ordered by their effect on the target, in each family for itself."""
    import altair as alt

    rows = []
    for family in families:
        of_family = [point for point in points(families, target) if point["family"] == family]
        order = sorted((p for p in of_family if p["score"] != "oracle"), key=lambda p: -p["effect"])
        names = [point["method"] for point in order]
        panels = [
            _panel(alt.Data(values=[p for p in of_family if p["score"] == score]), names, score, first)
            for first, score in ((True, f"target ({target})"), (False, "oracle"))
        ]
        rows.append(alt.hconcat(*panels, spacing=36, title=alt.Title(family, anchor="start", color=INK)))
    return (
        alt.vconcat(*rows, spacing=24)
        .resolve_scale(y="independent")
        .configure(background="white", font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            titleFontWeight="normal",
            gridColor="#e4e7eb",
            domain=False,
            ticks=False,
        )
    )


def _panel(data: Any, names: list[str], score: str, first: bool) -> Any:
    import altair as alt

    axis = (
        alt.Axis(title=None, labelLimit=200, labelPadding=8) if first else alt.Axis(title=None, labels=False)
    )
    y = alt.Y("method:N", sort=names, axis=axis)
    ours = alt.condition("indexof(datum.method, 'tgo') === 0", alt.value(OURS), alt.value(INK))
    x = alt.X(
        "low:Q",
        title="effect in standard deviations of the base, 95 % interval",
        axis=alt.Axis(tickCount=6, labelFlush=False),
    )
    base = alt.Chart(
        data, width=330, height=19 * len(names), title=alt.Title(score, fontWeight="normal", color=INK)
    )
    bars = base.mark_rule(strokeWidth=2).encode(x, alt.X2("high:Q"), y, color=ours)
    dots = base.mark_circle(size=70, opacity=1).encode(alt.X("effect:Q"), y, color=ours)
    zero = alt.Chart(alt.Data(values=[{}])).mark_rule(color=QUIET, strokeDash=[3, 3]).encode(x=alt.datum(0))
    return zero + bars + dots


def write(families: Mapping[str, Mapping[str, Any]], target: str, path: Path) -> None:
    """Draw the figure as the file's suffix says (svg or png)."""
    chart(families, target).save(str(path), **({"ppi": 144} if path.suffix == ".png" else {}))
