"""What the threshold stage writes about adequacy: the table, its plots, and a few metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.params import Params

if TYPE_CHECKING:
    from tgo_pipeline.storage.shards import Mark
    from tgo_pipeline.thresholds.adequacy.table import AdequacyRow

log = logging.getLogger("tgo")


def write_report(
    params: Params,
    judged: Mapping[str, Iterable[AdequacyRow]],
    *,
    path: Path,
    plots: Path,
    mark: Mark,
) -> dict[str, dict[str, Any]]:
    """Write what was judged of every row of the thresholds table to `path` and `plots/<reward>.{vl.json,svg}`.

    Returns the metrics by reward.
    """
    from tgo_pipeline.thresholds.adequacy import plots as adequacy_plots
    from tgo_pipeline.thresholds.adequacy.report import metrics
    from tgo_pipeline.thresholds.adequacy.table import by_reward, read_adequacy, table, write_adequacy

    whole = table((name, row) for name, rows in judged.items() for row in rows)
    write_adequacy(whole, path, mark)
    found = by_reward(read_adequacy(path))
    adequacy_plots.write(found, plots, params.shown_names)
    for reward, statistics in found.items():
        verdict = statistics.first("verdict")
        doubt = reward == params.target.reward and verdict.baseline != "adequate"
        level = logging.WARNING if doubt else logging.INFO
        log.log(level, "%s: %s", params.shown_names(reward), verdict.note)
    return metrics(whole)
