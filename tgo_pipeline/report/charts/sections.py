"""The report's charts as Vega-Lite; colours are CSS variables, so that light, dark and print need no redraw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from tgo_pipeline.rendering.text import finite
from tgo_pipeline.report.collect import EvaluationRow, HistogramBin, LabelSummary, ThresholdRow
from tgo_pipeline.report.training import LogRatios, Panel

Spec = dict[str, Any]
Drawing = alt.Chart | alt.LayerChart | alt.FacetChart
INK, MUTED, LINE = "var(--ink)", "var(--muted)", "var(--line)"
POSITIVE, NEGATIVE, TARGET, HELD_OUT = (
    "var(--positive)",
    "var(--negative)",
    "var(--target)",
    "var(--held-out)",
)
LABEL_COLOURS = alt.Scale(domain=["positive", "negative"], range=[POSITIVE, NEGATIVE])
COLOURS = {"target": TARGET, "held out": HELD_OUT, "other": MUTED}
"""What each part of a reward is drawn in."""
ROLE_COLOURS = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
CURVE_COLOURS = {"positive": POSITIVE, "negative": NEGATIVE, "policy": TARGET, "reference": MUTED}
SMOOTHED_FROM = 30  # points; below that the raw line is all
CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domainColor": LINE,
        "gridColor": LINE,
        "gridOpacity": 0.6,
        "labelColor": MUTED,
        "labelFontSize": 11,
        "tickColor": LINE,
        "titleColor": MUTED,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "axisX": {"grid": False, "labelFlush": True, "labelOverlap": True, "tickCount": 5},
    "axisY": {"domain": False, "ticks": False, "tickCount": 4, "labelLimit": 140},
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": INK,
        "labelFontSize": 11,
        "symbolSize": 80,
        "offset": 4,
    },
}


def finish(chart: Drawing, description: str, height: int) -> Spec:
    """The chart as Vega-Lite, as wide as its place in the page and `height` pixels high."""
    spec = chart.properties(width="container", height=height, description=description).to_dict(validate=False)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["config"] = CONFIG
    return spec


def data(rows: Sequence[Mapping[str, Any]]) -> alt.Data:
    """Rows as the inline data of a chart."""
    return alt.Data(values=[dict(row) for row in rows])


def rule_at(value: float, **style: Any) -> alt.Chart:
    """A vertical line at a value of the x axis."""
    return alt.Chart(data([{"at": value}])).mark_rule(**style).encode(x=alt.X("at:Q"))


def score_histogram(bins: Sequence[HistogramBin], threshold: ThresholdRow | None) -> Spec:
    """Counts per score bin, coloured by the side of tau, with tau and its interval."""
    tau = threshold.tau if threshold else None
    rows = [
        {
            "low": part.low,
            "high": part.high,
            "count": part.count,
            "side": "positive" if tau is None or (part.low + part.high) / 2 >= tau else "negative",
        }
        for part in bins
    ]
    bars = (
        alt.Chart(data(rows))
        .mark_bar(binSpacing=0.5)
        .encode(
            x=alt.X("low:Q", bin="binned", title="score", scale=alt.Scale(zero=False, nice=False)),
            x2="high:Q",
            y=alt.Y("count:Q", title="samples"),
            color=alt.Color("side:N", scale=LABEL_COLOURS, legend=None),
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=".4~g"),
                alt.Tooltip("high:Q", title="to", format=".4~g"),
                alt.Tooltip("count:Q", title="samples", format=","),
            ],
        )
    )
    if threshold is None or tau is None:
        return finish(bars, "Histogram of scores", 150)
    layers = [bars, rule_at(tau, color=INK, strokeWidth=1.5)]
    if finite(threshold.tau_low) is not None and finite(threshold.tau_high) is not None:
        band = data([{"low": threshold.tau_low, "high": threshold.tau_high}])
        layers.insert(
            1, alt.Chart(band).mark_rect(color=INK, opacity=0.18).encode(x=alt.X("low:Q"), x2="high:Q")
        )
    return finish(alt.layer(*layers), f"Histogram of {threshold.reward} scores with tau", 150)


def label_balance(labels: LabelSummary) -> Spec:
    """The positive share, once counting samples and once counting their weight."""
    shares = {"by count": labels.positive / labels.n, "by weight": labels.positive_weight_share}
    rows = [
        {"how": how, "label": label, "share": share, "order": order}
        for how, positive in shares.items()
        for order, (label, share) in enumerate((("positive", positive), ("negative", 1 - positive)))
    ]
    bars = (
        alt.Chart(data(rows))
        .mark_bar(height=22)
        .encode(
            y=alt.Y("how:N", title=None, sort=list(shares), axis=alt.Axis(labelColor=INK, labelFontSize=12)),
            x=alt.X("share:Q", title="share", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("label:N", scale=LABEL_COLOURS),
            order="order:Q",
            tooltip=["how:N", "label:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    middle = rule_at(0.5, color=INK, strokeDash=[3, 3])
    return finish(
        alt.layer(bars, middle), "Share of positive labels by count and by weight", 34 * len(shares)
    )


def weight_histogram(labels: LabelSummary) -> Spec:
    """Counts per weight bin, stacked by label."""
    rows = [
        {"low": part.low, "high": part.high, "count": part.count, "label": label}
        for label, parts in labels.histogram.items()
        for part in parts
    ]
    bars = (
        alt.Chart(data(rows))
        .mark_bar(binSpacing=0.5)
        .encode(
            x=alt.X("low:Q", bin="binned", title="weight", scale=alt.Scale(zero=False, nice=False)),
            x2="high:Q",
            y=alt.Y("count:Q", title="samples", stack=True),
            color=alt.Color("label:N", scale=LABEL_COLOURS),
            tooltip=[
                "label:N",
                alt.Tooltip("low:Q", title="weight from", format=".3~f"),
                alt.Tooltip("high:Q", title="to", format=".3~f"),
                alt.Tooltip("count:Q", title="samples", format=","),
            ],
        )
    )
    mean = rule_at(labels.mean_weight, color=INK, strokeWidth=1.5)
    return finish(alt.layer(bars, mean), "Histogram of the confidence weights by label", 170)


def forest(
    rows: Sequence[EvaluationRow],
    roles: Mapping[str, str],
    domain: Sequence[float],
) -> Spec:
    """Effects with intervals, one line a reward, against zero; `domain` is what the axis covers."""
    values = [_line(row, roles, row.effect, row.effect_low, row.effect_high) for row in rows]
    axis = {"title": "tuned − base (SD of base)", "scale": alt.Scale(domain=list(domain))}
    return _intervals(
        values, axis, 0.0, "+.2f", "Differences between the tuned and the base model with intervals"
    )


def effect_domain(rows: Sequence[EvaluationRow]) -> list[float]:
    """An axis that holds zero and every interval of the rows."""
    ends = [end for row in rows for end in (row.effect, row.effect_low, row.effect_high) if end is not None]
    return _padded([0.0, *ends])


def _padded(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1.0
    return [low - margin, high + margin]


def win_rates(rows: Sequence[EvaluationRow], roles: Mapping[str, str]) -> Spec:
    """Strict win rates with intervals against 50 %; a hollow diamond adds half of the ties where there are some."""
    values = [
        _line(row, roles, row.win_rate, row.win_rate_low, row.win_rate_high)
        | {"with_ties": finite(row.win_tie_rate) if row.ties else None}
        for row in rows
    ]
    ends = [end for row in rows for end in (row.win_rate_low, row.win_rate_high)]
    low, high = _padded([0.4, 0.6, *ends])
    axis = {
        "title": "pairs that the tuned model wins",
        "axis": alt.Axis(format=".0%"),
        "scale": alt.Scale(domain=[max(0.0, low), min(1.0, high)]),
    }
    return _intervals(values, axis, 0.5, ".1%", "Win rates of the tuned model with intervals")


def _line(
    row: EvaluationRow, roles: Mapping[str, str], middle: float | None, low: float | None, high: float | None
) -> dict[str, Any]:
    interval = {"middle": finite(middle), "low": finite(low), "high": finite(high)}
    return {"reward": row.reward, "role": roles[row.reward], **interval}


def _intervals(
    values: Sequence[Mapping[str, Any]], axis: Mapping[str, Any], neutral: float, form: str, description: str
) -> Spec:
    order = list(dict.fromkeys(value["reward"] for value in values))
    strong = [value["reward"] for value in values if value["role"] != "other"]
    weight = {
        "condition": {"test": f"indexof({json.dumps(strong)}, datum.value) >= 0", "value": "bold"},
        "value": "normal",
    }
    names = alt.Axis(labelFontWeight=weight, labelColor=INK, labelFontSize=12, grid=True)  # type: ignore[arg-type]
    base = alt.Chart(data(values)).encode(
        y=alt.Y("reward:N", title=None, sort=order, axis=names),
        color=alt.Color("role:N", scale=ROLE_COLOURS, legend=None),
        tooltip=[
            "reward:N",
            alt.Tooltip("middle:Q", title="estimate", format=form),
            alt.Tooltip("low:Q", title="low", format=form),
            alt.Tooltip("high:Q", title="high", format=form),
        ],
    )
    layers = [
        alt.Chart(data([{"at": neutral}])).mark_rule(color=INK).encode(x=alt.X("at:Q", **axis)),
        base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(x=alt.X("low:Q", **axis), x2="high:Q"),
        base.mark_point(filled=True, size=75, opacity=1).encode(x=alt.X("middle:Q", **axis)),
    ]
    if any(value.get("with_ties") is not None for value in values):
        diamond = base.mark_point(shape="diamond", size=60, opacity=1)
        layers.append(diamond.encode(x=alt.X("with_ties:Q", **axis)))
    return finish(alt.layer(*layers), description, 26 * len(order))


def difference_histogram(differences: Sequence[float], colour: str) -> Spec:
    """How the paired differences spread around zero."""
    import numpy as np

    counts, edges = np.histogram(np.asarray(differences, dtype=np.float64), bins=_around_zero(differences))
    rows = [
        {"low": low, "high": high, "count": int(n)}
        for low, high, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True)
    ]
    bars = (
        alt.Chart(data(rows))
        .mark_bar(binSpacing=0.5, color=colour)
        .encode(
            x=alt.X("low:Q", bin="binned", title="tuned − base, score units", scale=alt.Scale(nice=False)),
            x2="high:Q",
            y=alt.Y("count:Q", title="pairs"),
            opacity=alt.condition("datum.low >= 0", alt.value(1), alt.value(0.45)),  # type: ignore[arg-type]
            tooltip=[
                alt.Tooltip("low:Q", title="from", format="+.3~g"),
                alt.Tooltip("high:Q", title="to", format="+.3~g"),
                alt.Tooltip("count:Q", title="pairs"),
            ],
        )
    )
    layers = alt.layer(bars, rule_at(0.0, color=INK, strokeWidth=1.5))
    return finish(layers, "Histogram of paired differences around zero", 150)


def _around_zero(differences: Sequence[float], half: int = 15) -> list[float]:
    """Bin edges of equal width that cover the data, one of them exactly zero."""
    reach = max((abs(value) for value in differences), default=0.0) or 1.0
    width = reach / half
    below, above = min(differences, default=0.0), max(differences, default=0.0)
    first = -half if below < 0 else 0
    last = half if above > 0 or first == 0 else 0
    return [place * width for place in range(first, last)] + [reach if last else 0.0]


def curves(panel: Panel) -> Spec:
    """A training metric over steps: where it is noisy, raw values faint and a running mean over them."""
    names = [curve.name or panel.title for curve in panel.curves]
    rows = [
        {"step": step, "value": value, "series": name}
        for name, curve in zip(names, panel.curves, strict=True)
        for step, value in zip(curve.steps, curve.values, strict=True)
    ]
    colour, dash = _curve_styles(names)
    base = alt.Chart(data(rows)).encode(x=alt.X("step:Q", title="step"), color=colour)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(format=".3~g"))
    tips = ["series:N", "step:Q", alt.Tooltip("value:Q", format=".4~g")]
    description = f"{panel.title} over training steps"
    longest = max(len(curve.values) for curve in panel.curves)
    if longest < SMOOTHED_FROM or not any(curve.noisy for curve in panel.curves):
        line = base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash, tooltip=tips)
        return finish(line, description, 170)
    reach = longest // 25 + 1  # means over a twelfth of the training
    raw = base.mark_line(strokeWidth=1, opacity=0.3).encode(y=y, tooltip=tips)
    smooth = (
        base.transform_window(smooth="mean(value)", frame=[-reach, reach], groupby=["series"])
        .mark_line(strokeWidth=2)
        .encode(y=alt.Y("smooth:Q"), strokeDash=dash)
    )
    return finish(alt.layer(raw, smooth), description, 170)


def _curve_styles(names: Sequence[str]) -> tuple[alt.Color, alt.StrokeDash]:
    """Colour tells the label's side where there is one, else the model; dashes tell the reference."""
    legend = alt.Legend(columns=2, symbolOpacity=1, symbolStrokeWidth=2) if len(names) > 1 else None
    colours = [
        next((value for word, value in CURVE_COLOURS.items() if word in name.split()), INK) for name in names
    ]
    dashes = [[4, 3] if "reference" in name else [1, 0] for name in names]
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(names), range=colours), legend=legend)
    return colour, alt.StrokeDash(
        "series:N", scale=alt.Scale(domain=list(names), range=dashes), legend=legend
    )


def log_ratio_histogram(log_ratios: LogRatios) -> Spec:
    """The log-ratios of the two sides in one batch, over each other, around zero."""
    rows = [
        {"low": low, "high": high, "count": count, "label": label}
        for label, bars in log_ratios.sides.items()
        for low, high, count in bars
    ]
    bars = (
        alt.Chart(data(rows))
        .mark_bar(binSpacing=0, opacity=0.6)
        .encode(
            x=alt.X("low:Q", bin="binned", title="log-ratio", scale=alt.Scale(nice=False)),
            x2="high:Q",
            y=alt.Y("count:Q", title="samples", stack=None),
            color=alt.Color("label:N", scale=LABEL_COLOURS),
            tooltip=["label:N", "low:Q", "high:Q", "count:Q"],
        )
    )
    layers = alt.layer(bars, rule_at(0.0, color=INK, strokeWidth=1.5))
    return finish(layers, f"Histogram of the log-ratios at step {log_ratios.step}", 170)
