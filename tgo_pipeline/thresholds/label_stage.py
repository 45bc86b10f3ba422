"""The label stage: from score shards and their thresholds to label shards, their metrics, and a histogram of weights.

The samples are looked at once, for what depends on all of them; then labelled shard by shard.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.aside import ahead
from tgo_pipeline.executors.runtime import share_of_cores
from tgo_pipeline.params import Params
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.storage.paths import SHARD_NAME
from tgo_pipeline.storage.shards import Shard, Status, Stop, run_shards
from tgo_pipeline.storage.tables import LABELS, open_parquet, read_metadata, row_count, table_writer
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic, scratch
from tgo_pipeline.thresholds.baselines import Comparison, compared
from tgo_pipeline.thresholds.compare import Own, target_of
from tgo_pipeline.thresholds.labels import NEED_ALL, distances, labels
from tgo_pipeline.thresholds.streams.blocks import BLOCK_ROWS, blocks, require_rows
from tgo_pipeline.thresholds.streams.groups import dot
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts
from tgo_pipeline.thresholds.table import fitted_rule, read_thresholds, taus, threshold_row
from tgo_pipeline.thresholds.targets import ScoreUnit, reference_folder, score_files, scores_fingerprint

log = logging.getLogger("tgo")
VERSION = 1
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


def plan(params: Params, workspace: Workspace) -> list[Shard]:
    """One label shard per score shard. Every one depends on all scores, through tau and the unit of the weights.

    Raises `TgoError` if there are no score shards or no thresholds table.
    """
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
    with scratch(workspace.labels) as room:
        labelling = Labelling(params, workspace, room)
        status = run_shards(
            workspace.labels, shards, lambda waiting, stop: labelling.write(waiting, shards, stop)
        )
    found = labelling.found
    numbers = summary(
        labelling, [workspace.labels / shard.name for shard in shards], workspace.plots / "weights.csv"
    )
    log.info(
        "%s labelled at %s: %.1f %% positive, weights %.3g on average, effective sample size %.0f of %d",
        numbers["labelled"],
        labelling.where,
        100 * numbers["positive_share"],
        numbers["weight_mean"],
        numbers["effective_sample_size"],
        numbers["labelled"],
    )
    if labelling.rule.baseline != "global" and found.at_baseline > MANY_TIES * found.labelled:
        log.warning(
            "%d of %d samples are exactly at their baseline: label.ties (%s) decides where they go",
            found.at_baseline,
            found.labelled,
            params.label.ties,
        )
    with atomic(workspace.metrics / "label.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n")
    return status


@dataclass
class LabelCounts:
    """What was counted of all samples before any is labelled."""

    samples: int = 0
    labelled: int = 0
    positive: int = 0
    at_baseline: int = 0
    fallback: int = 0
    """Samples that are compared with the global tau because they have no baseline of their own."""
    moved: int = 0
    """Labels that are not those of the global tau."""
    minimum: float = math.inf
    maximum: float = -math.inf


class Labelling:
    """How the samples of the score shards are labelled and weighed: everything that depends on all of them."""

    def __init__(self, params: Params, workspace: Workspace, room: Path) -> None:
        """Look at all samples once; `room` is an empty folder.

        A sample whose prompt or group has too few scores for a baseline of its own is compared with the global tau,
        and counted. Raises `TgoError` if that is every one, if no sample has a target score, or all are on one side.
        """
        self.params, self._workspace = params, workspace
        table = read_thresholds(workspace.thresholds)
        row = threshold_row(table, params.target.reward)
        self.tau, self.rule = row["tau"], fitted_rule(row, params.threshold)
        if self.tau is None:
            raise TgoError(
                f"{params.target.reward} has no tau in {workspace.thresholds}: its scores were too few; choose another "
                "target."
            )
        folder = reference_folder(params.threshold, workspace.scores)
        self._warn_of_other(row["scores_fingerprint"], folder)
        self._files, reference = score_files(workspace.scores), score_files(folder)
        for files in (self._files, reference):
            require_rows(files)
        self._target = target_of(params, reference, taus(table))
        self._own = Own(self.rule, self._target, params, workspace, self._files, reference, room)
        self.found, unit = LabelCounts(), ScoreUnit("the target score")
        self._scored = np.zeros(len(self._files), np.int64)
        measured = list(self._look(unit))  # of all samples where their order is asked for
        self._require_usable()
        self._distance = None
        if params.label.c:
            self._distance = distances(
                params.label.scale, lambda: unit.deviation, lambda: SortedParts(measured)
            )

    def _warn_of_other(self, fingerprint: str, folder: Path) -> None:
        thresholds = self._workspace.thresholds
        if self.rule != self.params.threshold:
            log.warning("%s was fitted with other parameters: run the threshold stage again", thresholds)
        if fingerprint != scores_fingerprint(folder):
            log.warning(
                "%s was fitted on other scores than those of %s now: run the threshold stage again",
                thresholds,
                folder,
            )

    def _look(self, unit: ScoreUnit) -> Iterator[np.ndarray]:
        """Count all samples; what they are measured by, sorted by block, where the unit of the weights takes all."""
        found, ties, start = self.found, self.params.label.ties, 0
        ends = np.cumsum([row_count(file) for file in self._files])
        for table in blocks(self._files, self.params.target_rewards):
            rows, scored, each = self._compared(table, start)
            self._scored += np.bincount(ends.searchsorted(start + rows, "right"), minlength=len(self._files))
            start += table.num_rows
            found.samples, found.labelled = start, found.labelled + len(each.measured)
            if not len(each.measured):
                continue
            label = labels(each.measured, each.baseline, ties)
            unit.add(each.measured)
            found.positive += int(label.sum())
            found.at_baseline += int(np.sum(each.relative == 0))
            found.fallback += int(each.fallback.sum())
            found.moved += int(np.sum(label != labels(scored, self.tau, ties)))
            found.minimum, found.maximum = min(found.minimum, scored.min()), max(found.maximum, scored.max())
            if self.params.label.scale in NEED_ALL:
                yield np.sort(each.measured)

    def _compared(self, table: pa.Table, start: int) -> tuple[np.ndarray, np.ndarray, Comparison]:
        """Which rows have a target score, it, and what it is compared with; `start` rows are before these."""
        scores = self._target(table)
        rows, own = np.flatnonzero(~np.isnan(scores)), self._own.values
        own = None if own is None else own[start + rows]
        return rows, scores[rows], compared(scores[rows], own, self.rule, self.tau, lambda: self._own.ordered)

    def _require_usable(self) -> None:
        found, reward = self.found, self.params.target.reward
        if not found.labelled:
            raise TgoError(
                f"no sample of {self._workspace.scores} has a score for the target {reward}: look at its error column."
            )
        if self.rule.baseline != "global":
            self._own.require_some(found.fallback, found.labelled)
        if 0 < found.positive < found.labelled:
            return
        advice = "threshold.percentile" if self.rule.baseline in ("global", "group") else "threshold.baseline"
        raise TgoError(
            f"{found.positive} of {found.labelled} samples are positive at {self.where} (scores from "
            f"{found.minimum:g} to {found.maximum:g}, {found.at_baseline} equal tau, label.ties is "
            f"{self.params.label.ties}): both sides are needed; change {advice}, label.ties or the target."
        )

    @property
    def where(self) -> str:
        """What samples are compared with, in words."""
        reward = self.params.target.reward
        if self.rule.baseline == "global":
            return f"{reward} tau = {self.tau:.6g}"
        return f"{_OWN[self.rule.baseline]} of {reward}"

    def write(self, waiting: Sequence[Shard], shards: Sequence[Shard], stop: Stop) -> None:
        """Write these of all shards."""
        starts = itertools.accumulate((row_count(file) for file in self._files), initial=0)
        wanted = {shard.name for shard in waiting}
        each = zip(range(len(shards)), shards, starts, strict=False)
        todo = [(number, shard, start) for number, shard, start in each if shard.name in wanted]
        threads = share_of_cores(self.params.runtime)
        for _ in ahead(lambda shard: self._write(*shard), todo, threads, threads):
            stop.check()

    def _write(self, number: int, shard: Shard, start: int) -> None:
        file = self._files[number]
        failed = row_count(file) - int(self._scored[number])
        entries = shard.mark.entries() | {"failed": failed}
        with (
            atomic(self._workspace.labels / shard.name) as temporary,
            table_writer(temporary, LABELS, entries) as write,
        ):
            for table in blocks([file], ["sample_id", "prompt_id", *self.params.target_rewards]):
                write(self._labelled(table, start))
                start += table.num_rows
        log.info("%s: %d labels, %d samples without a target score", shard.name, self._scored[number], failed)

    def _labelled(self, table: pa.Table, start: int) -> pa.Table:
        rows, scores, found = self._compared(table, start)
        kept = table.select(["sample_id", "prompt_id"]).take(pa.array(rows))
        c, distance = self.params.label.c, self._distance
        weight = 1 + c * distance(found.measured, found.baseline) if distance else np.ones(len(scores))
        columns = [
            kept["sample_id"],
            kept["prompt_id"],
            pa.repeat(self.params.target.reward, len(scores)),
            scores,
            found.relative,
            labels(found.measured, found.baseline, self.params.label.ties),
            weight,
        ]
        return pa.table(columns, schema=LABELS)


def summary(labelling: Labelling, shards: Sequence[Path], histogram: Path) -> dict[str, Any]:
    """The metrics of label shards: counts, balance of the sides, and how unequal the weights are.

    Also writes the histogram of the weights of each side, as `dvc plots` reads it.
    """
    total = squares = of_positive = 0.0
    least, most = math.inf, -math.inf
    for weight, label in _weights(shards):
        total, squares = total + float(weight.sum()), squares + dot(weight, weight)
        of_positive += float(weight[label == 1].sum())
        least, most = min(least, float(weight.min())), max(most, float(weight.max()))
    _write_histogram(shards, np.histogram_bin_edges([least, most], bins=WEIGHT_BINS), histogram)
    found, ess = labelling.found, total**2 / squares
    return {
        "reward": labelling.params.target.reward,
        "tau": labelling.tau,
        "baseline": labelling.rule.baseline,
        "compared_with_global_tau": found.fallback,
        "other_than_global": found.moved / found.labelled,
        "at_baseline": found.at_baseline,
        "samples": found.samples,
        "labelled": found.labelled,
        "unscored": found.samples - found.labelled,
        "positive": found.positive,
        "positive_share": found.positive / found.labelled,
        "positive_weight_share": of_positive / total,
        "weight_mean": total / found.labelled,
        "weight_max": most,
        "effective_sample_size": ess,
        "effective_sample_fraction": ess / found.labelled,
    }


def _weights(shards: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights and labels (N,), some rows at a time."""
    for shard in shards:
        with open_parquet(shard) as file:
            for batch in file.iter_batches(BLOCK_ROWS, columns=["weight", "label"]):
                if batch.num_rows:
                    yield batch["weight"].to_numpy(), batch["label"].to_numpy()


def _write_histogram(shards: Sequence[Path], edges: np.ndarray, path: Path) -> None:
    counts = np.zeros((2, WEIGHT_BINS), np.int64)
    for weight, label in _weights(shards):
        counts += [np.histogram(weight[label == side], bins=edges)[0] for side in (0, 1)]
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "bin_low", "bin_high", "count"])
        for name, of_side in zip(("negative", "positive"), counts.tolist(), strict=True):
            writer.writerows(
                zip([name] * WEIGHT_BINS, edges[:-1].tolist(), edges[1:].tolist(), of_side, strict=True)
            )
