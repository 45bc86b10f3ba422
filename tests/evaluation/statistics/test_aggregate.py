"""What a prompt's images come down to, against loops."""

import dataclasses
import math
import statistics
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.worlds import scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.scores import Aggregate

RULES = {"median": statistics.median, "mean": statistics.fmean, "best": max}


@pytest.mark.parametrize("how", list(RULES))
@settings(max_examples=20, deadline=None)
@given(images=st.integers(1, 5), seed=st.integers(0, 999))
def test_an_aggregate_is_the_rule_of_each_prompt(how: Aggregate, images: int, seed: int) -> None:
    single = scores(images=images, seed=seed)
    aggregated = single.aggregated(how)
    assert sorted(aggregated.prompt_ids) == sorted(set(single.prompt_ids))
    assert list(aggregated.prompt_ids) == list(dict.fromkeys(single.prompt_ids))
    for place, prompt in enumerate(aggregated.prompt_ids):
        images_of_it = single.prompt_ids == prompt
        assert aggregated.test_sets[place] == single.test_sets[images_of_it][0]
        for name, column in aggregated.groupings.items():
            assert column[place] == single.groupings[name][images_of_it][0]
        for m in range(3):
            for r in range(3):
                expected = RULES[how](single.values[m, images_of_it, r].tolist())
                assert aggregated.values[m, place, r] == pytest.approx(expected, abs=1e-12)


def test_single_leaves_the_images_alone() -> None:
    single = scores()
    assert single.aggregated("single") is single


def test_a_missing_score_leaves_out_the_prompt_of_that_model_and_reward_alone() -> None:
    single = scores()
    single.values[1, 4, 2] = np.nan
    prompt = single.prompt_ids[4]
    aggregated = single.aggregated("best")
    lost = np.argwhere(np.isnan(aggregated.values)).tolist()
    assert lost == [[1, list(aggregated.prompt_ids).index(prompt), 2]]


def test_prompts_with_different_numbers_of_images_are_refused() -> None:
    single = scores()
    kept = np.arange(1, len(single.sample_ids))
    names = ("sample_ids", "prompt_ids", "prompts", "test_sets")
    fewer = dataclasses.replace(
        single,
        **{name: getattr(single, name)[kept] for name in names},
        groupings={},
        values=single.values[:, kept],
    )
    with pytest.raises(TgoError, match="from 2 to 3 images"):
        fewer.aggregated("mean")


def test_several_images_inflate_the_win_rate_of_a_better_model() -> None:
    """The protocol of Diffusion-KTO is not that of one image: equal models, Phi(d / s) becomes Phi(d / s sqrt(n))."""
    found = scores({"tuned": [0.3] * 3}, images=5, noise=1.5, seed=3, scale=60)
    rates = {}
    for how in ("single", "median", "mean"):
        pairs = found.aggregated(how).pairs("base", "tuned")
        rates[how] = float((pairs.tuned > pairs.base).mean())
    assert rates["single"] == pytest.approx(NormalDist().cdf(0.3 / 1.5), abs=0.015)
    assert rates["mean"] == pytest.approx(NormalDist().cdf(0.3 / 1.5 * math.sqrt(5)), abs=0.025)
    assert rates["single"] + 0.03 < rates["median"] < rates["mean"] + 0.01
