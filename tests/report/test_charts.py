from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import altair as alt
import pytest
import vl_convert

from tests.report.test_summary import UNCLEAR, UP, row
from tests.report.workspace import Workspace
from tgo_pipeline.report import sections
from tgo_pipeline.report.adequacy import adequacy
from tgo_pipeline.report.build import HERE
from tgo_pipeline.report.charts import sections as charts
from tgo_pipeline.report.models import models
from tgo_pipeline.report.thumbnails import Album
from tgo_pipeline.report.training import Curve, Panel


@pytest.fixture(scope="module")
def specs(workspace: Workspace) -> dict[str, charts.Spec]:
    """Every chart of a report by name."""
    params, sources = workspace.params, workspace.sources
    evaluation, scores = sections.evaluation(params, sources), sections.scores(params, sources)
    labels, training = sections.labels(params, sources), sections.training_curves(sources)
    pairs = sections.before_after(params, sources, evaluation, Album())
    assert evaluation and scores and labels and training and pairs and training.log_ratios
    adequate, compared = adequacy(params, sources.adequacy), models(params, sources, evaluation.roles)
    assert adequate and adequate.charts and compared and compared.categories
    return {
        "differences": evaluation.differences,
        "win rates": evaluation.win_rates,
        **evaluation.by_set,
        **scores.charts,
        "balance": labels.balance,
        "weights": labels.weights,
        **{panel.title: spec for panel, spec in training.panels},
        "log-ratios": training.log_ratios,
        **{f"{name} pairs": spec for name, spec in pairs.charts.items()},
        **{name: spec for name, (spec, _) in adequate.charts.items()},
        **compared.categories,
    }


def test_every_chart_keeps_to_the_schema_of_its_grammar(specs: dict[str, charts.Spec]) -> None:
    for spec in specs.values():
        alt.Chart.from_dict(_with_little_data(spec), validate=True)


def _with_little_data(part: Any) -> Any:
    """A chart with two points of each data set: the grammar asks no more of the others."""
    if isinstance(part, list):
        return [_with_little_data(value) for value in part]
    if not isinstance(part, dict):
        return part
    return {name: value[:2] if name == "values" else _with_little_data(value) for name, value in part.items()}


def test_every_chart_renders_with_another_runtime_and_fetches_nothing(specs: dict[str, charts.Spec]) -> None:
    for name, spec in specs.items():
        assert '"url"' not in json.dumps(spec), name
        drawn = vl_convert.vegalite_to_svg(spec, show_warnings=False)
        assert drawn.count("<path") > 2, name
        assert spec["description"], name


def test_colours_are_variables_of_the_style_sheet(specs: dict[str, charts.Spec]) -> None:
    style = (HERE / "report.css").read_text(encoding="utf-8")
    used = {name for spec in specs.values() for name in re.findall(r"var\((--[\w-]+)\)", json.dumps(spec))}
    assert used
    for name in used:
        assert f"{name}:" in style


def test_the_axis_of_effects_holds_zero_and_every_interval() -> None:
    low, high = charts.effect_domain([row("clip", *UP), row("oracle", *UNCLEAR), row("hpsv2.1", None, None)])
    assert low < 2 * UNCLEAR[0] < 0 < 2 * UP[1] < high


def test_ties_add_a_diamond() -> None:
    with_ties = [row("mean_z", *UP)]
    without = [dataclasses.replace(with_ties[0], ties=0)]
    roles = {"mean_z": "target"}
    assert "diamond" in json.dumps(charts.win_rates(with_ties, roles))
    assert "diamond" not in json.dumps(charts.win_rates(without, roles))


@pytest.mark.parametrize("values", [[-0.4, 0.1, 0.3], [0.2, 0.5], [-0.2, -0.1], [0.0, 0.0]])
def test_the_bins_of_differences_split_at_zero_and_lose_none(values: list[float]) -> None:
    spec = charts.difference_histogram(values, charts.TARGET)
    bars = spec["layer"][0]["data"]["values"]
    assert sum(bar["count"] for bar in bars) == len(values)
    assert all(bar["high"] <= 1e-12 or bar["low"] >= -1e-12 for bar in bars)


@pytest.mark.parametrize("steps", [60, 2000])
def test_a_learning_rate_with_its_warm_up_is_drawn_as_it_is_and_noise_is_smoothed(steps: int) -> None:
    at = list(range(1, steps + 1))
    rate = [3e-7 * min(step / 10, 0.5 + 0.5 * math.cos(math.pi * step / steps)) for step in at]
    loss = [1 - step / steps + (0.1 if step % 3 else -0.1) for step in at]
    panels = [
        Panel(title, [Curve("", at, values)]) for title, values in (("Learning rate", rate), ("Loss", loss))
    ]
    drawn, smoothed = map(charts.curves, panels)
    assert "layer" not in drawn and "layer" in smoothed
    assert [point["value"] for point in drawn["data"]["values"]] == rate


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_colours_have_contrast(scheme: int) -> None:
    """WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text."""
    style = (HERE / "report.css").read_text(encoding="utf-8")
    found = re.findall(r"(--[\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", style)
    colours = {name: pair[scheme] for name, *pair in found}
    for ground in ("--paper", "--panel", "--soft"):
        for ink in ("--ink", "--muted", "--target", "--held-out", "--positive", "--negative"):
            pair = sorted((_luminance(colours[ground]), _luminance(colours[ink])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ground, ink)
