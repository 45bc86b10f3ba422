"""What the threshold stage writes about adequacy: the table, its plots, and a few metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.params import Params

if TYPE_CHECKING:
    import polars as pl

    from tgo_pipeline.storage.shards import Mark

log = logging.getLogger("tgo")


def write_report(
    params: Params,
    frame: pl.DataFrame,
    rows: Iterable[Mapping[str, Any]],
    *,
    path: Path,
    plots: Path,
    mark: Mark,
) -> dict[str, dict[str, Any]]:
    """Judge every row of the thresholds table on the scores `frame` that it was fitted on; write the table to `path`
    and `plots/<reward>.{vl.json,svg}`. Returns the metrics by reward."""
    from tgo_pipeline.thresholds.adequacy import plots as adequacy_plots
    from tgo_pipeline.thresholds.adequacy.report import adequacy, metrics
    from tgo_pipeline.thresholds.adequacy.table import by_reward, read_adequacy, write_adequacy

    table = adequacy(frame, rows, params)
    write_adequacy(table, path, mark)
    found = by_reward(read_adequacy(path))
    adequacy_plots.write(found, plots, params.shown_names)
    for reward, statistics in found.items():
        verdict = statistics.first("verdict")
        doubt = reward == params.target.reward and verdict.baseline != "adequate"
        level = logging.WARNING if doubt else logging.INFO
        log.log(level, "%s: %s", params.shown_names(reward), verdict.note)
    return metrics(table)
