"""Histograms are exact at tau, and the charts open offline and in `dvc plots`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import vl_convert
from dvc_render.vega import VegaRenderer
from hypothesis import example, given
from hypothesis import strategies as st

from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.thresholds.plots import chart, histogram, write_charts, write_csv
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

TEMPLATES = Path(__file__).parents[2] / ".dvc" / "plots"
ROW = {
    "reward": "hpsv2.1",
    "tau": 0.25,
    "percentile": 0.5,
    "confidence": 0.95,
    "tau_bootstrap_low": 0.24,
    "tau_bootstrap_high": 0.26,
    "positive_fraction": 0.5,
    "n": 4000,
    "n_prompts": 1000,
}


@example([0.0, 96.0], 5e-324)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=50), st.floats(-1.5e3, 1.5e3))
def test_no_bar_straddles_tau_and_none_is_lost(values: list[float], tau: float) -> None:
    scores = np.array(values)
    bars = histogram(SortedParts([np.sort(scores)]), tau)
    assert sum(bar.count for bar in bars) == len(values)
    assert sum(bar.count for bar in bars if bar.positive) == np.sum(scores >= tau)
    assert all(bar.low >= tau if bar.positive else bar.high <= tau for bar in bars)


def test_constant_scores_make_one_bar() -> None:
    bars = [bar for bar in histogram(SortedParts([np.full(5, 3.0)]), 3.0) if bar.count]
    assert [(bar.low, bar.count, bar.positive) for bar in bars] == [(3.0, 5, True)]


def test_charts_are_specs_and_images_of_the_current_rewards(tmp_path: Path) -> None:
    (tmp_path / "gone.svg").write_text("")
    bars = histogram(SortedParts([np.sort(np.random.default_rng(0).normal(0.25, 0.03, size=4000))]), 0.25)
    write_charts({"hpsv2.1": chart(ROW, bars, "hpsv2.1 (demo)")}, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hpsv2.1.svg", "hpsv2.1.vl.json"]
    svg = (tmp_path / "hpsv2.1.svg").read_text()
    assert svg.startswith("<svg")
    assert ">hpsv2.1 (demo)<" in svg
    assert "tau = 0.25 at percentile 0.5, 95 % interval 0.24 to 0.26" in svg
    assert json.loads((tmp_path / "hpsv2.1.vl.json").read_text())["$schema"].startswith("https://vega")


@pytest.mark.parametrize("template", ["threshold_histogram", "weight_histogram"])
def test_the_templates_of_dvc_draw_the_tables(tmp_path: Path, template: str) -> None:
    if template == "threshold_histogram":
        path = tmp_path / "scores.csv"
        write_csv(
            {"clip": histogram(SortedParts([np.arange(100.0)]), 49.5)}, {"clip": 49.5}, path, ShownNames()
        )
    else:
        path = tmp_path / "weights.csv"
        path.write_text("label,bin_low,bin_high,count\nnegative,1.0,2.0,7\npositive,1.0,2.0,5\n")
    with path.open() as stream:
        points = [{**point, "rev": "workspace"} for point in csv.DictReader(stream)]
    renderer = VegaRenderer(
        points,
        path.name,
        template=template,
        template_dir=str(TEMPLATES),
        x="bin_low",
        y="count",
        title="A title",
    )
    spec = renderer.get_filled_template()
    assert "DVC_METRIC" not in json.dumps(spec)
    svg = vl_convert.vegalite_to_svg(spec, vl_version="5.8")
    assert svg.count('aria-roledescription="bar"') == len(points)
