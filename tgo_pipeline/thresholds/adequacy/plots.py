"""Images of the adequacy of one tau: how far prompts spread, other percentiles, and the margin bound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.thresholds.adequacy.table import BASELINES, AdequacyRow, Statistics
from tgo_pipeline.thresholds.plots import TAU_COLOUR, write_charts

if TYPE_CHECKING:
    import altair as alt

    from tgo_pipeline.rewards.toys import ShownNames

SCORES, ESTIMATED, TRUE = "scores", "prompts' means as estimated", "prompts' true means"
COLOURS = {SCORES: "#b9b9bf", ESTIMATED: "#c98a3c", TRUE: "#2f7f86"}
MOVED, WRONG = "labels that move", "flips against prompts' own percentiles"
CURVES = {WRONG: "#2f7f86", MOVED: "#b9b9bf"}
HIGHEST_BOUND = 2  # a bound on a share says nothing from 1 on; twice that shows where its curve comes from
VERDICTS = {"adequate": "#2f7f86", "inadequate": "#b3412e", "undecided": "#8a6d1f"}
WIDTH, HEIGHT = 260, 180


def chart(reward: str, found: Statistics) -> dict[str, Any]:
    """Vega-Lite spec of one reward, from its rows of the adequacy table."""
    import altair as alt

    verdict = found.first("verdict")
    title = alt.TitleParams(
        f"{reward}: {verdict.baseline}",
        subtitle=_wrapped(verdict.note or ""),
        anchor="start",
        color=VERDICTS.get(verdict.baseline or "", "#1d1d1f"),
        subtitleColor="#555",
    )
    panels = alt.hconcat(*(panel for panel in (_spread(found), _stability(found), _margin(found)) if panel))
    whole = panels.resolve_scale(color="independent").properties(title=title)
    return whole.configure_view(stroke=None).configure_axis(grid=False).to_dict(validate=False)


def write(rewards: dict[str, Statistics], folder: Path, shown: ShownNames) -> None:
    """`<reward>.{vl.json,svg}` for every reward that there is something to draw of."""
    drawn = {name: found for name, found in rewards.items() if list(found.all("stability"))}
    write_charts({name: chart(shown(name), found) for name, found in drawn.items()}, folder)


def _wrapped(text: str, width: int = 110) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def _heading(text: str) -> alt.TitleParams:
    import altair as alt

    return alt.TitleParams(text, anchor="start", fontSize=11, fontWeight="normal")


def _legend() -> alt.Legend:
    import altair as alt

    return alt.Legend(orient="bottom", direction="vertical", title=None, labelLimit=WIDTH, symbolOpacity=1)


def _spread(found: Statistics) -> alt.LayerChart | alt.FacetChart | None:
    """Histograms of scores and prompts' means; tau as a rule."""
    import altair as alt

    parts = {SCORES: "score_share", ESTIMATED: "baseline_share", TRUE: "true_baseline_share"}
    values = [
        {"low": row.low, "high": row.high, "share": row.value, "of": name}
        for name, statistic in parts.items()
        for row in found.all(statistic)
    ]
    if not values:
        return None
    shape = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(interpolate="step-after", strokeWidth=1.5)
        .encode(
            x=alt.X("low:Q", title="score", scale=alt.Scale(zero=False, nice=False)),
            y=alt.Y("share:Q", title="share of samples", axis=alt.Axis(format="%")),
            color=_colours("of", COLOURS),
            tooltip=["of:N", "low:Q", "high:Q", "share:Q"],
        )
    )
    rule = (
        alt.Chart(alt.InlineData(values=[{"tau": found.first("tau").value}]))
        .mark_rule(color=TAU_COLOUR, strokeWidth=1.5)
        .encode(x="tau:Q")
    )
    return alt.layer(shape, rule).properties(
        width=WIDTH, height=HEIGHT, title=_heading("Prompts against tau (black)")
    )


def _stability(found: Statistics) -> alt.LayerChart | alt.FacetChart:
    """At other percentiles: labels that move, and flips against the prompts' own."""
    import altair as alt

    values = _points(found, {WRONG: "heterogeneity_at", MOVED: "stability"})
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("at:Q", title="percentile", axis=alt.Axis(format="%")), color=_colours("of", CURVES)
    )
    line = base.mark_line(strokeWidth=1.5, point=alt.OverlayMarkDef(size=16)).encode(
        y=alt.Y("value:Q", title="share of labels", axis=alt.Axis(format="%")),
        tooltip=["of:N", "at:Q", "value:Q", "low:Q", "high:Q"],
    )
    band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    limit = (
        alt.Chart(alt.InlineData(values=[{"tolerance": found.first("tolerance").value}]))
        .mark_rule(color=TAU_COLOUR, strokeDash=[3, 3])
        .encode(y="tolerance:Q")
    )
    title = _heading("Other percentiles; tolerance dashed")
    return alt.layer(band, line, limit).properties(width=WIDTH, height=HEIGHT, title=title)


def _margin(found: Statistics) -> alt.Chart | None:
    """The margin bound over the margin, up to where it says nothing."""
    import altair as alt

    values = [
        {"margin": row.at, "bound": row.value, "of": BASELINES[row.baseline or ""]}
        for row in found.all("margin_curve")
        if row.value is not None and row.value <= HIGHEST_BOUND
    ]
    if not values:
        return None
    colours = dict(zip(dict.fromkeys(point["of"] for point in values), CURVES.values(), strict=False))
    return (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("margin:Q", title="margin h, score units"),
            y=alt.Y("bound:Q", title="bound on flips", axis=alt.Axis(format="%"), scale=alt.Scale(zero=True)),
            color=_colours("of", colours),
            tooltip=["of:N", "margin:Q", "bound:Q"],
        )
        .properties(width=WIDTH, height=HEIGHT, title=_heading("Margin bound; above 100 % it says nothing"))
    )


def _colours(field: str, colours: dict[str, str]) -> alt.Color:
    import altair as alt

    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", legend=_legend(), scale=scale)


def _points(found: Statistics, parts: dict[str, str]) -> list[dict[str, Any]]:
    return [_point(name, row) for name, statistic in parts.items() for row in found.all(statistic)]


def _point(name: str, row: AdequacyRow) -> dict[str, Any]:
    return {"of": name, "at": row.at, "value": row.value, "low": row.low, "high": row.high}
