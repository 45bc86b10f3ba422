"""A short run of the harness that kills what executors have begun, and that it fails where scores differ."""

from __future__ import annotations

from tests.faults.harness import harness

BY_THE_CLOCK = """
from tests.faults import executors
executors.REWARD = executors.REWARD.replace("[float(", "[time.time() + float(")
"""
"""A reward that never gives the same number twice."""


def test_ranks_and_machines_with_a_store_score_what_one_process_does_whatever_is_killed() -> None:
    code, found = harness("executors", "--shards", 12, "--kills", 6, "--minutes", 5, "--ways", "two,ranks,s3")
    assert code == 0 and found["kills"] >= 3


def test_other_scores_are_seen() -> None:
    code, found = harness("executors", "--shards", 3, "--kills", 0, "--ways", "two", broken=BY_THE_CLOCK)
    assert code == 1 and found["findings"]
