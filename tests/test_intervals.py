"""What intervals are made of, against printed tables and scipy's distributions, down to the smallest sizes."""

from __future__ import annotations

import pytest
from scipy import stats

from tgo_pipeline.errors import TgoError
from tgo_pipeline.intervals import t_quantile


@pytest.mark.parametrize(
    ("freedom", "at_95", "at_99"),  # two-sided, as textbooks print them
    [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (10, 2.228, 3.169),
        (29, 2.045, 2.756),
        (100, 1.984, 2.626),
        (10**8, 1.960, 2.576),
    ],
)
def test_quantiles_of_t_are_those_of_the_table(freedom: int, at_95: float, at_99: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(at_95, abs=5e-4)
    assert t_quantile(0.995, freedom) == pytest.approx(at_99, abs=5e-4)
    assert t_quantile(0.9, freedom) == pytest.approx(stats.t.ppf(0.9, freedom), rel=1e-9)
    assert t_quantile(0.025, freedom) == pytest.approx(-t_quantile(0.975, freedom), rel=1e-9)


def test_one_value_has_no_quantile_of_t() -> None:
    with pytest.raises(TgoError, match="0 degrees of freedom: two values are needed"):
        t_quantile(0.975, 0)
