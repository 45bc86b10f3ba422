"""A measurement for people: a table for the terminal, and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

    from fine_tune.noise_levels.table import Levels

COLOUR, FAINT = "#2f7f86", "#8a8a8e"
WIDTH, HEIGHT = 520, 240
WIDE = 110
"""Columns of the table."""


def show(levels: Levels) -> Group:
    """One row for each bin, then the suggestion, for `rich.console.Console.print`."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    about = levels.about
    table = Table(title=escape(f"Signal of {about['objective']} by noise level"), title_justify="left")
    for name in ("level", "cos² ± error", "norm", "cos² from here to 1", "aim", "votes"):
        table.add_column(name, justify="left" if name == "level" else "right")
    for row in levels.rows:
        is_it = row["low"] == levels.suggested[0]
        table.add_row(
            f"{row['low']:.3f} – {row['high']:.3f}",
            f"{row['cos2']:.3f} ± {row['cos2_error']:.3f}",
            f"{row['norm']:.3g}",
            f"{row['from_low_cos2']:.3f} ± {row['from_low_cos2_error']:.3f}",
            f"{row['from_low_aim']:.2f}",
            f"{row['from_low_votes']:.0%}",
            style="bold" if is_it else None,
        )
    note = (
        f"Level: 0 clean, 1 pure noise; training draws equally often from every row. {about['batches']} batches of "
        f"{about['units']}; cos² is that of an update of {about['update']}, 1 without noise. Aim: how well what the "
        "optimiser follows, drawing from here to 1, points along the mean gradient of all levels; the best is 1. "
        "Votes: how often a bootstrap over batches finds this range best."
    )
    return Group(table, Text(suggestion(levels), style="bold"), Text(note, style="dim"))


def suggestion(levels: Levels) -> str:
    """One line: the range, and how sure it is."""
    low, high = levels.suggested
    clarity = levels.about["clarity"]
    if not levels.is_clear:
        return (
            f"noise_levels: [{low:g}, {high:g}]: no signal can be told from noise ({clarity:.1f} standard errors), so "
            "nothing speaks for a range. `tgo levels --batches` measures more."
        )
    return (
        f"noise_levels: [{low:g}, {high:g}] ({levels.votes:.0%} of bootstrap samples; its aim is {clarity:.1f} "
        "standard errors above 0)"
    )


def write_plots(measured: Sequence[Levels], folder: Path) -> None:
    """An SVG and its Vega-Lite of each in a folder of their own, by the names of their tables."""
    from tgo_pipeline.thresholds.plots import write_charts

    write_charts({each.name: chart(each) for each in measured}, folder)


def chart(levels: Levels) -> dict[str, Any]:
    """Vega-Lite spec: cos2 of every bin with its standard error, and the suggested range."""
    import altair as alt

    values = [
        {
            **row,
            "middle": (row["low"] + row["high"]) / 2,
            "bottom": row["cos2"] - row["cos2_error"],
            "top": row["cos2"] + row["cos2_error"],
        }
        for row in levels.rows
    ]
    low, high = levels.suggested
    data = alt.Chart(alt.InlineData(values=values))
    title = "cos² of an update's gradient"
    bars = data.mark_bar(color=COLOUR, opacity=0.6).encode(
        x=alt.X("low:Q", title="noise level (0 clean, 1 pure noise)", scale=alt.Scale(domain=[0, 1])),
        x2="high:Q",
        y=alt.Y("cos2:Q", title=title),
        tooltip=["low:Q", "high:Q", "cos2:Q", "cos2_error:Q", "from_low_aim:Q", "from_low_votes:Q"],
    )
    errors = data.mark_rule(color="#333").encode(x="middle:Q", y=alt.Y("bottom:Q", title=title), y2="top:Q")
    edge = (
        alt.Chart(alt.InlineData(values=[{"low": low}]))
        .mark_rule(color=FAINT, strokeDash=[4, 3])
        .encode(x="low:Q")
    )
    heading = alt.TitleParams(
        f"Signal of {levels.about['objective']} by noise level",
        subtitle=f"Suggested: {low:g} (dashed) to {high:g}, in {levels.votes:.0%} of bootstrap samples.",
        anchor="start",
        subtitleColor="#555",
    )
    page = alt.layer(bars, errors, edge).properties(width=WIDTH, height=HEIGHT, title=heading)
    return page.configure_view(stroke=None).configure_axis(grid=False).to_dict()
