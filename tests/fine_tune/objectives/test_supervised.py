"""Objectives that regress on images: SFT, CSFT, RWR, AWR."""

from __future__ import annotations

from statistics import stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from tests.fine_tune.objectives.evaluate import columns, evaluate, labels, objective, samples
from tgo_pipeline.errors import TgoError

temperatures = st.floats(1e-4, 10)


@pytest.mark.parametrize("name", ["sft", "csft"])
@settings(max_examples=30, deadline=None)
@given(samples, temperatures)
def test_supervised_loss_is_the_error_itself(name: str, rows, temperature: float) -> None:
    ratio, label, weight, _ = columns(rows)
    error = np.abs(ratio)
    result = evaluate(
        objective(name), -error / temperature, label=label, weight=weight, temperature=temperature
    )
    np.testing.assert_allclose(result.loss, error, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(result.gradient, -temperature, rtol=1e-12)


@pytest.mark.parametrize("name", ["rwr", "awr"])
@settings(max_examples=30, deadline=None)
@given(samples, temperatures)
def test_weighted_regression_is_weight_times_error(name: str, rows, temperature: float) -> None:
    ratio, label, weight, _ = columns(rows)
    error = np.abs(ratio)
    result = evaluate(
        objective(name), -error / temperature, label=label, weight=weight, temperature=temperature
    )
    np.testing.assert_allclose(result.loss, weight * error, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(result.gradient, -temperature * weight, rtol=1e-12)


def test_sft_trains_on_one_side() -> None:
    score = [1.0, -1.0, 2.0]
    assert objective("sft").prepare(labels(score)).score.tolist() == [1, 2]
    assert objective("sft", side="negative").prepare(labels(score)).score.tolist() == [-1]
    with pytest.raises(TgoError, match="none of the 2 labelled samples is positive"):
        objective("sft").prepare(labels([-1.0, -2.0]))


def test_csft_tells_the_sides_apart_by_a_prefix() -> None:
    csft = objective("csft")
    assert csft.sides == {0, 1}
    assert csft.prefixes == {1: "good image ", 0: "bad image "}
    assert csft.sampling == {"prompt_prefix": "good image ", "negative_prompt": "bad image"}


def test_csft_as_in_hpsv1_marks_negatives_alone() -> None:
    csft = objective("csft", positive_prefix="", negative_prefix="Weird image. ")
    assert csft.prefixes == {1: "", 0: "Weird image. "}
    assert csft.sampling == {"negative_prompt": "Weird image."}


scores = st.lists(st.floats(-5, 5).map(lambda s: round(s, 3)), min_size=2, max_size=12).filter(
    lambda s: max(s) > min(s)
)


@settings(max_examples=60, deadline=None)
@given(scores, st.floats(0.2, 5))
def test_rwr_weights(score, temperature: float) -> None:
    share = softmax([s / (temperature * stdev(score)) for s in score])
    given = labels(score)
    rwr = objective("rwr", temperature=temperature, normalise="softmax").prepare(given)
    np.testing.assert_allclose(rwr.weight, len(score) * share, rtol=1e-9)
    rwr = objective("rwr", temperature=temperature, normalise="max").prepare(given)
    np.testing.assert_allclose(rwr.weight, share / share.max(), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(scores, st.floats(0.05, 5), st.data())
def test_awr_weights(score, temperature: float, data) -> None:
    prompts = data.draw(st.lists(st.sampled_from("abc"), min_size=len(score), max_size=len(score)))
    spread = stdev(score)
    expected = []
    for s, prompt in zip(score, prompts, strict=True):
        own = [other for other, of in zip(score, prompts, strict=True) if of == prompt]
        expected.append(min(np.exp((s - sum(own) / len(own)) / (temperature * spread)), 20))
    awr = objective("awr", temperature=temperature).prepare(labels(score, prompts))
    np.testing.assert_allclose(awr.weight, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["rwr", "awr"])
def test_weights_need_scores_that_differ(name: str) -> None:
    with pytest.raises(TgoError, match="target score is 2 for all 3 samples"):
        objective(name).prepare(labels([2.0, 2.0, 2.0]))


@pytest.mark.parametrize("name", ["rwr", "awr"])
def test_weights_take_samples_of_both_sides(name: str) -> None:
    assert len(objective(name).prepare(labels([-2.0, -1.0], tau=5.0))) == 2
