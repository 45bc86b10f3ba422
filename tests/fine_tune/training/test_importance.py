"""Levels drawn by the size of their gradients: the same loss on average, other levels, and what cannot be weighed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune.policies.base import Policy
from fine_tune.training.importance import CANDIDATES, Importance, choose
from tests.fine_tune import runs
from tests.fine_tune.policies.test_noise_levels import build, drawn
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_families import tiny_sd3_pipeline
from tgo_pipeline.errors import TgoError

SMALL = {"batch_size": 4, "steps": 4, "noise_levels": "importance"}
RATES = Importance(np.array([0.3, 0.6]), np.array([0.2, 0.7, 2.1]))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for (module, name), value in runs.LITTLE.items():
        monkeypatch.setattr(module, name, value)


def test_candidates_are_taken_in_proportion_to_their_rates() -> None:
    rates = np.array([[1.0], [3.0], [4.0]])
    uniform = (np.arange(8000) + 0.5) / 8000
    taken = choose(np.repeat(rates, 8000, 1), uniform)
    assert np.bincount(taken).tolist() == [1000, 3000, 4000]


def test_weights_leave_every_mean_over_levels_as_it_was() -> None:
    """Over the choice among its candidates, a row's weighed value is the mean of theirs, whatever the value is."""
    generator = np.random.default_rng(0)
    rates, values = generator.uniform(0.1, 5, (2, CANDIDATES, 50))
    probabilities, weights = rates / rates.sum(0), rates.mean(0) / rates
    np.testing.assert_allclose((probabilities * weights * values).sum(0), values.mean(0), rtol=1e-12)


@pytest.mark.parametrize("write", [tiny_diffusion_pipeline, tiny_sd3_pipeline])
def test_levels_of_high_rates_are_drawn_more_often_and_weigh_less(tmp_path, write: Any) -> None:
    policy: Policy = build(write(tmp_path))
    count = 1000
    images = {"latents": torch.zeros(count, policy.network.config["in_channels"], 4, 4)}  # type: ignore[index,union-attr]
    seeds, weights = RATES.draw(policy, images, {}, range(count))
    levels = policy.noise_level(policy.corrupt(images, {}, seeds)).numpy()
    own = policy.noise_level(drawn(policy, count)).numpy()
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside, before = ((each >= low) & (each < high) for each in (levels, own))
        weighed = weights * inside
        error = np.hypot(weighed.std(), before.std()) / np.sqrt(count)
        assert abs(weighed.mean() - before.mean()) < 4 * error
    assert abs((weights * levels).mean() - own.mean()) < 4 * np.hypot(
        (weights * levels).std(), own.std()
    ) / np.sqrt(count)
    shares = np.array([(own < 0.3).mean(), ((own >= 0.3) & (own < 0.6)).mean(), (own >= 0.6).mean()])
    ideal = shares * RATES.rates / (shares * RATES.rates).sum()
    assert (levels >= 0.6).mean() == pytest.approx(ideal[2], abs=0.06)
    assert (levels < 0.3).mean() == pytest.approx(ideal[0], abs=0.06)


def test_the_rates_are_those_of_the_units_gradients() -> None:
    found = Importance.of(
        [{"low": low, "unit_norm": norm} for low, norm in ((0.0, 8.0), (0.4, 3.0), (0.9, 1.0))]
    )
    assert found.edges.tolist() == [0.4, 0.9]
    np.testing.assert_allclose(found.rates, 0.1 + 0.9 * np.array([2.0, 0.75, 0.25]))


@pytest.mark.parametrize("objective", ["tgo", "threshold_contrast"])
def test_a_training_draws_by_importance_and_goes_on_as_it_began(source, tmp_path, objective: str) -> None:
    tuning = {**SMALL, "objective": objective, "steps": 12, "checkpoint_every": 12}
    runs.interrupt(source, tmp_path / "broken", tuning)
    runs.train(source, tmp_path / "broken", tuning)
    runs.train(source, tmp_path / "whole", tuning)
    broken, whole = runs.results(tmp_path / "broken"), runs.results(tmp_path / "whole")
    assert all(torch.equal(broken[name], whole[name]) for name in whole)
    runs.train(source, tmp_path / "plain", {**tuning, "noise_levels": [0.0, 1.0]})
    plain = runs.results(tmp_path / "plain")
    assert any(not torch.equal(plain[name], whole[name]) for name in whole)
    assert json.loads((tmp_path / "whole/output/tgo.json").read_text())["noise_levels"] == "importance"


def test_a_loss_is_weighed_by_its_level(source, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = {**SMALL, "steps": 1, "max_grad_norm": 1e9}
    norms = []
    for factor in (1.0, 3.0):
        monkeypatch.setattr(
            Importance, "draw", lambda self, p, i, c, seeds, k=factor: (seeds, np.full(len(seeds), k))
        )
        root = runs.train(source, tmp_path / str(factor), tuning)
        norms.append(runs.trajectory(root)["gradient_norm"][0])
    plain = runs.train(source, tmp_path / "plain", {**tuning, "noise_levels": [0.0, 1.0]})
    assert norms[0] == pytest.approx(runs.trajectory(plain)["gradient_norm"][0], rel=1e-5)
    assert norms[1] == pytest.approx(3 * norms[0], rel=1e-4)


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        ({"objective": "kto"}, "compares every sample with the log-ratios of its batch"),
        ({"draws": 2}, "set draws to 1"),
    ],
)
def test_what_weights_would_change_is_refused(source: Path, tmp_path: Path, tuning: dict, said: str) -> None:
    with pytest.raises(TgoError, match=said):
        runs.train(source, tmp_path, {**SMALL, **tuning})
    assert not (tmp_path / "noise_levels.parquet").exists()


def test_a_range_measured_before_serves_importance_too(source, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    for levels in ("auto", "importance"):
        world_params = {**SMALL, "steps": 1, "noise_levels": levels}
        runs.train(source, tmp_path, world_params)
    assert caplog.text.count("the first batch is measured") == 1
