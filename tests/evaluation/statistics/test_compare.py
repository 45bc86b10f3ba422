"""Tables of an evaluation against numbers worked out by hand."""

import csv
import io
import itertools
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.breakdown import cells
from tgo_pipeline.evaluation.statistics.compare import EVALUATION, evaluation_table, metrics, win_rates_csv
from tgo_pipeline.evaluation.statistics.scores import (
    ALL,
    SAMPLES,
    PairedScores,
    join_scores,
    pair_scores,
    pairs_from_samples,
    samples_table,
)
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.rewards.toys import ShownNames

PARAMS = EvaluateParams(bootstrap=500)
PROMPTS = pl.DataFrame(
    {
        "prompt_id": ["a", "b", "c"],
        "prompt": ["one", "two", "three"],
        "source": ["plain", "plain", "placed"],
    }
)


def _scores(values: Mapping[str, Sequence[float | None]], images: int = 2) -> pl.DataFrame:
    ids = [(f"{prompt}-{index:04d}", prompt) for prompt, index in itertools.product("abc", range(images))]
    columns = {name: pl.Series(column, dtype=pl.Float32) for name, column in values.items()}
    return pl.DataFrame({"sample_id": [i[0] for i in ids], "prompt_id": [i[1] for i in ids], **columns})


def pairs_of(base: Sequence[float | None], tuned: Sequence[float | None]) -> PairedScores:
    return pair_scores(_scores({"r": base}), _scores({"r": tuned}), PROMPTS, ["r"])


BASE, TUNED = [1, 2, 3, 4, 5, 6], [2, 2, 5, 3, 6, 8]


def _row(pairs: PairedScores, test_set: str = ALL) -> dict:
    rows = evaluation_table(pairs, "r", PARAMS).to_pylist()
    return next(row for row in rows if row["test_set"] == test_set)


def test_pairs_are_joined_by_sample_and_named_by_test_set() -> None:
    base, tuned = _scores({"r": BASE}), _scores({"r": TUNED})
    pairs = pair_scores(base, tuned.sample(fraction=1, shuffle=True, seed=1), PROMPTS, ["r"])
    assert pairs.tuned[:, 0].tolist() == TUNED
    assert pairs.test_sets.tolist() == ["plain"] * 4 + ["placed"] * 2
    table = samples_table(pairs)
    assert table.schema.equals(SAMPLES)
    assert table.to_pylist()[2] == {
        "sample_id": "b-0000",
        "prompt_id": "b",
        "prompt": "two",
        "test_set": "plain",
        "reward": "r",
        "base": 3.0,
        "tuned": 5.0,
    }


def test_a_row_holds_what_the_definitions_say() -> None:
    row = _row(pairs_of(BASE, TUNED))
    assert row["base_mean"] == 3.5 and row["tuned_mean"] == pytest.approx(26 / 6)
    assert row["base_median"] == 3.5 and row["tuned_median"] == 4.0
    assert row["base_std"] == pytest.approx(statistics.stdev(BASE))
    assert row["difference"] == pytest.approx(5 / 6)
    assert row["effect"] == pytest.approx(5 / 6 / statistics.stdev(BASE))
    assert (row["wins"], row["ties"], row["losses"], row["n"], row["n_prompts"]) == (4, 1, 1, 6, 3)
    assert row["win_rate"] == pytest.approx(4 / 6) and row["win_tie_rate"] == pytest.approx(4.5 / 6)
    assert row["win_rate_low"] < 4 / 6 < row["win_rate_high"]
    assert row["difference_low"] <= 5 / 6 <= row["difference_high"]
    assert row["is_target"]


def test_every_test_set_has_its_row_after_the_row_of_all() -> None:
    table = evaluation_table(pairs_of(BASE, TUNED), "r", PARAMS)
    assert table.schema.equals(EVALUATION)
    assert table["test_set"].to_pylist() == [ALL, "plain", "placed"]
    assert table["n"].to_pylist() == [6, 4, 2]


def test_identical_sides_tie_everywhere() -> None:
    row = _row(pairs_of(BASE, BASE))
    assert (row["wins"], row["ties"], row["losses"]) == (0, 6, 0)
    assert row["win_rate"] == 0 and row["win_tie_rate"] == 0.5
    assert row["difference"] == row["difference_low"] == row["difference_high"] == 0


def test_a_single_prompt_has_no_interval_of_the_mean() -> None:
    row = _row(pairs_of(BASE, TUNED), "placed")
    assert row["n_prompts"] == 1 and row["difference"] == 1.5
    assert row["difference_low"] is None and row["win_tie_rate_high"] is None
    assert row["win_rate_low"] == pytest.approx(1 / (1 + 1.959964**2))  # Wilson of one trial that succeeded


@pytest.mark.parametrize("value", [1.0, 0.1])  # the mean of 0.1 is off by a bit
def test_a_constant_base_has_no_effect_size(value: float) -> None:
    row = _row(pairs_of([value] * 6, TUNED))
    assert row["effect"] is None and row["base_std"] == 0


def test_failures_of_either_side_are_left_out_and_counted() -> None:
    pairs = pairs_of([None, 2, 3, 4, 5, 6], [2, 2, float("nan"), 3, 6, 8])
    assert pairs.excluded() == 2
    assert samples_table(pairs)["sample_id"].to_pylist() == ["a-0001", "b-0001", "c-0000", "c-0001"]
    row = _row(pairs)
    assert (row["n"], row["n_excluded"]) == (4, 2)
    assert row["base_mean"] == np.mean([2, 4, 5, 6]) and row["tuned_mean"] == np.mean([2, 3, 6, 8])


def test_the_samples_table_leads_back_to_the_pairs() -> None:
    values, changed = {"r": BASE, "s": [None, *BASE[1:]]}, {"r": TUNED, "s": BASE}
    pairs = pair_scores(_scores(values), _scores(changed), PROMPTS, list(values))
    again = pairs_from_samples(pl.DataFrame(samples_table(pairs)))
    assert again.rewards == pairs.rewards and again.sample_ids.tolist() == pairs.sample_ids.tolist()
    kept = pairs.complete()
    np.testing.assert_array_equal(again.base, np.where(kept, pairs.base, np.nan))
    np.testing.assert_array_equal(again.tuned, np.where(kept, pairs.tuned, np.nan))


def test_a_set_without_a_pair_is_an_error() -> None:
    with pytest.raises(TgoError, match=r"test set 'placed'.*score of r"):
        evaluation_table(pairs_of([*BASE[:4], None, None], TUNED), "r", PARAMS)


def test_no_sample_at_all_is_an_error() -> None:
    nothing = _scores({"r": BASE}).clear()
    with pytest.raises(TgoError, match="nothing to compare"):
        pair_scores(nothing, nothing, PROMPTS, ["r"])


def test_sides_with_other_samples_are_an_error() -> None:
    with pytest.raises(TgoError, match="c-0001 is on one side only"):
        pair_scores(_scores({"r": BASE}), _scores({"r": TUNED})[:-1], PROMPTS, ["r"])


def test_a_prompt_that_is_no_test_prompt_is_an_error() -> None:
    with pytest.raises(TgoError, match="prompt c"):
        pair_scores(_scores({"r": BASE}), _scores({"r": TUNED}), PROMPTS[:2], ["r"])


def test_a_test_set_may_not_be_named_all() -> None:
    prompts = PROMPTS.with_columns(source=pl.lit(ALL))
    pairs = pair_scores(_scores({"r": BASE}), _scores({"r": TUNED}), prompts, ["r"])
    with pytest.raises(TgoError, match="rename"):
        evaluation_table(pairs, "r", PARAMS)


def test_rewards_share_their_resamples() -> None:
    values = {"r": BASE, "twin": BASE}
    pairs = pair_scores(_scores(values), _scores({"r": TUNED, "twin": TUNED}), PROMPTS, ["r", "twin"])
    first, second = evaluation_table(pairs, "r", PARAMS).to_pylist()[:2]
    assert first["difference_low"] == second["difference_low"]
    assert evaluation_table(pairs, "r", PARAMS).equals(evaluation_table(pairs, "r", PARAMS))


def test_a_single_test_set_has_the_intervals_of_all() -> None:
    prompts = PROMPTS.with_columns(source=pl.lit("plain"))
    pairs = pair_scores(_scores({"r": BASE}), _scores({"r": TUNED}), prompts, ["r"])
    everything, plain = evaluation_table(pairs, "r", PARAMS).drop("test_set").to_pylist()
    assert everything == plain


def test_metrics_hold_the_target_and_what_is_shown() -> None:
    values, changed = {"r": BASE, "s": BASE, "oracle": BASE}, {"r": TUNED, "s": BASE, "oracle": TUNED}
    pairs = pair_scores(_scores(values), _scores(changed), PROMPTS, list(values))
    nested = metrics(evaluation_table(pairs, "r", PARAMS), ["oracle"])
    assert list(nested) == [ALL, "plain", "placed"]
    assert list(nested[ALL]) == ["target", "oracle"]
    assert nested[ALL]["target"]["difference"] == pytest.approx(5 / 6, abs=1e-6)
    assert nested["placed"]["target"]["difference_low"] is None


def test_win_rates_csv_survives_awkward_names() -> None:
    prompts = PROMPTS.with_columns(source=pl.lit('big, "new" set'))
    pairs = pair_scores(_scores({"r": BASE}), _scores({"r": TUNED}), prompts, ["r"])
    rows = list(
        csv.DictReader(io.StringIO(win_rates_csv(evaluation_table(pairs, "r", PARAMS), ShownNames())))
    )
    assert [row["test_set"] for row in rows] == [ALL, 'big, "new" set']
    assert float(rows[0]["win_rate"]) == pytest.approx(4 / 6)


def test_categories_come_with_the_prompts() -> None:
    prompts = PROMPTS.with_columns(
        category=pl.Series(["anime", None, "photo"]), challenge=pl.Series([None] * 3, dtype=pl.String)
    )
    frames = {name: _scores({"r": values}) for name, values in {"x": BASE, "y": TUNED, "z": BASE}.items()}
    joined = join_scores(frames, prompts, ["r"])
    assert joined.models == ("x", "y", "z") and joined.values.shape == (3, 6, 1)
    assert joined.groupings["category"].tolist() == ["anime", "anime", None, None, "photo", "photo"]
    assert joined.groupings["challenge"].tolist() == [None] * 6
    assert [cell.category for cell in cells(joined)] == [None, None, "anime", None, "photo"]
