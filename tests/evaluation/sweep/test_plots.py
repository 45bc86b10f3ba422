"""The plot of win rates as DVC draws it."""

import csv
import io
import json

import vl_convert
from dvc_render.vega import VegaRenderer

from tests.evaluation.statistics.test_compare import BASE, PARAMS, TUNED, pairs_of
from tests.project import ROOT
from tgo_pipeline.evaluation.statistics.compare import evaluation_table, win_rates_csv
from tgo_pipeline.rewards.toys import ShownNames


def test_the_template_draws_every_revision_set_and_interval() -> None:
    text = win_rates_csv(evaluation_table(pairs_of(BASE, TUNED), "r", PARAMS), ShownNames())
    points = [
        {**row, "rev": rev} for rev in ("workspace", "HEAD") for row in csv.DictReader(io.StringIO(text))
    ]
    renderer = VegaRenderer(
        points,
        "plots/win_rates.csv",
        template="win_rates",
        template_dir=str(ROOT / ".dvc/plots"),
        x="win_rate",
        y="reward",
        title="Win rate against the base model",
        revs_with_datapoints=["workspace", "HEAD"],
        anchors_y_definitions=[{"filename": "plots/win_rates.csv", "field": "reward"}],
    )
    specification = renderer.get_filled_template()
    assert "<DVC_METRIC" not in json.dumps(specification)
    svg = vl_convert.vegalite_to_svg(specification)
    for word in (
        "Win rate against the base model",
        "workspace",
        "HEAD",
        "all",
        "plain",
        "placed",
        "100%",
        "target",
    ):
        assert f">{word}<" in svg
    assert svg.count('aria-roledescription="point"') == len(points)
