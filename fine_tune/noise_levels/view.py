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


def show(levels: Levels, updates: int) -> Group:
    """One row for each bin, then the suggestion for so many updates, for `rich.console.Console.print`."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    about, suggested = levels.about, levels.suggest(updates)
    table = Table(title=escape(f"Signal of {about['objective']} by noise level"), title_justify="left")
    for name in ("level", "cos² ± error", "norm", "net signal from here to 1", "votes"):
        table.add_column(name, justify="left" if name == "level" else "right")
    columns = (suggested.net_signal, suggested.net_error, suggested.votes)
    for row, net, error, votes in zip(levels.rows, *columns, strict=True):
        table.add_row(
            f"{row['low']:.3f} – {row['high']:.3f}",
            f"{row['cos2']:.3f} ± {row['cos2_error']:.3f}",
            f"{row['norm']:.3g}",
            f"{net:+.2f} ± {error:.2f}",
            f"{votes:.0%}",
            style="bold" if row["low"] == suggested.low else None,
        )
    note = (
        f"Level: 0 clean, 1 pure noise; training draws equally often from every row. {about['batches']} batches of "
        f"{about['units']}; cos² is that of an update of {about['update']}, 1 without noise. Net signal: of the sum of "
        f"{updates} such updates that draw from here to 1, the share of signal less that of noise, summed over the "
        "rows, with the error of its difference to the greatest. Votes: how often a bootstrap over batches finds it "
        "the greatest."
    )
    return Group(table, Text(suggestion(levels, updates), style="bold"), Text(note, style="dim"))


def suggestion(levels: Levels, updates: int) -> str:
    """One line: the range, and how sure it is."""
    found = levels.suggest(updates)
    if not found.is_clear:
        return (
            f"noise_levels: [0, 1]: no signal can be told from noise ({found.clarity:.1f} standard errors), so "
            "nothing speaks for a range. `tgo levels --batches` measures more."
        )
    return (
        f"noise_levels: [{found.low:g}, 1] for {updates} updates: the widest range that is as good as the best, which "
        f"begins between {found.best[0]:g} and {found.best[1]:g} in 95 % of bootstrap samples"
    )


def write_plots(measured: Sequence[Levels], updates: int, folder: Path) -> None:
    """An SVG and its Vega-Lite of each in a folder of their own, by the names of their tables."""
    from tgo_pipeline.thresholds.plots import write_charts

    write_charts({each.name: chart(each, updates) for each in measured}, folder)


def chart(levels: Levels, updates: int) -> dict[str, Any]:
    """Vega-Lite spec: cos2 of every bin with its standard error, and the range suggested for so many updates."""
    import altair as alt

    found = levels.suggest(updates)
    values = [
        {
            **{name: row[name] for name in ("low", "high", "cos2", "cos2_error")},
            "net_signal": net,
            "votes": votes,
            "middle": (row["low"] + row["high"]) / 2,
            "bottom": row["cos2"] - row["cos2_error"],
            "top": row["cos2"] + row["cos2_error"],
        }
        for row, net, votes in zip(levels.rows, found.net_signal, found.votes, strict=True)
    ]
    data = alt.Chart(alt.InlineData(values=values))
    title = "cos² of an update's gradient"
    bars = data.mark_bar(color=COLOUR, opacity=0.6).encode(
        x=alt.X("low:Q", title="noise level (0 clean, 1 pure noise)", scale=alt.Scale(domain=[0, 1])),
        x2="high:Q",
        y=alt.Y("cos2:Q", title=title),
        tooltip=["low:Q", "high:Q", "cos2:Q", "cos2_error:Q", "net_signal:Q", "votes:Q"],
    )
    errors = data.mark_rule(color="#333").encode(x="middle:Q", y=alt.Y("bottom:Q", title=title), y2="top:Q")
    edge = (
        alt.Chart(alt.InlineData(values=[{"low": found.low}]))
        .mark_rule(color=FAINT, strokeDash=[4, 3])
        .encode(x="low:Q")
    )
    heading = alt.TitleParams(
        f"Signal of {levels.about['objective']} by noise level",
        subtitle=f"Suggested for {updates} updates: {found.low:g} (dashed) to 1.",
        anchor="start",
        subtitleColor="#555",
    )
    page = alt.layer(bars, errors, edge).properties(width=WIDTH, height=HEIGHT, title=heading)
    return page.configure_view(stroke=None).configure_axis(grid=False).to_dict()
