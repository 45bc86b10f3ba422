"""Symmetric positive definite systems that are too large for a matrix and are known by what they do to a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def solve(
    times: Callable[[np.ndarray], np.ndarray],
    diagonal: np.ndarray,
    right: np.ndarray,
    *,
    tolerance: float,
    most_steps: int,
) -> tuple[np.ndarray, bool]:
    """The x of A x = `right` (N,), and whether the residual fell below `tolerance` times the norm of `right`.

    `times` multiplies by A. Conjugate gradients with the `diagonal` of A as preconditioner.
    """
    from scipy.sparse import linalg

    operator: Any = linalg.LinearOperator
    shape = (len(right), len(right))
    matrix = operator(shape, times, dtype=np.float64)
    inverse = operator(shape, lambda left: left / diagonal, dtype=np.float64)
    solved, failed = linalg.cg(matrix, right, rtol=tolerance, maxiter=most_steps, M=inverse)
    return solved, not failed
