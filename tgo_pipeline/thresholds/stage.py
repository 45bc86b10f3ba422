"""The threshold stage: from score shards to the thresholds table, its metrics and its plots."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.params import Params, ThresholdParams
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic
from tgo_pipeline.thresholds.groups import groups_fingerprint
from tgo_pipeline.thresholds.targets import (
    finite,
    read_scores,
    reference_folder,
    score_files,
    scores_fingerprint,
    target_scores,
)

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

log = logging.getLogger("tgo")
VERSION = 2
NO_GROUP = ThresholdParams()
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
    from tgo_pipeline.storage.tables import write_table
    from tgo_pipeline.thresholds.adequacy.stage import write_report
    from tgo_pipeline.thresholds.fit import fit

    folder = reference_folder(params.threshold, workspace.scores)
    rewards = params.score.columns
    frame = read_scores(folder, rewards)
    table = fit(
        frame,
        rewards=rewards,
        target=params.target.reward,
        target_rewards=params.target_rewards,
        params=params.threshold,
        seed=params.seed,
        scores_fingerprint=scores_fingerprint(folder),
    )
    per_prompt = _baselines(params, frame, table, workspace)
    mark = planned_mark(params, workspace)
    with atomic(workspace.baselines) as temporary:
        write_table(per_prompt, temporary, mark.entries())
    rows = {row["reward"]: row for row in table.to_pylist() if row["tau"] is not None}
    for name, row in rows.items():
        log.info("%s: tau = %.6g from %d scores", params.shown_names(name), row["tau"], row["n"])
    verdicts = write_report(
        params,
        frame,
        table.to_pylist(),
        path=workspace.adequacy,
        plots=workspace.plots / "adequacy",
        mark=mark,
    )
    numbers = {name: _metrics(row) | verdicts[name] for name, row in rows.items()}
    with atomic(workspace.metrics / "threshold.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n")
    _plot(params, frame, rows, workspace.plots)
    with atomic(workspace.thresholds) as temporary:  # last: with it the stage counts as done
        write_table(table, temporary, mark.entries())


def _baselines(params: Params, frame: pl.DataFrame, table: pa.Table, workspace: Workspace) -> pa.Table:
    import numpy as np

    from tgo_pipeline.thresholds.baseline_table import baseline_table
    from tgo_pipeline.thresholds.groups import Members, members

    target = params.target.reward
    taus = dict(zip(table["reward"].to_pylist(), table["tau"].to_pylist(), strict=True))
    values = target_scores(frame, target, params.target_rewards, frame, taus)
    known = np.isfinite(values)
    belongs = members([frame], params.threshold, workspace)
    prompts = belongs if belongs.level == "prompt" else members([frame], NO_GROUP, workspace)
    return baseline_table(
        target,
        values[known],
        prompts.numbers[0][known],
        Members(belongs.level, belongs.names, [belongs.numbers[0][known]]),
        params.threshold,
        tau=taus[target],
        seed=params.seed,
    )


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


def _plot(params: Params, frame: pl.DataFrame, rows: dict[str, dict[str, Any]], plots: Path) -> None:
    from tgo_pipeline.thresholds.plots import chart, histogram, write_charts, write_csv

    taus = {name: row["tau"] for name, row in rows.items()}
    bars = {}
    for name, tau in taus.items():
        rewards = params.target_rewards if name == params.target.reward else [name]
        bars[name] = histogram(finite(target_scores(frame, name, rewards, frame, taus)), tau)
    shown = params.shown_names
    write_csv(bars, taus, plots / "scores.csv", shown)
    drawn = {name: chart(row, bars[name], shown(name)) for name, row in rows.items()}
    write_charts(drawn, plots / "thresholds")
