"""The charts of the section on adequacy: flips by baseline, percentiles, and the margin bound."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tgo_pipeline.report.charts.sections import INK, MUTED, POSITIVE, TARGET, Spec, data, finish, rule_at
from tgo_pipeline.thresholds.adequacy.table import AdequacyRow

TOLERANCE_DASH = [4, 3]  # pixels drawn and left out
LEGEND = alt.Legend(columns=1, symbolOpacity=1, symbolStrokeWidth=2, labelLimit=240)


def flip_rates(
    rows: Sequence[tuple[str, AdequacyRow, AdequacyRow, AdequacyRow]], tolerance: float | None
) -> Spec:
    """Per baseline the labels that flip (interval), by chance alone (tick) and with the noise taken out (diamond).

    `rows` holds the baseline's name and its rows `flip_rate`, `flip_rate_null` and `flip_rate_corrected`.
    """
    values = [
        {
            "baseline": name,
            "flips": flips.value,
            "low": flips.low,
            "high": flips.high,
            "chance": chance.value,
            "corrected": corrected.value,
        }
        for name, flips, chance, corrected in rows
    ]
    x = {"title": "labels that flip", "axis": alt.Axis(format=".0%")}
    names = alt.Axis(labelColor=INK, labelFontSize=11, grid=True, labelLimit=190)
    base = alt.Chart(data(values)).encode(
        y=alt.Y("baseline:N", title=None, sort=[value["baseline"] for value in values], axis=names),
        tooltip=[
            "baseline:N",
            alt.Tooltip("flips:Q", title="flips", format=".1%"),
            alt.Tooltip("low:Q", format=".1%"),
            alt.Tooltip("high:Q", format=".1%"),
            alt.Tooltip("chance:Q", title="by chance", format=".1%"),
            alt.Tooltip("corrected:Q", title="noise taken out", format=".1%"),
        ],
    )
    layers = [
        base.mark_rule(strokeWidth=2.5, strokeCap="round", color=TARGET).encode(
            x=alt.X("low:Q", **x), x2="high:Q"
        ),
        base.mark_point(filled=True, size=75, opacity=1, color=TARGET).encode(x=alt.X("flips:Q", **x)),
        base.mark_tick(thickness=2, size=16, color=MUTED).encode(x=alt.X("chance:Q", **x)),
        base.mark_point(shape="diamond", size=70, opacity=1, color=INK).encode(x=alt.X("corrected:Q", **x)),
    ]
    if tolerance is not None:
        layers.append(rule_at(tolerance, color=INK, strokeDash=TOLERANCE_DASH))
    return finish(alt.layer(*layers), "Labels that flip, by baseline", 26 * len(values))


def percentiles(
    stability: Sequence[AdequacyRow],
    differing: Sequence[AdequacyRow],
    chosen: float | None,
    tolerance: float | None,
) -> Spec:
    """Over percentiles: labels that change against the chosen one, and labels that prompts' own would flip."""
    x = alt.X("at:Q", title="percentile of tau", scale=alt.Scale(domain=[0, 1]))
    names = ("than at the chosen one", "than at the prompts' own")
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(names), range=[MUTED, TARGET]), legend=LEGEND)
    rows = [
        {"at": row.at, "value": row.value, "low": row.low, "high": row.high, "series": name}
        for name, series in zip(names, (stability, differing), strict=True)
        for row in series
        if row.value is not None
    ]
    base = alt.Chart(data(rows)).encode(
        x=x,
        color=colour,
        tooltip=["series:N", "at:Q", alt.Tooltip("value:Q", title="labels", format=".1%")],
    )
    y = alt.Y("value:Q", title="labels otherwise", axis=alt.Axis(format=".0%"))
    layers = [
        base.mark_area(opacity=0.18)
        .encode(y=alt.Y("low:Q"), y2="high:Q")
        .transform_filter("datum.low != null"),
        base.mark_line(strokeWidth=2, point=True).encode(y=y),
    ]
    if chosen is not None:
        layers.append(rule_at(chosen, color=INK, strokeWidth=1.5))
    if tolerance is not None:
        at = alt.Chart(data([{"at": tolerance}]))
        layers.append(at.mark_rule(color=INK, strokeDash=TOLERANCE_DASH).encode(y=alt.Y("at:Q")))
    return finish(alt.layer(*layers), "Labels that change with the percentile", 190)


def margin_bound(curve: Sequence[AdequacyRow], best: AdequacyRow, above: float = 2.0) -> Spec:
    """The bound on the flip rate over the margin; what is above `above` is cut off, above 1 it says nothing."""
    rows = [
        {"at": row.at, "value": row.value} for row in curve if row.value is not None and row.value <= above
    ]
    x = alt.X("at:Q", title="margin around tau, score units", scale=alt.Scale(zero=False, nice=False))
    y = alt.Y("value:Q", title="bound", axis=alt.Axis(format=".0%"), scale=alt.Scale(domainMin=0))
    line = alt.Chart(data(rows)).mark_line(strokeWidth=2, color=TARGET).encode(x=x, y=y)
    one = alt.Chart(data([{"at": 1.0}])).mark_rule(color=INK, strokeDash=TOLERANCE_DASH).encode(y="at:Q")
    least = alt.Chart(data([{"at": best.at, "value": best.value}]))
    point = least.mark_point(filled=True, size=75, opacity=1, color=POSITIVE).encode(
        x=x, y=y, tooltip=["at:Q", alt.Tooltip("value:Q", title="bound", format=".1%")]
    )
    return finish(alt.layer(one, line, point), "Bound on the flip rate over the margin", 190)
