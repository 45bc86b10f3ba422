"""The adequacy table: every number behind "is one tau enough here?", in long form, one row per statistic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.storage.tables import read_table, with_features, write_table

if TYPE_CHECKING:
    import polars as pl

VERSION = 3
"""Raised when a statistic of this table changes: the table becomes stale, and neither thresholds nor labels do."""
Verdict = Literal["adequate", "inadequate", "undecided"]
BASELINES = {
    "prompt_mean": "mean of the prompt's scores",
    "prompt_median": "median of the prompt's scores",
    "prompt_mean_loo": "mean of the prompt's other scores",
    "prompt_median_loo": "median of the prompt's other scores",
    "prompt_quantile": "the prompt's own percentile",
    "prompt_soft": "beta log mean exp(s / beta) of the prompt",
    "prompt_soft_loo": "the same of the prompt's other scores",
    "prompt_soft_jackknife": "the same, first-order bias removed",
}
"""What a sample can be compared with in place of the one tau."""
STATISTICS = {
    "verdict": "adequate, inadequate or undecided (in `baseline`), and the sentence that says it (in `note`)",
    "advice": "what to do about it (in `note`)",
    "target": "this is the target that samples are split on",
    "tolerance": "flip rate that still counts as one tau being enough",
    "needed_prompts": "prompts that would decide, each with `at` samples",
    "samples": "finite scores",
    "prompts": "prompts with a finite score",
    "repeated_prompts": "prompts with at least 2 of them; the others say nothing about prompts",
    "samples_per_prompt": "median over prompts",
    "tau": "the global threshold at percentile `at`, with its interval over prompts",
    "positive_fraction": "share of scores at or above tau",
    "ties": "share of scores equal to tau",
    "sampling_flip_rate": "labels that another draw of the prompts would move tau across, expected",
    "sampling_flip_rate_independent": "the same if samples were independent: sqrt(2 p (1 - p) / (pi n))",
    "between_variance": "variance of the prompts' true means, sampling noise taken out",
    "within_variance": "variance of scores of one prompt",
    "ratio": "R, share of the variance of scores that lies between baselines: 0 is one tau for all",
    "label_ratio": "the same share for the labels at tau",
    "heterogeneity": "labels that the prompts' own true percentiles would flip, sampling noise taken out",
    "heterogeneity_bound": "upper bound of it that holds whatever the distribution is",
    "flip_rate": "labels that change when tau is replaced by the baseline, as it is estimated",
    "flip_rate_null": "the same with the scores shuffled over the prompts: what noise and offset alone give",
    "flip_rate_corrected": "labels that the true baseline would flip, if prompts differ by a shift",
    "baseline_offset": "mean baseline - tau, which another percentile removes",
    "baseline_variance": "variance of the baseline over samples, as it is estimated",
    "baseline_noise": "the part of it that is sampling noise of the baseline",
    "squared_error": "E (b - tau)^2 = variance + offset^2, as it is estimated",
    "margin_bound": "least bound P(|s - tau| <= h) + E (b - tau)^2 / h^2 on the flip rate, at h = `at`",
    "margin_bound_corrected": "the same for the true baseline: without its sampling noise",
    "margin_curve": "the bound over the margins h = `at` that were tried",
    "density_bound": "bound f E|b - tau| on the corrected flip rate, f the highest density of scores in a prompt",
    "weighted_distance": "E[w |tau - b|], what tau in place of b can change the weighted loss by at most",
    "weighted_distance_least": "the least of it over one threshold `at`, the weighted median of b",
    "soft_ess": "effective samples behind the soft baseline at beta = `at`, median over prompts",
    "soft_ess_low": "share of prompts with fewer than 5 of them",
    "soft_bias": "bias of the soft baseline from few samples, by the jackknife, mean over prompts",
    "oracle_percentile": "Phi(sigma / 2 beta), the percentile that is the soft threshold of normal scores",
    "score_share": "share of scores from `low` to `high`, for a chart of them",
    "baseline_share": "share of samples whose baseline, as it is estimated, is from `low` to `high`",
    "true_baseline_share": "the same of the true baselines: drawn to their mean until the noise is gone",
    "stability": "labels that change when the percentile is `at` in place of the chosen one",
    "heterogeneity_at": "`heterogeneity` at percentile `at`",
    "weight_ess": "(sum w)^2 / sum w^2 of the label weights, share of the samples",
    "weight_max": "largest weight over the mean weight",
}
"""What `statistic` can be, and what it says. `at` is beta for every statistic of a soft baseline."""

ADEQUACY = with_features(
    pa.schema(
        [
            pa.field("reward", pa.string(), nullable=False),
            pa.field("statistic", pa.string(), nullable=False),
            pa.field("baseline", pa.string()),
            pa.field("at", pa.float64()),
            pa.field("value", pa.float64()),
            pa.field("low", pa.float64()),
            pa.field("high", pa.float64()),
            pa.field("note", pa.string()),
        ]
    )
)
"""One row per reward and statistic, and per `baseline` (a key of `BASELINES`) and point `at` where it has several.
`low` and `high` are an interval at the level of the thresholds table, over prompts. `note` marks what is a what-if
and what could not be computed (`value` is null)."""


@dataclass(frozen=True, kw_only=True)
class AdequacyRow:
    """One statistic of one reward."""

    statistic: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: str | None = None
    at: float | None = None
    note: str | None = None


def table(rows: Iterable[tuple[str, AdequacyRow]]) -> pa.Table:
    """The table of (reward, row)."""
    return pa.Table.from_pylist([{"reward": reward, **asdict(row)} for reward, row in rows], schema=ADEQUACY)


def planned_mark(thresholds: Mark) -> Mark:
    """What the table carries in its metadata, given the mark of the thresholds table that it is about."""
    return Mark(fingerprint(version=VERSION, thresholds=thresholds.fingerprint), thresholds.inputs)


def write_adequacy(rows: pa.Table, path: Path, thresholds: Mark) -> None:
    """Write the table; `thresholds` is the mark of the thresholds table, so that both can be seen to fit."""
    from tgo_pipeline.storage.writing import atomic

    with atomic(path) as temporary:
        write_table(rows, temporary, planned_mark(thresholds).entries())


def read_adequacy(path: Path) -> pl.DataFrame:
    """The table as a polars frame. Raises `TgoError` if it is missing or of another schema."""
    import polars as pl

    return pl.DataFrame(read_table(path, schema=ADEQUACY))


class Statistics:
    """The rows of one reward, looked up by statistic."""

    def __init__(self, rows: Iterable[AdequacyRow]) -> None:
        self.rows = list(rows)

    def all(self, statistic: str, baseline: str | None = None) -> Iterator[AdequacyRow]:
        """Its rows in the order of the table; of one baseline, if that is named."""
        for row in self.rows:
            if row.statistic == statistic and baseline in (None, row.baseline):
                yield row

    def first(self, statistic: str, baseline: str | None = None) -> AdequacyRow:
        """Its first row, empty if there is none."""
        return next(self.all(statistic, baseline), AdequacyRow(statistic=statistic))


def by_reward(frame: pl.DataFrame) -> dict[str, Statistics]:
    """The statistics of every reward of the table, in its order."""
    found: dict[str, list[AdequacyRow]] = {}
    for row in frame.iter_rows(named=True):
        found.setdefault(row.pop("reward"), []).append(AdequacyRow(**row))
    return {reward: Statistics(rows) for reward, rows in found.items()}
