"""Statistics among the samples of one prompt against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tune.data.prompt_statistics import prompt_means, prompt_quantiles

samples = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-3, 3)), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(samples)
def test_quantiles_are_mid_ranks_among_the_samples_of_the_prompt(rows) -> None:
    expected = []
    for prompt, score in rows:
        own = [other for of, other in rows if of == prompt]
        below, equal = sum(other < score for other in own), sum(other == score for other in own)
        expected.append((below + equal / 2) / len(own))
    prompts, scores = [prompt for prompt, _ in rows], np.array([score for _, score in rows], float)
    np.testing.assert_allclose(prompt_quantiles(prompts, scores), expected, rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(samples)
def test_means_are_those_of_the_prompt(rows) -> None:
    expected = []
    for prompt, _ in rows:
        own = [score for of, score in rows if of == prompt]
        expected.append(sum(own) / len(own))
    prompts, scores = [prompt for prompt, _ in rows], np.array([score for _, score in rows], float)
    np.testing.assert_allclose(prompt_means(prompts, scores), expected, rtol=1e-12, atol=1e-12)


def test_quantiles_of_distinct_scores_are_spread_evenly() -> None:
    quantiles = prompt_quantiles(["x"] * 4 + ["y"], np.array([0.2, 0.4, 0.1, 0.3, 7.0]))
    np.testing.assert_allclose(quantiles, [3 / 8, 7 / 8, 1 / 8, 5 / 8, 1 / 2])
