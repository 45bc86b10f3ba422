"""Charts of a sweep: each reward against the strength, and against the diversity that is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.evaluation.statistics.diversity import CLIP, PIXELS
from tgo_pipeline.rendering.sheets import written
from tgo_pipeline.storage.writing import atomic
from tgo_pipeline.thresholds.plots import write_charts

if TYPE_CHECKING:
    import pyarrow as pa

    from tgo_pipeline.rewards.toys import ShownNames

COLOUR, FAINT = "#2f7f86", "#8a8a8e"
COLUMNS, WIDTH, HEIGHT = 3, 210, 150
"""Charts of 210 x 150 pixels, three in a row: some 700 in all."""
DISTANCES = {
    CLIP: "distance of CLIP embeddings (1 - cosine)",
    PIXELS: "distance of pixels (root mean square)",
}
_TITLES = {CLIP: "diversity: CLIP distance", PIXELS: "diversity: pixel distance"}


def write_plots(
    table: pa.Table, rewards: Sequence[str], plots: Path, confidence: float, shown: ShownNames
) -> None:
    """`plots`/sweep.csv, and `strength` and `diversity` in `plots`/sweep as Vega-Lite and as SVG."""
    rows = shown.rows(table.to_pylist(), "measure")
    with atomic(plots / "sweep.csv") as temporary:
        content = written(list(rows[0]), ([*row.values()] for row in rows), end="\r\n")
        temporary.write_text(content, encoding="utf-8")
    charts = {
        "strength": strength_chart(rows, confidence),
        "diversity": diversity_chart(rows, [shown(name) for name in rewards]),
    }
    write_charts(charts, plots / "sweep")


def strength_chart(rows: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Vega-Lite spec: one panel for each reward and diversity, its difference to strength 0 with an interval."""
    measures = list(dict.fromkeys((row["kind"], row["measure"]) for row in rows))
    panels = [
        _strength_panel([row for row in rows if (row["kind"], row["measure"]) == measure])
        for measure in measures
    ]
    subtitle = (
        f"Difference to strength 0 with the same seeds; bands are paired {100 * confidence:g} % intervals."
    )
    return _page(panels, "Guidance strength", subtitle)


def _strength_panel(rows: list[dict[str, Any]]) -> Any:
    import altair as alt

    data = alt.Chart(alt.InlineData(values=rows)).encode(x=alt.X("strength:Q", title="strength"))
    band = data.mark_area(color=COLOUR, opacity=0.18).encode(
        y=alt.Y("difference_low:Q", title="difference"), y2="difference_high:Q"
    )
    line = data.mark_line(color=COLOUR, point=alt.OverlayMarkDef(color=COLOUR, size=36)).encode(
        y=alt.Y("difference:Q", title="difference"),
        tooltip=["strength:Q", "mean:Q", "difference:Q", "difference_low:Q", "difference_high:Q", "n:Q"],
    )
    zero = (
        alt.Chart(alt.InlineData(values=[{"zero": 0}]))
        .mark_rule(color=FAINT, strokeDash=[3, 3])
        .encode(y="zero:Q")
    )
    title = _TITLES.get(rows[0]["measure"], rows[0]["measure"])
    return alt.layer(zero, band, line).properties(title=title, width=WIDTH, height=HEIGHT)


def diversity_chart(rows: Sequence[dict[str, Any]], rewards: Sequence[str]) -> dict[str, Any]:
    """Vega-Lite spec: for each reward a path through the strengths, by diversity (x) and mean reward (y).

    The diversity is that of CLIP embeddings if there is one: pixels also move apart when colours saturate.
    """
    measured = {row["measure"] for row in rows if row["kind"] == "diversity"}
    distance = next(name for name in DISTANCES if name in measured)
    panels = [_diversity_panel(rows, reward, distance) for reward in rewards]
    subtitle = (
        "Mean reward and mean distance between the images of a prompt; numbers at the points are strengths."
    )
    return _page(panels, "Reward against diversity", subtitle)


def _diversity_panel(rows: Sequence[dict[str, Any]], reward: str, distance: str) -> Any:
    import altair as alt

    means = {(row["kind"], row["measure"], row["strength"]): row["mean"] for row in rows}
    values = [
        {
            "strength": strength,
            "reward": means["reward", reward, strength],
            "diversity": means["diversity", distance, strength],
        }
        for strength in dict.fromkeys(row["strength"] for row in rows)
    ]
    scale = alt.Scale(zero=False, nice=True, padding=12)
    data = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("diversity:Q", title=DISTANCES[distance], scale=scale),
        y=alt.Y("reward:Q", title="mean", scale=scale),
        order="strength:Q",
    )
    path = data.mark_line(color=COLOUR, opacity=0.5)
    points = data.mark_circle(color=COLOUR, size=50, opacity=1).encode(
        tooltip=["strength:Q", "reward:Q", "diversity:Q"]
    )
    labels = data.mark_text(align="left", dx=7, dy=-7, fontSize=10).encode(
        text=alt.Text("strength:Q", format="~g")
    )
    return alt.layer(path, points, labels).properties(title=reward, width=WIDTH, height=HEIGHT)


def _page(panels: Sequence[Any], title: str, subtitle: str) -> dict[str, Any]:
    import altair as alt

    heading = alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor="#555", offset=14)
    page = alt.concat(*panels, columns=COLUMNS).resolve_scale(x="independent", y="independent")
    return page.properties(title=heading).configure_view(stroke=None).configure_axis(grid=False).to_dict()
