"""What intervals over few prompts are made of."""

from __future__ import annotations

from tgo_pipeline.errors import TgoError


def t_quantile(level: float, freedom: int) -> float:
    """The quantile of Student's t at `level` in (0, 1) with `freedom` degrees of freedom, 1 or more."""
    from scipy.special import stdtrit

    if freedom < 1:
        raise TgoError(f"Student's t has no quantile at {freedom} degrees of freedom: two values are needed.")
    return float(stdtrit(freedom, level))
