"""What is not held: frozen weights in float32 that autocast rounds anyway, and the denoiser while encoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune.data.batches import TrainingBatch
from fine_tune.distributed.processes import Group
from fine_tune.objectives import make_objective
from fine_tune.policies import policy_class
from fine_tune.policies.base import ENCODING_PARTS, base_precision, on_files
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.forward import Forward
from fine_tune.training.gradient import LikelihoodGradient
from tests.fine_tune import world
from tests.generators.guided import BUILDERS
from tests.tiny import IMAGE_SIZE
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.adapters import network_name
from tgo_pipeline.generators.networks.parts import DENOISERS
from tgo_pipeline.generators.sample import Sampler

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Model:
    """A pipeline on disk whose norms are not ones and zeros, and a batch of it."""

    folder: Path
    batch: TrainingBatch

    def policy(self, **fine_tune: Any) -> Any:
        """A policy on a pipeline loaded as training loads it."""
        tuning = world.params(self.folder, **fine_tune).fine_tune
        held = base_precision(tuning)
        pipeline = load_pipeline(str(self.folder), without=ENCODING_PARTS, held=held)
        return policy_class(pipeline).build(pipeline, tuning, seed=0, with_reference=True)


@pytest.fixture(scope="module", params=BUILDERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = BUILDERS[request.param](tmp_path_factory.mktemp("held") / request.param)
    pipeline: Any = load_pipeline(str(folder))
    _perturb(getattr(pipeline, network_name(pipeline)))
    pipeline.save_pretrained(folder)
    encoder = policy_class(pipeline).encoder(pipeline, (IMAGE_SIZE, IMAGE_SIZE))
    images = encoder.images([world.random_image(seed) for seed in range(2)])
    prompts = encoder.prompts(["a cat", "two dogs on a sofa"])
    label, ones = torch.tensor([1.0, 0.0]), torch.ones(2)
    return Model(folder, TrainingBatch(images, prompts, {}, label, ones, ones, [[11], [12]]))


def _perturb(network: torch.nn.Module) -> None:
    """Norms and biases of fresh networks are ones and zeros, which no type rounds."""
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def _away(policy: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.trainable().values():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def _gradients(model: Model, policy: Any) -> dict[str, torch.Tensor]:
    """Log-likelihoods of policy and reference in bf16, and every gradient."""
    objective = make_objective(policy.params)
    forward = Forward(policy, objective, policy.params, Accelerator("bf16", CPU))
    found = forward.likelihoods(model.batch)
    found.policy.sum().backward()
    gradients = {name: p.grad for name, p in policy.trainable().items()}
    return {"policy": found.policy.detach(), "reference": found.reference, **gradients}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_losses_and_gradients_are_those_of_float32_weights(model: Model, method: str) -> None:
    """The other policy is of fp32, so it holds all weights in float32; both compute under autocast."""
    held, plain = (model.policy(method=method, precision=each) for each in ("bf16", "fp32"))
    _away(held), _away(plain)
    found, expected = _gradients(model, held), _gradients(model, plain)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert expected["policy"].tolist() != expected["reference"].tolist()


def test_what_autocast_rounds_is_held_in_half_and_nothing_else(model: Model) -> None:
    policy = model.policy(method="lora", precision="bf16")
    trained = policy.trainable().keys()
    halves = 0
    for name, parameter in policy.network.named_parameters():
        owner = policy.network.get_submodule(name.rpartition(".")[0])
        kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
        rounded = isinstance(owner, kinds) and name not in trained
        assert parameter.dtype == (torch.bfloat16 if rounded else torch.float32), name
        halves += parameter.numel() * rounded
    assert halves > 0.8 * sum(p.numel() for n, p in policy.network.named_parameters() if n not in trained)
    assert {p.dtype for p in model.policy(method="full", precision="bf16").network.parameters()} == {
        torch.float32
    }


def test_a_fresh_adapter_is_the_same_on_a_half_held_base(model: Model) -> None:
    held, plain = (model.policy(method="lora", precision=each).trainable() for each in ("bf16", "fp32"))
    assert held.keys() == plain.keys()
    assert all(torch.equal(held[name], plain[name]) for name in plain)


def test_a_half_held_base_draws_images_on_the_way(model: Model) -> None:
    """In the middle of a training the pipeline draws with the network, outside of any autocast of the trainer."""
    drawn = []
    for precision in ("bf16", "fp32"):
        params = world.params(model.folder, method="lora", precision=precision)
        pipeline: Any = load_pipeline(str(model.folder), held=base_precision(params.fine_tune))
        policy_class(pipeline).build(pipeline, params.fine_tune, seed=0, with_reference=True)
        (image,) = Sampler(pipeline, params.generate, 1).images(["a cat"], [7])
        drawn.append(np.asarray(image).astype(float))
    assert np.isfinite(drawn[0]).all() and drawn[0].std() > 0
    if "tokens" not in model.batch.images:  # one rounding picks another token
        assert np.abs(drawn[0] - drawn[1]).mean() < 12


def test_encoding_asks_the_denoiser_for_nothing_but_its_sizes(model: Model) -> None:
    pipeline: Any = load_pipeline(str(model.folder), described=DENOISERS)
    denoiser = getattr(pipeline, network_name(pipeline))
    assert {parameter.device.type for parameter in denoiser.parameters()} == {"meta"}
    encoder = policy_class(pipeline).encoder(pipeline, (None, None))
    images = encoder.images([world.random_image(seed) for seed in range(2)])
    prompts = encoder.prompts(["a cat", "two dogs on a sofa"])
    if "flux" not in model.folder.name:  # whose own size is 1,024 pixels whatever its network says
        assert all(torch.equal(images[name], rows) for name, rows in model.batch.images.items())
    assert all(torch.equal(prompts[name], rows) for name, rows in model.batch.conditions.items())


def test_a_network_that_will_be_cut_into_shards_stays_in_its_file(model: Model) -> None:
    with on_files():
        shared = model.policy(method="full", precision="fp32")
    network, frozen = (dict(each.named_parameters()) for each in shared.networks)
    assert all(network[name].data_ptr() == frozen[name].data_ptr() for name in network)
    assert all(network[name] is not frozen[name] and network[name].requires_grad for name in network)
    own, other = (dict(each.named_parameters()) for each in model.policy(method="full").networks)
    assert not any(own[name].data_ptr() == other[name].data_ptr() for name in own)
    assert all(torch.equal(own[name], network[name]) for name in own)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_reads_nothing_from_the_device_until_it_measures(model: Model, method: str) -> None:
    """On torch's meta device, which holds nothing that could be read: a read of a GPU waits for all its work."""
    meta = torch.device("meta")
    tuning = world.params(model.folder, method=method).fine_tune
    pipeline: Any = load_pipeline(str(model.folder), without=ENCODING_PARTS)
    getattr(pipeline, network_name(pipeline)).to(meta)
    objective, accelerator = make_objective(tuning), Accelerator("fp32", meta)
    policy = policy_class(pipeline).build(pipeline, tuning, seed=0, with_reference=True)
    policy.network.to(meta)  # an adapter is drawn on the CPU
    forward = Forward(policy, objective, tuning, accelerator)
    measured = LikelihoodGradient(forward, objective, tuning, accelerator, Group(), 1).of(
        model.batch, lambda: None
    )
    assert {tensor.device for tensor in (measured.losses, *measured.values.values())} == {meta}
    assert all(p.grad is not None and p.grad.is_meta for p in policy.trainable().values())
