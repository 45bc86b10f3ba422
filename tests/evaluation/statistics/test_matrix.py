"""The matrix of models against the pairwise table, against its own mirror image, and against counts by hand."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.evaluation.worlds import MODELS, REWARDS, scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.matrix import MATRIX, families, matrix_table
from tgo_pipeline.evaluation.statistics.scores import ALL, ModelScores
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.thresholds.adequacy.intervals import wilson_interval

PARAMS = EvaluateParams(bootstrap=300)
GAINS = {"tuned": [0.6, 0.2, -0.4], "other": [0.1, 0.0, 0.0]}
Key = tuple[str, str, str, str | None, str]


def rows(found: ModelScores, params: EvaluateParams = PARAMS) -> dict[Key, dict]:
    table = matrix_table(found, "target", params, seed=0)
    assert table.schema.equals(MATRIX)
    keys = ("model_a", "model_b", "test_set", "category", "reward")
    return {tuple(row[key] for key in keys): row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def world() -> ModelScores:
    return scores(GAINS, missing=0.02, digits=1)


@pytest.fixture(scope="module")
def found(world: ModelScores) -> dict[Key, dict]:
    return rows(world)


def test_every_ordered_pair_has_its_row_in_every_cell(found: dict[Key, dict]) -> None:
    cells = [(ALL, None), ("plain", None), ("styled", None)]
    cells += [("styled", name) for name in ("anime", "photo", "Counting")]
    expected = {
        (a, b, *cell, reward)
        for a, b in itertools.permutations(MODELS, 2)
        for cell in cells
        for reward in REWARDS
    }
    assert set(found) == expected
    assert {row["grouping"] for key, row in found.items() if key[3] == "Counting"} == {"challenge"}
    assert {row["is_target"] for key, row in found.items() if key[4] != "target"} == {False}


def test_the_tuned_row_against_base_is_the_row_of_the_evaluation(
    world: ModelScores, found: dict[Key, dict]
) -> None:
    table = evaluation_table(world.pairs("base", "tuned"), "target", PARAMS, seed=0)
    for row in table.to_pylist():
        mine = found["tuned", "base", row["test_set"], None, row["reward"]]
        for name in set(mine) & set(row):
            assert mine[name] == row[name] or mine[name] == pytest.approx(row[name], abs=1e-12), name


def test_counts_are_those_of_a_loop(world: ModelScores, found: dict[Key, dict]) -> None:
    for (a, b, test_set, category, reward), row in found.items():
        wins = ties = losses = 0
        differences: dict[str, list[float]] = {}
        for n in range(len(world.sample_ids)):
            names = {None, world.groupings["category"][n], world.groupings["challenge"][n]}
            one, other = (world.values[MODELS.index(m), n, REWARDS.index(reward)] for m in (a, b))
            if test_set not in (ALL, world.test_sets[n]) or category not in names or np.isnan(one - other):
                continue
            wins, ties, losses = wins + (one > other), ties + (one == other), losses + (one < other)
            differences.setdefault(world.prompt_ids[n], []).append(one - other)
        n = wins + ties + losses
        assert (row["wins"], row["ties"], row["losses"], row["n"]) == (wins, ties, losses, n)
        assert row["n_prompts"] == len(differences)
        assert row["win_rate"] == pytest.approx(wins / n)
        assert row["win_tie_rate"] == pytest.approx((wins + ties / 2) / n)
        assert row["difference"] == pytest.approx(
            np.mean(np.concatenate(list(differences.values()))), abs=1e-12
        )


def test_the_other_side_of_a_pair_is_its_mirror_image(found: dict[Key, dict]) -> None:
    for (a, b, test_set, category, reward), row in found.items():
        other = found[b, a, test_set, category, reward]
        assert (row["wins"], row["ties"]) == (other["losses"], other["ties"])
        assert row["difference"] == pytest.approx(-other["difference"], abs=1e-15)
        assert row["difference_low"] == pytest.approx(-other["difference_high"], abs=1e-15)
        assert row["win_tie_rate_low"] == pytest.approx(1 - other["win_tie_rate_high"], abs=1e-12)
        for name in ("p_value", "p_adjusted", "significant", "n"):
            assert row[name] == other[name]


def test_the_order_of_the_models_changes_nothing_but_the_order(
    world: ModelScores, found: dict[Key, dict]
) -> None:
    turned = dataclasses.replace(world, models=world.models[::-1], values=world.values[::-1])
    other = rows(turned)
    assert other.keys() == found.keys()
    for key, row in found.items():
        for name, value in row.items():
            same = other[key][name]
            assert same == value or same == pytest.approx(value, abs=1e-9), (key, name)


def test_a_model_and_its_copy_differ_in_nothing(world: ModelScores) -> None:
    copied = dataclasses.replace(world, values=np.stack([world.values[0]] * 3))
    for row in rows(copied).values():
        assert row["ties"] == row["n"] and row["win_rate"] == 0 and row["win_tie_rate"] == 0.5
        assert row["p_value"] == row["p_adjusted"] == 1 and not row["significant"]


def test_single_images_have_the_wilson_interval_of_their_number() -> None:
    aggregated = scores(GAINS).aggregated("median")
    row = rows(aggregated)["tuned", "base", ALL, None, "target"]
    expected = wilson_interval(row["wins"] / 20, 20, 0.95)
    assert (row["win_rate_low"], row["win_rate_high"]) == pytest.approx(expected)
    assert row["win_rate_bootstrap_low"] <= row["win_rate"] <= row["win_rate_bootstrap_high"]


@pytest.mark.parametrize("correction", ["holm", "bh", "none"])
def test_p_values_are_corrected_within_their_family(world: ModelScores, correction: str) -> None:
    found = rows(world, dataclasses.replace(PARAMS, correction=correction))
    whole = [row for row in found.values() if row["grouping"] is None]
    once = [row for row in whole if MODELS.index(row["model_a"]) > MODELS.index(row["model_b"])]
    assert len(once) == 3 * 3 * 3  # pairs, rewards, test sets with all of them together
    smallest = min(once, key=lambda row: row["p_value"])
    ties = sum(row["p_value"] == smallest["p_value"] for row in once)
    factor = {"holm": 27, "bh": 27 / ties, "none": 1}[correction]
    assert smallest["p_adjusted"] == pytest.approx(min(1, smallest["p_value"] * factor))
    for row in found.values():
        assert row["significant"] == (row["p_adjusted"] < 0.05)


def test_one_test_set_is_one_hypothesis_with_everything_together(world: ModelScores) -> None:
    one = dataclasses.replace(world, test_sets=np.full(len(world.test_sets), "only"))
    table = matrix_table(one, "target", PARAMS, seed=0).to_pylist()
    assert {name: len(members) for name, members in families(table).items()} == {
        None: 9,
        "category": 18,
        "challenge": 9,
    }
    by_set = {
        name: [r for r in table if r["test_set"] == name and r["category"] is None] for name in (ALL, "only")
    }
    assert [r["p_adjusted"] for r in by_set[ALL]] == [r["p_adjusted"] for r in by_set["only"]]


def test_a_pair_without_a_common_score_has_no_numbers(world: ModelScores) -> None:
    values = world.values.copy()
    values[2, :, 1] = np.nan
    row = rows(dataclasses.replace(world, values=values))["other", "base", ALL, None, "held"]
    assert row["n"] == row["wins"] == row["n_prompts"] == 0
    empty = (
        "win_rate",
        "win_rate_low",
        "difference",
        "difference_high",
        "p_value",
        "p_adjusted",
        "significant",
    )
    assert [row[name] for name in empty] == [None] * len(empty)


def test_without_a_target_no_row_is_one(world: ModelScores) -> None:
    assert not any(matrix_table(world, None, PARAMS, 0)["is_target"].to_pylist())


def test_a_test_set_may_not_be_named_all(world: ModelScores) -> None:
    with pytest.raises(TgoError, match="rename"):
        rows(dataclasses.replace(world, test_sets=np.full(len(world.test_sets), ALL)))
