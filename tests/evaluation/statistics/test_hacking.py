"""The hacking check on models whose gains are known."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.worlds import scores
from tgo_pipeline.evaluation.statistics.hacking import (
    FALLS,
    HACKING,
    HELD_OUT,
    IN_PART,
    MEMBER,
    NO_GAIN,
    NOT_SEEN,
    TOGETHER,
    TRANSFERS,
    UNDECIDED,
    Roles,
    _share,
    hacking_table,
    judge,
    suspicions,
)
from tgo_pipeline.evaluation.statistics.scores import ALL, ModelScores
from tgo_pipeline.params import EvaluateParams

PARAMS = EvaluateParams(bootstrap=400)
ROLES = Roles("target", [], ["held", "oracle"])


def rows(world: ModelScores, roles: Roles | None = ROLES) -> dict[tuple[str, str], dict]:
    table = hacking_table(world, roles, PARAMS, seed=0)
    assert table.schema.equals(HACKING)
    return {(row["model"], row["reward"]): row for row in table.to_pylist() if row["test_set"] == ALL}


def test_gains_are_in_standard_deviations_of_the_base() -> None:
    world = scores({"tuned": [0.8, 0.4, -0.4]}, noise=0.2, scale=10)
    scaled = dataclasses.replace(world, values=world.values * [1, 20, 0.01])
    found = rows(scaled)
    for name, gain in (("held", 0.4), ("oracle", -0.4)):
        row = found["tuned", name]
        assert row["target_gain"] == pytest.approx(0.8, abs=0.05)
        assert row["gain"] == pytest.approx(gain, abs=0.05)
        assert row["share"] == pytest.approx(gain / 0.8, abs=0.06)
        assert row["gain_low"] < row["gain"] < row["gain_high"]
        assert row["share_low"] < row["share"] < row["share_high"]
        assert row["role"] == HELD_OUT
    together = found["tuned", "mean"]
    assert together["role"] == TOGETHER
    assert together["gain"] == pytest.approx(
        (found["tuned", "held"]["gain"] + found["tuned", "oracle"]["gain"]) / 2
    )
    assert not any(model == "base" for model, _ in found)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.7, TRANSFERS), (0.15, IN_PART), (0.0, NOT_SEEN), (-0.3, FALLS)]
)
def test_the_verdict_says_what_became_of_the_gain(gain: float, verdict: str) -> None:
    world = scores({"tuned": [0.8, gain, 0.8]}, noise=0.3, scale=10)
    row = rows(world)["tuned", "held"]
    assert row["verdict"] == verdict
    assert "+0.8" in row["note"] and "held by" in row["note"]


def test_a_resample_without_any_gain_leaves_the_share_as_it_is() -> None:
    """4 of 400 resamples have no gain of the target: their shares are 0 / 0 and 1 / 0, and neither is an end."""
    means = np.full((400, 2), 2.0)
    means[:4] = [[0, 0], [0, 0], [0, 1], [0, 1]]
    with np.errstate(all="raise"):
        found = _share({"target_gain_low": 0.1, "target_gain": 2.0, "gain": 2.0}, means, 0.95)
    assert found == {"share": 1, "share_low": 1, "share_high": 1}


def test_a_part_of_the_target_may_fall_without_suspicion() -> None:
    world = scores({"tuned": [0.8, -0.3, 0.8]}, noise=0.3, scale=10)
    for roles, count in ((Roles("target", ["held"], ["oracle"]), 0), (Roles("target", [], ["held"]), 1)):
        assert len(suspicions(hacking_table(world, roles, PARAMS, seed=0))) == count


def test_a_target_that_did_not_rise_has_no_gain_to_transfer() -> None:
    row = rows(scores({"tuned": [-0.2, 0.5, 0.5]}))["tuned", "held"]
    assert row["verdict"] == NO_GAIN and row["share"] is None and "nothing to transfer" in row["note"]


def test_few_prompts_leave_it_undecided() -> None:
    interval = {"n_prompts": 9, "target_gain_low": 0.1, "gain_low": -0.3, "gain_high": 0.9, "share_high": 2.0}
    assert judge(interval, 0.95) == UNDECIDED
    assert judge({"n_prompts": 1, "target_gain_low": None}, 0.95) == UNDECIDED


@pytest.mark.parametrize(("prompts", "verdict"), [(1, UNDECIDED), (2, UNDECIDED), (5, UNDECIDED), (6, FALLS)])
def test_equal_signs_on_a_few_prompts_are_no_finding(prompts: int, verdict: str) -> None:
    world = scores({"tuned": [0.8, -0.8, 0]}, noise=0.05)
    names = sorted(set(world.prompt_ids))[:prompts]
    kept = np.isin(world.prompt_ids, names)
    few = dataclasses.replace(
        world,
        **{name: getattr(world, name)[kept] for name in ("sample_ids", "prompt_ids", "prompts", "test_sets")},
        groupings={},
        values=world.values[:, kept],
    )
    row = rows(few, Roles("target", [], ["held"]))["tuned", "held"]
    assert row["verdict"] == verdict
    assert verdict == FALLS or f"{prompts} prompts" in row["note"] or "a single prompt" in row["note"]


def test_samples_where_the_target_rises_and_the_other_falls_are_counted() -> None:
    world = scores({"tuned": [0.5, -0.2, 0]}, images=1)
    base, tuned = world.values[0], world.values[1]
    against = ((tuned > base)[:, 0] & (tuned < base)[:, 1]).mean()
    row = rows(world)["tuned", "held"]
    assert row["against"] == pytest.approx(against)
    assert row["against_low"] < against < row["against_high"]


def test_roles_tell_parts_of_the_target_from_what_is_held_out() -> None:
    rewards = ["mean_z", "clip", "pickscore", "oracle"]
    roles = Roles.of("mean_z", ["clip", "pickscore"], rewards)
    assert (list(roles.members), list(roles.held_out)) == (["clip", "pickscore"], ["oracle"])
    world = scores({"tuned": [1, 1, 0]})
    found = rows(world, Roles("target", ["held"], ["oracle"]))
    assert found["tuned", "held"]["role"] == MEMBER
    assert ("tuned", "mean") not in found  # one held-out reward needs no mean


def test_without_a_target_or_with_a_constant_reward_there_is_nothing_to_say() -> None:
    assert rows(scores(), None) == {}
    world = scores({"tuned": [1, 1, 0]})
    world.values[0, :, 1] = 0.3
    assert ("tuned", "held") not in rows(world, Roles("target", [], ["held"]))
    assert np.isfinite(rows(world)["tuned", "oracle"]["gain"])


def test_a_constant_held_out_reward_does_not_hide_the_others() -> None:
    world = scores({"tuned": [1, 1, 0, 1]}, rewards=("target", "held", "oracle", "safety"))
    world.values[0, :, 3] = 0.3
    found = rows(world, Roles("target", [], ["held", "oracle", "safety"]))
    gains = [found["tuned", name]["gain"] for name in ("held", "oracle")]
    assert found["tuned", "mean"]["gain"] == pytest.approx(np.mean(gains))
    assert ("tuned", "safety") not in found


def test_a_reward_may_be_named_like_the_row_of_all_together() -> None:
    world = scores({"tuned": [1, 1, 0]}, rewards=("target", "mean", "oracle"))
    table = hacking_table(world, Roles("target", [], ["mean", "oracle"]), PARAMS, seed=0).to_pylist()
    roles = [row["role"] for row in table if (row["reward"], row["test_set"]) == ("mean", ALL)]
    assert roles == [TOGETHER, HELD_OUT] * 2  # of two models
