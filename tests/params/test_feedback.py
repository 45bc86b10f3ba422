"""The `score.feedback` section: what is refused, and what the scores of a column depend on."""

from __future__ import annotations

from typing import Any

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.params.parsing import parse


def feedback(**keys: Any) -> FeedbackParams:
    return parse(FeedbackParams, {"source": "a.csv", "kind": "rating", **keys}, "stars.")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"source": ""},
            r"stars\.source is empty: name a table, here or on the hub, or a preference data set",
        ),
        ({"shrinkage": 0}, r"stars\.shrinkage is 0\.0: it must be above 0"),
        ({"low": 5, "high": 1}, r"stars\.low is 5 and high is 1"),
        ({"kind": "thumb", "high": 1}, r"stars\.low or high is given although kind is thumb"),
        ({"kind": "pair", "rule": "elo"}, r"stars\.rule is 'elo': it must be one of any_win, wins, win_rate"),
        ({"column": "stars"}, r"stars\.column is not a known key"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TgoError, match=message):
        feedback(**keys)


def test_settings_are_the_keys_that_matter_for_the_kind() -> None:
    assert set(feedback().settings) == {"kind", "image", "value", "rater", "aggregate"}
    assert set(feedback(aggregate="shrunk").settings) == {*feedback().settings, "shrinkage"}
    assert set(feedback(kind="score", aggregate="shrunk").settings) == {"kind", "image", "value"}
    assert set(feedback(kind="pair", aggregate="shrunk").settings) == {
        "kind",
        "first",
        "second",
        "choice",
        "rule",
    }
    assert "shrinkage" in feedback(kind="pair", rule="bradley_terry").settings
