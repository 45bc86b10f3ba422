"""The safeguard of the negative side: what is kept of a gradient, against the published factor in double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune.data.batches import TrainingBatch
from fine_tune.data.units import AcrossThreshold
from fine_tune.objectives import make_objective
from fine_tune.policies import policy_class
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.forward import Forward
from tests.fine_tune import runs, world
from tests.fine_tune.objectives.evaluate import labels, objective
from tests.fine_tune.objectives.test_contrast import diffusion_inputs, masked_inputs
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_masked import tiny_amused_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import FineTuneParams

CPU = torch.device("cpu")
WRITE = {"diffusion": tiny_diffusion_pipeline, "masked": tiny_amused_pipeline}
INPUTS = {"diffusion": diffusion_inputs, "masked": masked_inputs}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITE.items()}


def forward(folder: Path, **fine_tune: Any) -> tuple[Forward, Any]:
    params = world.params(folder, temperature=0.5, **fine_tune).fine_tune
    pipeline = load_pipeline(str(folder))
    policy = policy_class(pipeline).build(pipeline, params, seed=0, with_reference=True)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return Forward(policy, make_objective(params), params, Accelerator("fp32", CPU)), policy


def batch(family: str, draws: int = 1) -> TrainingBatch:
    images, conditions = INPUTS[family](torch.Generator().manual_seed(1))
    label = torch.tensor([1.0, 0.0] * 3)
    seeds = [[10 * unit + draw for draw in range(draws)] for unit in range(3) for _ in range(2)]
    return TrainingBatch(images, conditions, {}, label, torch.ones(6), label, seeds)


def errors(policy: Any, part: TrainingBatch, draws: int) -> np.ndarray:
    """(B, draws, D) gradients of each row's error in its prediction, up to a factor: differences, or p - one-hot."""
    repeated = [
        {name: t.repeat_interleave(draws, 0) for name, t in each.items()}
        for each in (part.images, part.conditions)
    ]
    corruption = policy.corrupt(*repeated, [seed for seeds in part.seeds for seed in seeds])
    prediction = policy.predict(corruption).detach().double()
    if hasattr(corruption, "mask"):
        hot = torch.nn.functional.one_hot(corruption.target, prediction.shape[1]).movedim(-1, 1)
        share = corruption.mask.double() / corruption.mask.double().sum((1, 2), keepdim=True)
        found = (prediction.softmax(1) - hot) * share[:, None]
    else:
        found = prediction - corruption.target.double()
    return found.reshape(6, draws, -1).numpy()


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("mu", [0.0, 0.6])
@pytest.mark.parametrize("family", ["diffusion", "masked"])
def test_the_kept_share_is_the_published_factor(folders, family: str, mu: float, draws: int) -> None:
    chosen, policy = forward(folders[family], objective="dpo", safeguard=mu, draws=draws)
    part = batch(family, draws)
    gradients = errors(policy, part, draws)
    positive, negative = gradients[0::2], gradients[1::2]
    along = (positive * negative).sum(-1)
    kept = np.where(along > 0, ((1 - mu) * (positive**2).sum(-1) / along).clip(0, 1), 1)
    assert mu == 0 or family == "masked" or (kept < 1).any()
    corruption, _ = chosen._corrupt(part, part.conditions)
    with torch.no_grad():
        prediction = policy.predict(corruption)
    found = chosen._kept_share(prediction, corruption).view(6, draws).numpy()
    assert (found[0::2] == 1).all()
    np.testing.assert_allclose(found[1::2], kept, rtol=1e-3, atol=1e-5)


def test_values_stay_and_gradients_of_negatives_shrink(folders) -> None:
    part = batch("diffusion")
    plain, policy = forward(folders["diffusion"], objective="dpo")
    held, other = forward(folders["diffusion"], objective="dpo", safeguard=0.9)

    def gradient(of: Forward, network: Any, row: int) -> tuple[float, torch.Tensor]:
        likelihood = of.likelihoods(part).policy
        network.network.zero_grad()
        likelihood[row].backward()
        return float(likelihood[row].detach()), torch.cat(
            [p.grad.flatten() for p in network.trainable().values()]
        )

    corruption, _ = held._corrupt(part, part.conditions)
    share = held._kept_share(other.predict(corruption), corruption)
    for row in range(6):
        (value, full), (same, kept) = gradient(plain, policy, row), gradient(held, other, row)
        assert value == same
        torch.testing.assert_close(kept, float(share[row]) * full, rtol=1e-4, atol=1e-7)
    assert (share[1::2] < 1).any()


@pytest.mark.parametrize("name", ["tgo", "kto", "bco"])
def test_objectives_without_pairs_train_on_units_across_the_threshold(name: str) -> None:
    chosen = type(objective(name))(FineTuneParams(objective=name, safeguard=0.0))
    units = chosen.units(labels([2.0, 1.0, -1.0]), seed=0)
    assert chosen.members == 2 and isinstance(units, AcrossThreshold) and units.members == 2
    assert objective(name).members == 1


@pytest.mark.parametrize("name", ["tgo", "kto", "bco", "dpo", "threshold_contrast"])
def test_the_loss_is_the_mean_over_all_samples_of_the_units(source: Path, tmp_path: Path, name: str) -> None:
    """Before the first update every log-ratio is 0: half of the largest loss of KTO, log 2 of the others."""
    expected = {"kto": 0.5}.get(name, np.log(2))
    even = {"labels": "quantile", "quantile_c": 0.0}
    tuning = {"objective": name, "safeguard": 0.0, "steps": 1, "batch_size": 2, "tgo": even}
    root = runs.train(source, tmp_path, tuning)
    assert runs.trajectory(root)["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert runs.trajectory(root)["gradient_norm"][0] > 0


def test_it_is_refused_where_nothing_is_pushed_away(model: Path, places: dict[str, Path]) -> None:
    from fine_tune import stage

    with pytest.raises(TgoError, match=r"safeguard is 0, but sft pushes away from no sample"):
        stage.run(world.params(model, objective="sft", safeguard=0.0), world.workspace(places))


def test_a_share_outside_of_its_range_is_refused() -> None:
    with pytest.raises(TgoError, match=r"safeguard is 1\.5: it must be from 0 to 1"):
        FineTuneParams(safeguard=1.5)
