"""Instance baselines: what a score is compared with when each prompt has a threshold of its own.

All of them work on `Groups` (samples in order of prompt, then score) without a loop over prompts, in float64. Values
per sample come in the order of the groups; `Groups.ordered` says where each of them was before.

The soft baseline is the KL-regularised optimum's own threshold, tau*(x) = beta log E[exp(s / beta)] under the
reference, estimated from the K samples of a prompt. Gaussian scores give mean + variance / (2 beta). Its bias is about
-beta CV^2 / (2 K) with CV^2 = exp(variance / beta^2) - 1, and no correction helps where CV^2 is not far below K:
`soft_ess` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tgo_pipeline.thresholds.streams.groups import Groups
from tgo_pipeline.thresholds.targets import mid_ranks

if TYPE_CHECKING:
    from tgo_pipeline.params import ThresholdParams

NOWHERE = -1
"""The number of a sample that belongs to no prompt or group."""
Kind = Literal["mean", "median", "soft"]
_CHUNK = 4_000_000  # scores in work at a time where a sample is left out of every group


def soft(groups: Groups, beta: float) -> np.ndarray:
    """beta (log sum exp(s / beta) - log K) of each group (G,), in score units; `beta` > 0 in score units too.

    Between the mean (beta to infinity) and the maximum (beta to 0), and equal to the score of a group of one.
    """
    return Growth.of(groups, beta).soft()


def soft_ess(groups: Groups, beta: float) -> np.ndarray:
    """Effective sample size (sum e)^2 / sum e^2 with e = exp(s / beta) of each group (G,), from 1 to K.

    Below about 5 the soft baseline is the largest score more than an average.
    """
    return Growth.of(groups, beta).ess()


def soft_jackknife(groups: Groups, beta: float) -> np.ndarray:
    """K soft - (K - 1) mean of soft without each sample in turn (G,): its bias of order 1 / K is gone.

    NaN for groups of one (Quenouille 1956).
    """
    growth = Growth.of(groups, beta)
    without_one = groups.total(growth.soft_of_others()) / groups.sizes
    return groups.sizes * growth.soft() - (groups.sizes - 1) * without_one


def leave_one_out(groups: Groups, kind: Kind, beta: float | None = None) -> np.ndarray:
    """The mean, median or soft value of the other samples of a sample's group (N,); NaN in groups of one.

    A sample does not raise its own threshold. `soft` needs `beta`.
    """
    if kind == "mean":
        return _mean_of_others(groups)
    if kind == "median":
        return _median_of_others(groups)
    if beta is None:
        raise ValueError("the soft baseline needs beta")
    return Growth.of(groups, beta).soft_of_others()


def leave_one_out_jackknife(groups: Groups, beta: float) -> np.ndarray:
    """`soft_jackknife` of the other samples of a sample's group (N,); NaN in groups of fewer than three.

    It leaves out two samples at a time: its cost grows with the square of a group's size.
    """
    result = np.full(groups.values.size, np.nan)
    for size in np.unique(groups.sizes[groups.sizes >= 3]).tolist():
        others = np.arange(size - 1) + (np.arange(size - 1) >= np.arange(size)[:, None])
        starts = groups.starts[groups.sizes == size]
        per_chunk = max(1, _CHUNK // others.size)
        for first in range(0, starts.size, per_chunk):
            part = starts[first : first + per_chunk]
            values = groups.values[(part[:, None, None] + groups.stride * others).ravel()]
            each = Groups(values, np.arange(0, values.size, size - 1), np.full(part.size * size, size - 1))
            result[(part[:, None] + groups.stride * np.arange(size)).ravel()] = soft_jackknife(each, beta)
    return result


def quantiles(groups: Groups) -> np.ndarray:
    """Mid-rank (#{x < s} + #{x = s} / 2) / K of each sample in its group (N,), in (0, 1); equal scores share one."""
    lines = groups.is_new().reshape(groups.of_samples)
    if groups.stride > 1 and lines.all():
        return np.repeat((np.arange(len(lines)) + 0.5) / len(lines), groups.stride)
    place = np.arange(len(lines)).reshape(-1, *[1] * (lines.ndim - 1))
    first = np.maximum.accumulate(np.where(lines, place, 0), axis=0)
    ends = np.where(np.roll(lines, -1, axis=0), place, len(lines))
    last = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
    middle = (first + last + 1).ravel() / 2
    if groups.stride == 1:
        middle -= groups.spread(groups.starts)
    middle /= groups.spread(groups.sizes)
    return middle


def percentiles(groups: Groups, p: float) -> np.ndarray:
    """The p-quantile of each group (G,), numpy's `linear`."""
    position = (groups.sizes - 1) * p
    lower = np.floor(position).astype(np.int64)
    low = groups.values[groups.places(lower)]
    high = groups.values[groups.places(np.minimum(lower + 1, groups.sizes - 1))]
    return low + (position - lower) * (high - low)


def tau_q(beta: float) -> float:
    """beta log(beta (e^(1 / beta) - 1)): the exact threshold of a reward that is uniform on [0, 1], for any prompt.

    `beta` belongs to quantiles and has no unit. From 1/2 (large beta) to 1; stable for any beta > 0. See QRPO
    (arXiv 2507.08068): quantiles among the reference's samples of a prompt are such a reward.
    """
    return 1 + beta * math.log(-beta * math.expm1(-1 / beta))


@dataclass(frozen=True)
class Comparison:
    """What each sample (N,) is measured by and compared with, both in the same unit."""

    measured: np.ndarray
    """The score, or with `prompt_quantile` its quantile in its prompt."""
    baseline: np.ndarray
    fallback: np.ndarray
    """Which samples nothing of their own could be found for: they are compared as with `global`."""

    @property
    def relative(self) -> np.ndarray:
        """`measured` minus `baseline`."""
        return self.measured - self.baseline


def own_values(
    values: np.ndarray,
    members: np.ndarray,
    params: ThresholdParams,
    reference: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """The baseline of each sample's own prompt (N,), or with `prompt_quantile` its quantile in it; NaN without any.

    `members` (N,) numbers the prompts of finite `values`. `reference` are values and members of a proxy set that
    baselines are made of; by default the samples themselves. A prompt with too few samples (`least_size`) has none.
    """
    known, owners = (values, members) if reference is None else reference
    if not known.size or not values.size:
        return np.full(values.shape, np.nan)
    groups, order = Groups.ordered(known, owners)
    numbers = owners[order[groups.starts]]
    enough = groups.sizes >= least_size(params, is_own=reference is None)
    has_own = _of_member(members, numbers, enough.astype(np.float64)) == 1
    if params.baseline == "prompt_quantile" and reference is not None:
        found = _quantiles_among(values, members, known, owners)
    elif params.baseline == "prompt_quantile":
        found = _in_order(order, quantiles(groups))
    elif params.leave_one_out:
        found = _in_order(order, _of_others(groups, params))
    else:
        found = _of_member(members, numbers, per_group(groups, params))
    return np.where(has_own, found, np.nan)


def compared(
    values: np.ndarray,
    own: np.ndarray | None,
    params: ThresholdParams,
    tau: float,
    ordered: Callable[[], np.ndarray],
) -> Comparison:
    """What finite `values` (N,) are compared with, from their `own_values` (None: `baseline: global`).

    Without any the global rule holds: the score against `tau`, and with `prompt_quantile` the quantile among all
    reference scores, which `ordered` has, against tau_q.
    """
    if own is None:
        return Comparison(values, np.broadcast_to(tau, values.shape), np.zeros(values.shape, bool))
    missing = np.isnan(own)
    if params.baseline != "prompt_quantile" or params.beta is None:
        return Comparison(values, np.where(missing, tau, own), missing)
    measured = own.copy()
    if missing.any():
        measured[missing] = mid_ranks(values[missing], ordered())
    return Comparison(measured, np.broadcast_to(tau_q(params.beta), values.shape), missing)


def least_size(params: ThresholdParams, *, is_own: bool) -> int:
    """How many samples a prompt or group needs for a baseline of its own.

    A sample alone would be compared with itself: two are needed unless they come from a proxy set, and one more for
    the jackknife of what is left when one is out.
    """
    if params.jackknife:
        return 3 if params.leave_one_out else 2
    return 2 if is_own or params.baseline == "group" else 1


def per_group(groups: Groups, params: ThresholdParams) -> np.ndarray:
    """The baseline of each group (G,) in score units, its own samples all counted; not for `prompt_quantile`."""
    if params.baseline == "prompt_mean":
        return groups.means()
    if params.baseline == "prompt_median":
        return groups.medians()
    if params.baseline == "group":
        return percentiles(groups, params.percentile)
    if params.baseline != "prompt_soft" or params.beta is None:
        raise ValueError(f"{params.baseline} has no baseline per group")
    return (soft_jackknife if params.jackknife else soft)(groups, params.beta)


def _of_others(groups: Groups, params: ThresholdParams) -> np.ndarray:
    if params.jackknife and params.beta is not None:
        return leave_one_out_jackknife(groups, params.beta)
    kinds: dict[str, Kind] = {"prompt_mean": "mean", "prompt_median": "median", "prompt_soft": "soft"}
    return leave_one_out(groups, kinds[params.baseline], params.beta)


def _in_order(order: np.ndarray, per_sample: np.ndarray) -> np.ndarray:
    """Values in the order of the groups, put where their samples stand."""
    found = np.empty(order.size)
    found[order] = per_sample
    return found


def _of_member(members: np.ndarray, owners: np.ndarray, per_owner: np.ndarray) -> np.ndarray:
    """The value of each sample's prompt or group (N,); NaN where it is not among `owners`."""
    size = max(int(members.max(initial=0)), int(owners.max())) + 2  # the last stays NaN, for NOWHERE
    table = np.full(size, np.nan)
    table[owners] = per_owner
    return table[members]


def _quantiles_among(
    values: np.ndarray, members: np.ndarray, known: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """Mid-rank of each value (N,) among the `known` values (M,) of its prompt; NaN where there are none.

    A known value is numbered by its prompt and its rank among all: looking up a prompt and a score is then one binary
    search.
    """
    count = known.size
    order = np.argsort(known, kind="stable")
    ordered, places = known[order], owners[order] * count + np.arange(count)
    places.sort()
    start = places.searchsorted(members * count)
    size = places.searchsorted((members + 1) * count) - start
    below, upto = (
        places.searchsorted(members * count + ordered.searchsorted(values, side)) - start
        for side in ("left", "right")
    )
    return np.where(size > 0, (below + upto) / (2.0 * np.maximum(size, 1)), np.nan)


@dataclass(frozen=True)
class Growth:
    """What the soft baseline and its like are made of: exp((s - top) / beta) - 1 of each sample (N,), from -1 to 0.

    It is exact where beta is far above the spread, too; `total` (G,) is its sum over each group.
    """

    groups: Groups
    beta: float
    top: np.ndarray
    each: np.ndarray
    total: np.ndarray

    @classmethod
    def of(cls, groups: Groups, beta: float) -> Growth:
        """Of `beta` > 0 in score units."""
        top = groups.tops()
        each = groups.spread(top)
        np.subtract(groups.values, each, out=each)
        each /= beta
        np.expm1(each, out=each)
        return cls(groups, beta, top, each, groups.total(each))

    def soft(self) -> np.ndarray:
        """`soft` of each group (G,)."""
        return self.top + self.beta * np.log1p(self.total / self.groups.sizes)

    def ess(self) -> np.ndarray:
        """`soft_ess` of each group (G,)."""
        relative = 1 + self.each
        np.square(relative, out=relative)
        return (self.groups.sizes + self.total) ** 2 / self.groups.total(relative)

    def soft_of_others(self) -> np.ndarray:
        """`leave_one_out` (N,).

        Where the largest is left out nothing may be left of the sum over all: it is taken again below the second.
        """
        groups = self.groups
        others = groups.spread(self.total)
        others -= self.each
        others /= _others(groups)
        last = groups.places(groups.sizes - 1)
        others[last] = 0  # replaced below
        result = np.log1p(others, out=others)
        result *= self.beta
        result += groups.spread(self.top)
        result[last] = np.nan
        rest, repeated = groups.without_tops()
        if repeated.any():
            result[last[repeated]] = soft(rest, self.beta)
        return result


def _mean_of_others(groups: Groups) -> np.ndarray:
    least = groups.spread(groups.leasts())
    above = groups.values - least
    others = groups.spread(groups.total(above))
    others -= above
    others /= _others(groups)
    others += least
    return others


def _others(groups: Groups) -> np.ndarray:
    """How many other samples a sample's group has, as float64 (N,); NaN where there are none."""
    count = (groups.sizes - 1).astype(np.float64)
    count[count == 0] = np.nan
    return groups.spread(count)


def _median_of_others(groups: Groups) -> np.ndarray:
    low, high = (_without_itself(groups, (groups.sizes - more) // 2) for more in (2, 1))
    median = low + (high - low) / 2
    median[groups.spread(groups.sizes == 1)] = np.nan
    return median


def _without_itself(groups: Groups, wanted: np.ndarray) -> np.ndarray:
    """The score of rank `wanted` (G,) among a sample's group without the sample itself (N,)."""
    if groups.stride > 1:  # the same ranks in every group: whole rows
        lines, rank = groups.values.reshape(groups.of_samples), wanted[0]
        return lines[np.minimum(rank + (rank >= np.arange(len(lines))), len(lines) - 1)].ravel()
    rank = groups.spread(wanted)
    at = groups.spread(groups.starts) + rank + (rank >= groups.ranks())
    return groups.values[np.clip(at, 0, groups.values.size - 1)]
