"""What the samples of a data set are compared with: their own prompt or group, the proxy set's, or the global tau."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.baselines import Comparison, sample_baselines
from tgo_pipeline.thresholds.groups import members

if TYPE_CHECKING:
    import polars as pl

    from tgo_pipeline.params import ThresholdParams
    from tgo_pipeline.storage.workspace import Workspace

log = logging.getLogger("tgo")


def compare(
    frame: pl.DataFrame,
    values: np.ndarray,
    rule: ThresholdParams,
    tau: float,
    workspace: Workspace,
    proxy: tuple[pl.DataFrame, np.ndarray] | None = None,
) -> Comparison:
    """What the target scores `values` (N,) of `frame` that are not NaN are compared with, one after the other.

    `proxy` are the frame and target scores of a proxy set; without them baselines come from the samples themselves.
    Raises `TgoError` if every sample would fall back on the global `tau`; some are announced.
    """
    scored = ~np.isnan(values)
    if rule.baseline == "global":
        return sample_baselines(values[scored], np.empty(0), rule, tau)
    numbers = members([frame] if proxy is None else [frame, proxy[0]], rule, workspace).numbers
    reference = None
    if proxy is not None:
        known = ~np.isnan(proxy[1])
        reference = (proxy[1][known], numbers[1][known])
    compared = sample_baselines(values[scored], numbers[0][scored], rule, tau, reference)
    _require_own(compared, rule)
    return compared


def _require_own(compared: Comparison, rule: ThresholdParams) -> None:
    """Raises `TgoError` where no sample has a baseline of its own, and says how many have none."""
    missing, count = int(compared.fallback.sum()), compared.fallback.size
    what = "group" if rule.baseline == "group" else "prompt"
    if missing == count:
        where = "the proxy set" if rule.source == "proxy" else "the scores"
        raise TgoError(
            f"threshold.baseline is {rule.baseline}, but no {what} of the {count} samples has enough scores in {where} "
            f"for a baseline of its own: raise generate.images_per_prompt, or use baseline: global."
        )
    if missing:
        log.warning(
            "%d of %d samples are compared with the global tau: they have no %s with enough scores for a baseline",
            missing,
            count,
            what,
        )
