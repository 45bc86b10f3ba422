"""An objective on plain numbers: its losses, and their gradient by autograd or by central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
import torch
from hypothesis import strategies as st

from fine_tune.data.labels import Labels
from fine_tune.data.texts import Texts
from fine_tune.objectives import Batch, Objective, objective_class
from tgo_pipeline.params import FineTuneParams

Array = np.ndarray
Numbers = Sequence[float] | Array

ratios = st.floats(-1e4, 1e4, allow_subnormal=False)
"""Log-ratios to the reference."""
betas = st.floats(0.05, 5)
samples = st.lists(
    st.tuples(
        ratios,
        st.integers(0, 1),  # label
        st.floats(0, 100, allow_subnormal=False),  # weight
        st.floats(-1e5, 0, allow_subnormal=False),  # log-likelihood of the reference
    ),
    min_size=1,
    max_size=16,
)
pairs = st.lists(st.tuples(ratios, ratios), min_size=1, max_size=8)
"""Log-ratios of winner and loser."""


def columns(rows: Sequence[tuple[float, ...]]) -> tuple[Array, ...]:
    return tuple(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))


def objective(name: str, **options: Any) -> Objective:
    """An objective with these of its own options."""
    section = get_type_hints(FineTuneParams).get(name)
    chosen = {name: section(**options)} if section else {}
    return objective_class(name)(FineTuneParams(objective=name, **chosen))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Result:
    loss: Array
    gradient: Array
    """Of the sum of the losses, in the policy's log-likelihoods."""
    metrics: dict[str, Any]


def evaluate(
    of: Objective,
    policy: Numbers,
    reference: Numbers | None = None,
    *,
    label: Numbers | None = None,
    weight: Numbers | None = None,
    score: Numbers | None = None,
    dtype: torch.dtype = torch.float64,
    **batch: Any,
) -> Result:
    likelihood = torch.tensor(np.asarray(policy), dtype=dtype, requires_grad=True)
    given = (
        np.ones(len(policy)) if values is None else np.asarray(values) for values in (label, weight, score)
    )
    columns = (torch.tensor(values, dtype=dtype) for values in given)
    before = None if reference is None else torch.tensor(np.asarray(reference), dtype=dtype)
    loss, metrics = of.loss(likelihood, before, Batch(*columns, **batch))
    assert not any(metric.requires_grad for metric in metrics.values())
    assert all(metric.shape == likelihood.shape for metric in metrics.values())
    loss.sum().backward()
    assert likelihood.grad is not None
    return Result(loss.detach().numpy(), likelihood.grad.numpy(), metrics)


def slope(function: Callable[[Array], Array], at: Numbers, step: float = 1e-6) -> Array:
    """Central differences of the sum of `function` in each of the numbers."""
    at = np.array(at, dtype=np.float64)
    result = np.empty_like(at)
    for index in np.ndindex(at.shape):
        width = step * max(1.0, abs(at[index]))
        above, below = at.copy(), at.copy()
        above[index] += width
        below[index] -= width
        result[index] = (np.sum(function(above)) - np.sum(function(below))) / (2 * width)
    return result


def softplus(x: Numbers) -> Array:
    """-log sigma(-x) = log(1 + e^x), without overflow."""
    return np.logaddexp(0, x)


def sigma(x: Numbers) -> Array:
    return np.exp(-np.logaddexp(0, -np.asarray(x, dtype=np.float64)))


def labels(
    score: Numbers, prompts: Sequence[str] | None = None, *, tau: float = 0.0, weight: Numbers | None = None
) -> Labels:
    """Samples of a score, split at tau; without `prompts` each has one of its own."""
    values = np.asarray(score, dtype=np.float64)
    number = len(values)
    return Labels(
        Texts([f"sample-{i:04d}" for i in range(number)]),
        Texts(list(prompts) if prompts is not None else [f"prompt-{i:04d}" for i in range(number)]),
        (values >= tau).astype(np.int8),
        np.ones(number) if weight is None else np.asarray(weight, dtype=np.float64),
        values,
        values - tau,
    )
