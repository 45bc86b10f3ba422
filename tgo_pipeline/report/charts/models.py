"""The chart of a comparison of models: win rates by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from tgo_pipeline.rendering.text import visible
from tgo_pipeline.report.charts.sections import INK, ROLE_COLOURS, Spec, data, finish, rule_at

LINE_PX = 13  # of a category and reward: labels have 11


def by_category(rows: Sequence[Mapping[str, Any]], roles: Mapping[str, str]) -> Spec:
    """Win rates with intervals against 50 %, a line per category and reward."""
    values = [
        {
            "category": visible(row["category"], 60),
            "reward": row["reward"],
            "role": roles[row["reward"]],
            "middle": row["win_rate"],
            "low": row["win_rate_low"],
            "high": row["win_rate_high"],
            "n": row["n"],
        }
        for row in rows
    ]
    names = list(dict.fromkeys(value["category"] for value in values))
    rewards = list(dict.fromkeys(value["reward"] for value in values))
    axis = {
        "title": "pairs that the tuned model wins",
        "axis": alt.Axis(format=".0%"),
        "scale": alt.Scale(domain=[0, 1]),
    }
    base = alt.Chart(data(values)).encode(
        y=alt.Y("category:N", title=None, sort=names, axis=alt.Axis(labelColor=INK, grid=True)),
        yOffset=alt.YOffset("reward:N", sort=rewards),
        color=alt.Color("role:N", scale=ROLE_COLOURS, legend=None),
        tooltip=[
            "category:N",
            "reward:N",
            alt.Tooltip("middle:Q", title="win rate", format=".1%"),
            alt.Tooltip("low:Q", format=".1%"),
            alt.Tooltip("high:Q", format=".1%"),
            alt.Tooltip("n:Q", title="pairs", format=","),
        ],
    )
    layers = alt.layer(
        rule_at(0.5, color=INK),
        base.mark_rule(strokeWidth=2, strokeCap="round").encode(x=alt.X("low:Q", **axis), x2="high:Q"),
        base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("middle:Q", **axis)),
    )
    height = max(60, LINE_PX * len(names) * (len(rewards) + 1))
    return finish(layers, "Win rates of the tuned model by category", height)
