"""The threshold stage: from score shards to the thresholds table, its metrics and its plots."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.params import Params
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic, scratch
from tgo_pipeline.thresholds.groups import groups_fingerprint
from tgo_pipeline.thresholds.targets import reference_folder, score_files, scores_fingerprint

if TYPE_CHECKING:
    from tgo_pipeline.thresholds.adequacy.table import AdequacyRow
    from tgo_pipeline.thresholds.fit import Row
    from tgo_pipeline.thresholds.plots import Bin
    from tgo_pipeline.thresholds.streams.column import ScoreColumn

log = logging.getLogger("tgo")
VERSION = 2
METRICS = (
    "tau",
    "tau_bootstrap_low",
    "tau_bootstrap_high",
    "positive_fraction",
    "ties",
    "n",
    "n_null",
    "n_nonfinite",
    "std",
    "flip_rate_prompt_mean",
)


def fit_folder(params: Params, workspace: Workspace) -> None:
    """Fit the thresholds of the scores, or of the proxy folder, and write the tables of thresholds, baselines and
    adequacy, `metrics/threshold.json`, `plots/scores.csv`, and `<reward>.{vl.json,svg}` in `plots/thresholds` and
    `plots/adequacy`.

    Groups (`threshold.group`) are looked up in the prompts and generations. Raises `TgoError`, before anything is
    written, for scores that the target cannot be split on (`fit.fit`), and for groups that no sample belongs to.
    """
    from tgo_pipeline.storage.tables import table_writer, write_table
    from tgo_pipeline.thresholds.adequacy.report import judge
    from tgo_pipeline.thresholds.adequacy.stage import write_report
    from tgo_pipeline.thresholds.baseline_table import BASELINES, baseline_tables
    from tgo_pipeline.thresholds.fit import ScoredRewards, fit
    from tgo_pipeline.thresholds.plots import histogram

    folder = reference_folder(params.threshold, workspace.scores)
    target, mark = params.target.reward, planned_mark(params, workspace)
    judged: dict[str, list[AdequacyRow]] = {}
    bars: dict[str, list[Bin]] = {}
    with scratch(workspace.thresholds) as room:
        scores = ScoredRewards(score_files(folder), params, workspace, room)
        taus: dict[str, float] = {}

        def look(column: ScoreColumn, row: Row) -> None:
            name, tau = row["reward"], row["tau"]
            taus[name] = tau
            judged[name] = judge(column, row, params)
            if tau is None:
                return
            bars[name] = histogram(column.ordered, tau)
            log.info("%s: tau = %.6g from %d scores", params.shown_names(name), tau, row["n"])
            if name == target:
                with (
                    atomic(workspace.baselines) as temporary,
                    table_writer(temporary, BASELINES, mark.entries()) as write,
                ):
                    for part in baseline_tables(scores, column, params, tau, taus):
                        write(part)

        table = fit(scores, params, scores_fingerprint(folder), look)
    rows = {row["reward"]: row for row in table.to_pylist() if row["tau"] is not None}
    verdicts = write_report(
        params, judged, path=workspace.adequacy, plots=workspace.plots / "adequacy", mark=mark
    )
    numbers = {name: _metrics(row) | verdicts[name] for name, row in rows.items()}
    with atomic(workspace.metrics / "threshold.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n")
    _plot(params, rows, bars, workspace.plots)
    with atomic(workspace.thresholds) as temporary:  # last: with it the stage counts as done
        write_table(table, temporary, mark.entries())


def planned_mark(params: Params, workspace: Workspace) -> Mark:
    """What the table of these scores and parameters would carry in its metadata; another one makes it stale."""
    folder = reference_folder(params.threshold, workspace.scores)
    content = fingerprint(
        version=VERSION,
        scores=scores_fingerprint(folder),
        rewards=sorted(params.score.columns),
        threshold=params.threshold,
        target=params.target,
        target_rewards=params.target_rewards,
        seed=params.seed,
        groups=groups_fingerprint(params.threshold, workspace.prompts),
        label=params.label,
    )
    return Mark(content, digests.of_all(score_files(folder)))


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in METRICS if row[name] is not None}


def _plot(params: Params, rows: Mapping[str, Row], bars: Mapping[str, Sequence[Bin]], plots: Path) -> None:
    from tgo_pipeline.thresholds.plots import chart, write_charts, write_csv

    shown = params.shown_names
    write_csv(bars, {name: row["tau"] for name, row in rows.items()}, plots / "scores.csv", shown)
    drawn = {name: chart(row, bars[name], shown(name)) for name, row in rows.items()}
    write_charts(drawn, plots / "thresholds")
