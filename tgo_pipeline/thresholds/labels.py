"""Labels 1[s >= b] and confidence weights w = 1 + c|s - b| of Threshold-Guided Optimization (arXiv 2605.04653).

b is the global tau, or with another `threshold.baseline` what the sample's own prompt or group gives.

The weight is not free of scale: scores that spread by 0.03 (HPSv2) make w about 1 whatever c is, scores that spread
by 1 (ImageReward) reach 10. `scale` measures the distance to tau in other units than the score's own.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, ThresholdParams
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.storage.shards import SHARD_NAME, Shard, Status, Stop, run_shards
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic
from tgo_pipeline.thresholds.targets import (
    mid_ranks,
    read_score_shard,
    read_scores,
    reference_folder,
    score_files,
    scores_fingerprint,
    standard_deviation,
    target_scores,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from tgo_pipeline.thresholds.baselines import Comparison

log = logging.getLogger("tgo")
VERSION = 1
MAD_TO_STD = (
    1.4826  # 1 / quantile of the normal distribution at 3/4: the MAD of normal scores becomes their std
)
WEIGHT_BINS = 40  # bars of the chart of weights, of some pixels each
MANY_TIES = 0.01
"""Share of samples at their baseline above which it is said; the threshold stage says it of the global tau."""
_OWN = {
    "prompt_mean": "each prompt's mean",
    "prompt_median": "each prompt's median",
    "prompt_soft": "each prompt's soft baseline",
    "prompt_quantile": "tau_q among each prompt's quantiles",
    "group": "each group's tau",
}
Ties = Literal["positive", "negative"]
Scale = Literal["raw", "std", "mad", "rank"]


def labels(scores: np.ndarray, tau: float | np.ndarray, ties: Ties = "positive") -> np.ndarray:
    """1 where a score is at or above tau (above it, with `ties="negative"`), else 0; int8 (N,).

    `tau` is one number or one for each sample (N,).

    Raises `TgoError` if a score is not finite: it belongs to neither side.
    """
    _require_finite(scores)
    above = scores >= tau if ties == "positive" else scores > tau
    return above.astype(np.int8)


def weights(
    scores: np.ndarray,
    tau: float | np.ndarray,
    c: float,
    scale: Scale = "raw",
    reference: np.ndarray | None = None,
) -> np.ndarray:
    """w = 1 + c d of each score (N,), float64, where d is its distance to tau, or its own (N,), in units of `scale`.

    `raw`: |s - tau|, the paper's; `std`: divided by the standard deviation; `mad`: by 1.4826 times the median
    absolute deviation from the median; `rank`: |F(s) - F(tau)| with F the mid-rank distribution function, so that w
    is at most 1 + c. The unit comes from `reference`, the finite scores of the training set (default: `scores`).
    Raises `TgoError` if a score is not finite or the unit is zero.
    """
    _require_finite(scores)
    if c == 0:
        return np.ones(len(scores))
    known = np.asarray(scores if reference is None else reference, dtype=np.float64)
    return 1 + c * _distances(np.asarray(scores, dtype=np.float64), tau, scale, known)


def _distances(scores: np.ndarray, tau: float | np.ndarray, scale: Scale, known: np.ndarray) -> np.ndarray:
    if scale == "rank":
        ordered = np.sort(known)
        return np.abs(mid_ranks(scores, ordered) - mid_ranks(np.atleast_1d(tau), ordered))
    distances = np.abs(scores - tau)
    if scale == "std":
        return distances / standard_deviation(known, "the target score")
    return distances / _mad(known) if scale == "mad" else distances


def _mad(known: np.ndarray) -> float:
    middle = float(np.median(known))
    unit = MAD_TO_STD * float(np.median(np.abs(known - middle)))
    if unit == 0:
        raise TgoError(
            f"label.scale is mad, but half of the target scores or more equal {middle:g}, so that their median "
            "absolute deviation is 0: use std, rank or raw."
        )
    return unit


def _require_finite(scores: np.ndarray) -> None:
    bad = int(np.sum(~np.isfinite(scores)))
    if bad:
        raise TgoError(f"{bad} of {len(scores)} scores are NaN or infinite: leave them out before labelling.")


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 (Kish): N for equal weights, 1 when one sample has all of it; 0 for no samples."""
    if not len(weights):
        return 0.0
    relative = np.asarray(weights, dtype=np.float64) / np.max(weights)
    return float(np.sum(relative) ** 2 / np.sum(relative**2))


@dataclass(frozen=True)
class Labelled:
    """The whole data set labelled: per sample its target score (NaN: unscored) and what follows from it (N,)."""

    reward: str
    tau: float
    scores: np.ndarray
    relative: np.ndarray
    """The score minus its baseline, or its quantile minus tau_q."""
    labels: np.ndarray
    weights: np.ndarray
    baseline: str = "global"
    fallback: int = 0
    """How many samples are compared with the global tau because they have no baseline of their own."""
    moved: int = 0
    """How many labels are not those of the global tau."""

    @property
    def scored(self) -> np.ndarray:
        """Which samples have a target score, and with it a label (N,)."""
        return ~np.isnan(self.scores)


def plan(params: Params, workspace: Workspace) -> list[Shard]:
    """One label shard per score shard. Every one depends on all scores, through tau and the unit of the weights.

    Raises `TgoError` if there are no score shards or no thresholds table.
    """
    from tgo_pipeline.storage.tables import read_metadata

    thresholds = workspace.thresholds
    if not thresholds.is_file():
        raise TgoError(f"{thresholds} does not exist: run the threshold stage first.")
    files = score_files(workspace.scores)
    content = fingerprint(
        version=VERSION,
        scores=scores_fingerprint(workspace.scores),
        thresholds=read_metadata(thresholds).get("fingerprint") or content_fingerprint(thresholds),
        target=params.target,
        target_rewards=params.target_rewards,
        label=params.label,
    )
    read = [*files, thresholds, *_proxy_files(params, workspace)]
    return [_shard(file, content, digests.of_all(read)) for file in files]


def _proxy_files(params: Params, workspace: Workspace) -> list[Path]:
    """The scores that tau and the units come from, where they are not those that are labelled."""
    folder = reference_folder(params.threshold, workspace.scores)
    return [] if folder == workspace.scores else score_files(folder)


def _shard(file: Path, content: str, inputs: str) -> Shard:
    shard = SHARD_NAME.fullmatch(file.name)
    if shard is None:
        raise TgoError(f"{file} is not named like a shard (train-00000-of-00001.parquet): move it elsewhere.")
    return Shard(shard["split"], int(shard["index"]), int(shard["count"]), content, inputs=inputs)


def label_folder(params: Params, workspace: Workspace) -> Status:
    """Write a label shard for every score shard (same name), `metrics/label.json` and `plots/weights.csv`.

    The rule is the one that the thresholds were fitted for. A sample without a target
    score gets no row and is counted as failed. Raises `TgoError`, before anything is written, if no sample can be
    labelled or all fall on one side.
    """
    shards = plan(params, workspace)
    data_set = label_scores(params, workspace)
    _require_both_sides(data_set, params.label.ties)

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        _write_shards(waiting, stop, shards, data_set, workspace)

    status = run_shards(workspace.labels, shards, work)
    numbers = summary(data_set)
    log.info(
        "%s labelled at %s: %.1f %% positive, weights %.3g on average, effective sample size %.0f of %d",
        numbers["labelled"],
        _where(data_set),
        100 * numbers["positive_share"],
        numbers["weight_mean"],
        numbers["effective_sample_size"],
        numbers["labelled"],
    )
    if data_set.baseline != "global" and numbers["at_baseline"] > MANY_TIES * numbers["labelled"]:
        log.warning(
            "%d of %d samples are exactly at their baseline: label.ties (%s) decides where they go",
            numbers["at_baseline"],
            numbers["labelled"],
            params.label.ties,
        )
    with atomic(workspace.metrics / "label.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n")
    _write_weights(data_set, workspace.plots / "weights.csv")
    return status


def label_scores(params: Params, workspace: Workspace) -> Labelled:
    """Target score, label and weight of every sample of the score shards, in the order of the shards.

    A sample whose prompt or group has too few scores for a baseline of its own is compared with the global tau, and
    counted. Raises `TgoError` if that is every one, or no sample has a target score.
    """
    from tgo_pipeline.thresholds.compare import compare
    from tgo_pipeline.thresholds.table import fitted_rule, read_thresholds, taus, threshold_row

    scores, thresholds = workspace.scores, workspace.thresholds
    table = read_thresholds(thresholds)
    target, rewards = params.target.reward, params.target_rewards
    row = threshold_row(table, target)
    tau = row["tau"]
    if tau is None:
        raise TgoError(
            f"{target} has no tau in {thresholds}: its scores were too few; choose another target."
        )
    rule = fitted_rule(row, params.threshold)
    if rule != params.threshold:
        log.warning("%s was fitted with other parameters: run the threshold stage again", thresholds)
    frame = read_scores(scores, rewards)
    folder = reference_folder(params.threshold, scores)
    if row["scores_fingerprint"] != scores_fingerprint(folder):
        log.warning(
            "%s was fitted on other scores than those of %s now: run the threshold stage again",
            thresholds,
            folder,
        )
    reference = frame if folder == scores else read_scores(folder, rewards)
    values = target_scores(frame, target, rewards, reference, taus(table))
    if np.isnan(values).all():
        raise TgoError(
            f"no sample of {scores} has a score for the target {target}: look at its error column."
        )
    proxy = None
    if folder != scores:
        proxy = (reference, target_scores(reference, target, rewards, reference, taus(table)))
    compared = compare(frame, values, rule, tau, workspace, proxy)
    return _labelled(params, rule, tau, values, compared)


def _labelled(
    params: Params, rule: ThresholdParams, tau: float, values: np.ndarray, compared: Comparison
) -> Labelled:
    scored, options = ~np.isnan(values), params.label
    label, weight, relative = np.zeros(len(values), np.int8), np.zeros(len(values)), np.zeros(len(values))
    label[scored] = labels(compared.measured, compared.baseline, options.ties)
    weight[scored] = weights(compared.measured, compared.baseline, options.c, options.scale)
    relative[scored] = compared.relative
    moved = int(np.sum(label[scored] != labels(values[scored], tau, options.ties)))
    fallback = int(compared.fallback.sum())
    return Labelled(
        params.target.reward, tau, values, relative, label, weight, rule.baseline, fallback, moved
    )


def _require_both_sides(data_set: Labelled, ties: Ties) -> None:
    known = data_set.scores[data_set.scored]
    positive = int(data_set.labels.sum())
    if 0 < positive < known.size:
        return
    at_tau = int(np.sum(data_set.relative[data_set.scored] == 0))
    advice = "threshold.percentile" if data_set.baseline in ("global", "group") else "threshold.baseline"
    raise TgoError(
        f"{positive} of {known.size} samples are positive at {_where(data_set)} (scores from "
        f"{known.min():g} to {known.max():g}, {at_tau} equal tau, label.ties is {ties}): both sides are needed; change "
        f"{advice}, label.ties or the target."
    )


def _where(data_set: Labelled) -> str:
    if data_set.baseline == "global":
        return f"{data_set.reward} tau = {data_set.tau:.6g}"
    return f"{_OWN[data_set.baseline]} of {data_set.reward}"


def _write_shards(
    waiting: Sequence[Shard],
    stop: Stop,
    shards: Sequence[Shard],
    data_set: Labelled,
    workspace: Workspace,
) -> None:
    from tgo_pipeline.storage.tables import write_table

    wanted = {shard.name for shard in waiting}
    start = 0
    for shard in shards:
        samples = read_score_shard(workspace.scores / shard.name, [])
        rows = slice(start, start + samples.num_rows)
        start = rows.stop
        if shard.name not in wanted:
            continue
        table = _label_table(samples, data_set, rows)
        failed = samples.num_rows - table.num_rows
        with atomic(workspace.labels / shard.name) as temporary:
            write_table(table, temporary, shard.mark.entries() | {"failed": failed})
        log.info("%s: %d labels, %d samples without a target score", shard.name, table.num_rows, failed)
        stop.check()


def _label_table(samples: pa.Table, data_set: Labelled, rows: slice) -> pa.Table:
    import pyarrow as pa

    from tgo_pipeline.storage.tables import LABELS

    scored = data_set.scored[rows]
    kept = samples.filter(pa.array(scored))
    score = data_set.scores[rows][scored]
    columns = [
        kept["sample_id"],
        kept["prompt_id"],
        pa.repeat(data_set.reward, len(score)),
        score,
        data_set.relative[rows][scored],
        data_set.labels[rows][scored],
        data_set.weights[rows][scored],
    ]
    return pa.table(columns, schema=LABELS)


def summary(data_set: Labelled) -> dict[str, Any]:
    """The metrics of a labelled data set: counts, balance of the sides, and how unequal the weights are."""
    scored = data_set.scored
    weight, positive = data_set.weights[scored], data_set.labels[scored] == 1
    ess = effective_sample_size(weight)
    return {
        "reward": data_set.reward,
        "tau": data_set.tau,
        "baseline": data_set.baseline,
        "compared_with_global_tau": data_set.fallback,
        "other_than_global": data_set.moved / len(weight),
        "at_baseline": int(np.sum(data_set.relative[scored] == 0)),
        "samples": len(scored),
        "labelled": len(weight),
        "unscored": len(scored) - len(weight),
        "positive": int(positive.sum()),
        "positive_share": float(positive.mean()),
        "positive_weight_share": float(weight[positive].sum() / weight.sum()),
        "weight_mean": float(weight.mean()),
        "weight_max": float(weight.max()),
        "effective_sample_size": ess,
        "effective_sample_fraction": ess / len(weight),
    }


def _write_weights(data_set: Labelled, path: Path) -> None:
    """Histogram of the weights of each side, as `dvc plots` reads it."""
    weight = data_set.weights[data_set.scored]
    label = data_set.labels[data_set.scored]
    edges = np.histogram_bin_edges(weight, bins=WEIGHT_BINS)
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "bin_low", "bin_high", "count"])
        for value, name in enumerate(("negative", "positive")):
            writer.writerows(_bins(name, weight[label == value], edges))


def _bins(name: str, weight: np.ndarray, edges: np.ndarray) -> Iterable[tuple[str, float, float, int]]:
    counts, _ = np.histogram(weight, bins=edges)
    for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        yield name, low, high, count
