"""The thresholds table: one row per reward, and one for the target where it is a combination."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.tables import read_table, with_features
from tgo_pipeline.thresholds.moments import QUANTILE_NAMES

if TYPE_CHECKING:
    import polars as pl

    from tgo_pipeline.params import ThresholdParams

_COUNTS = ("n", "n_null", "n_nonfinite", "n_prompts")
_NUMBERS_AFTER_COUNTS = ("mean", "std", "skewness", "kurtosis", "minimum", "maximum", *QUANTILE_NAMES)
_NUMBERS_AFTER_TIES = (
    "positive_fraction",
    "between_prompt_variance",
    "within_prompt_variance",
    "flip_rate_prompt_mean",
    "flip_rate_prompt_median",
)
RULE = ("percentile", "baseline", "group", "beta", "leave_one_out", "jackknife")
"""Columns that are keys of `threshold`."""
THRESHOLDS = with_features(
    pa.schema(
        [
            pa.field("reward", pa.string(), nullable=False),
            pa.field("percentile", pa.float64(), nullable=False),
            pa.field("tau", pa.float64()),
            pa.field("confidence", pa.float64(), nullable=False),
            pa.field("tau_low", pa.float64()),
            pa.field("tau_high", pa.float64()),
            pa.field("tau_bootstrap_low", pa.float64()),
            pa.field("tau_bootstrap_high", pa.float64()),
            *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
            *(pa.field(name, pa.float64()) for name in _NUMBERS_AFTER_COUNTS),
            pa.field("ties", pa.int64()),
            *(pa.field(name, pa.float64()) for name in _NUMBERS_AFTER_TIES),
            pa.field("note", pa.string()),
            pa.field("source", pa.string(), nullable=False),
            pa.field("scores_fingerprint", pa.string(), nullable=False),
            pa.field("baseline", pa.string(), nullable=False),
            pa.field("group", pa.string()),
            pa.field("beta", pa.float64()),
            pa.field("leave_one_out", pa.bool_(), nullable=False),
            pa.field("jackknife", pa.bool_(), nullable=False),
        ]
    )
)
"""`n` counts the finite scores that tau was estimated from; nulls and NaN or infinite ones stand in their own columns.
`ties` counts scores equal to tau and `positive_fraction` is the share at or above it, so that the share strictly above
is `positive_fraction - ties / n`. The variances and flip rates are those of `moments`. `note` says what is unusual.
`tau` is always the percentile of all scores (of `majority`: one half). `baseline` and what follows say what samples are
compared with instead when the target is labelled, as in `threshold`; the rows of other rewards are `global`."""


def read_thresholds(path: Path) -> pl.DataFrame:
    """The table as a polars frame. Raises `TgoError` if it is missing or of another schema."""
    import polars as pl

    return pl.DataFrame(read_table(path, schema=THRESHOLDS))


def threshold_row(frame: pl.DataFrame, reward: str) -> dict[str, Any]:
    """The row of one reward or combination. Raises `TgoError` if there is none."""
    rows = frame.filter(frame["reward"] == reward).to_dicts()
    if not rows:
        raise TgoError(
            f"the thresholds table has no row for {reward!r}, only {', '.join(frame['reward'])}: "
            "run the threshold stage again."
        )
    return rows[0]


def fitted_rule(row: dict[str, Any], params: ThresholdParams) -> ThresholdParams:
    """`params` with the baseline that a row was fitted for, and its percentile."""
    return dataclasses.replace(params, **{name: row[name] for name in RULE})


def taus(frame: pl.DataFrame) -> dict[str, float]:
    """Reward to tau, for every row that has one."""
    return {name: tau for name, tau in zip(frame["reward"], frame["tau"], strict=True) if tau is not None}
