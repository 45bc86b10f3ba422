"""When the guard speaks: the mean of the last ratios, above its limit."""

import pytest

from fine_tune.training.early_stopping import Guard
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.objectives import GuardParams


def metrics(ratio: float) -> dict[str, float]:
    return {"policy_error_negative": 0.2 * ratio, "reference_error_negative": 0.2}


def test_one_bad_update_is_not_enough() -> None:
    guard = Guard(GuardParams(negative_error=1.5, patience=3))
    for ratio in (1.0, 2.4, 1.0, 1.0, 2.4, 1.0):
        guard.check(1, metrics(ratio))


def test_the_mean_of_the_last_updates_decides() -> None:
    guard = Guard(GuardParams(negative_error=1.5, patience=3))
    guard.check(1, metrics(9.0))
    guard.load_state([1.0, 1.6])
    with pytest.raises(TgoError, match=r"after step 7 .* is 1\.53 times"):
        guard.check(7, metrics(2.0))
    assert guard.state() == pytest.approx([1.0, 1.6, 2.0])


def test_without_reference_or_limit_it_is_silent() -> None:
    Guard(GuardParams(negative_error=None, patience=1)).check(1, metrics(99.0))
    guard = Guard(GuardParams(patience=1))
    guard.check(1, {"policy_error_negative": 5.0})
    guard.check(1, {"policy_error_positive": 5.0, "reference_error_positive": 1.0})


def test_a_limit_below_the_reference_is_refused() -> None:
    with pytest.raises(TgoError, match="above 1"):
        GuardParams(negative_error=0.9)
