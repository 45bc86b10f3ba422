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


def test_where_differences_are_bound_both_sides_count_with_a_limit_of_their_own() -> None:
    both = {**metrics(9.0), "policy_error_positive": 0.4, "reference_error_positive": 0.2}  # 2.2 / 0.4
    guard = Guard(GuardParams(patience=2, both_errors=6.0), both_sides=True)
    for step in range(4):
        guard.check(step, both)
    assert guard.state() == pytest.approx([5.5, 5.5])
    with pytest.raises(TgoError, match=r"error on both sides is 5\.75 times .*guard\.both_errors is 5"):
        strict = Guard(GuardParams(patience=2), both_sides=True)
        strict.load_state([5.5])
        strict.check(4, {**both, "policy_error_positive": 0.6})
