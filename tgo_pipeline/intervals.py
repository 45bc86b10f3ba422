"""Intervals that more than one part of the pipeline states: Wilson's for a share, and Student's quantile for a mean."""

from __future__ import annotations

import math
from statistics import NormalDist

from tgo_pipeline.errors import TgoError


def t_quantile(level: float, freedom: int) -> float:
    """The quantile of Student's t at `level` in (0, 1) with `freedom` degrees of freedom, 1 or more."""
    from scipy.special import stdtrit

    if freedom < 1:
        raise TgoError(f"Student's t has no quantile at {freedom} degrees of freedom: two values are needed.")
    return float(stdtrit(freedom, level))


def wilson_interval(
    rate: float, n: float, confidence: float, freedom: int | None = None
) -> tuple[float, float]:
    """The score interval of a binomial rate from `n` trials (Wilson 1927); `n` may be an effective size.

    With `freedom`, Student's quantile takes the place of the normal one, for a size that was itself estimated from so
    few groups. Raises `TgoError` if there is no trial or the rate is outside [0, 1].
    """
    if not n > 0:
        raise TgoError(f"a rate over {n:g} trials has no interval: at least one comparison is needed.")
    if not 0 <= rate <= 1:
        raise TgoError(f"the rate is {rate:g}: it must be from 0 to 1.")
    level = 0.5 + confidence / 2
    z = NormalDist().inv_cdf(level) if freedom is None else t_quantile(level, freedom)
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, min(rate, centre - half)), min(
        1.0, max(rate, centre + half)
    )  # rounding may cross the rate
