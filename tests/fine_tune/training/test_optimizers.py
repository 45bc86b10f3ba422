"""The optimisers: updates against their formulas, and states that go on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fine_tune.training.optimizers import load_named_state, make_optimizer, named_state
from tests.fine_tune.runs import interrupt, results, train
from tgo_pipeline.params import FineTuneParams

ADAFACTOR = FineTuneParams(optimizer="adafactor", learning_rate=1e-2, weight_decay=0.1)


def layer(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(6, 4)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """An update on a gradient that depends on its number alone."""
    generator = torch.Generator().manual_seed(number)
    for parameter in module.parameters():
        parameter.grad = 3 * torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_adafactor_is_its_formula() -> None:
    """Algorithm 4 of arXiv 1804.04235 with a rate of its own: decay 1 - t^-0.8, clipped at RMS 1."""
    module = layer()
    weight, bias = (p.detach().double().clone() for p in (module.weight, module.bias))
    rows, columns, squares = torch.zeros(4).double(), torch.zeros(6).double(), torch.zeros(4).double()
    optimizer = make_optimizer(list(module.parameters()), ADAFACTOR)
    for number in (1, 2, 3):
        step(module, optimizer, number)
        gradient, flat = (p.grad.double() for p in (module.weight, module.bias))  # type: ignore[union-attr]
        decay = 1 - number**-0.8
        rows = decay * rows + (1 - decay) * (gradient.square() + 1e-30).mean(1)
        columns = decay * columns + (1 - decay) * (gradient.square() + 1e-30).mean(0)
        squares = decay * squares + (1 - decay) * (flat.square() + 1e-30)
        for tensor, update in (
            (weight, gradient / (rows[:, None] * columns / rows.mean()).sqrt()),
            (bias, flat / squares.sqrt()),
        ):
            clipped = update / update.square().mean().sqrt().clamp(min=1.0)
            tensor -= 1e-2 * 0.1 * tensor + 1e-2 * clipped
    torch.testing.assert_close(module.weight.double(), weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.bias.double(), bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_state_as_tensors_goes_on_exactly(name: str) -> None:
    params = FineTuneParams(optimizer=name, learning_rate=1e-2)  # type: ignore[arg-type]
    module = layer()
    optimizer = make_optimizer(list(module.parameters()), params)
    for number in (1, 2):
        step(module, optimizer, number)
    kept = {key: value.clone() for key, value in named_state(optimizer, module).items()}
    other = layer(seed=1)
    other.load_state_dict(module.state_dict())
    resumed = make_optimizer(list(other.parameters()), params)
    load_named_state(resumed, other, kept)
    for number in (3, 4):
        step(module, optimizer, number)
        step(other, resumed, number)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_the_names_and_types_of_a_state_are_those_of_checkpoints() -> None:
    module, expected = layer(), {"adamw": {}, "adafactor": {}}
    for name, keys in (
        ("adamw", ("exp_avg", "exp_avg_sq")),
        ("adafactor", ("exp_avg_sq_row", "exp_avg_sq_col")),
    ):
        expected[name] = {f"{key}.weight": torch.float32 for key in keys}
    expected["adamw"] |= {f"{key}.bias": torch.float32 for key in ("exp_avg", "exp_avg_sq")}
    expected["adamw"] |= {f"step.{name}": torch.float32 for name in ("weight", "bias")}
    expected["adafactor"] |= {"exp_avg_sq.bias": torch.float32}
    expected["adafactor"] |= {f"step.{name}": torch.int64 for name in ("weight", "bias")}
    expected["adafactor"] |= {f"RMS.{name}": torch.float32 for name in ("weight", "bias")}
    for name, types in expected.items():
        optimizer = make_optimizer(list(module.parameters()), FineTuneParams(optimizer=name))  # type: ignore[arg-type]
        assert named_state(optimizer, module) == {}
        assert not optimizer.state, "asking for a state must not make one"
        step(module, optimizer, 1)
        assert {key: value.dtype for key, value in named_state(optimizer, module).items()} == types


def test_a_parameter_that_was_never_updated_has_no_state_after_loading_either() -> None:
    module = layer()
    optimizer = make_optimizer(list(module.parameters()), FineTuneParams())
    module.weight.grad = torch.ones_like(module.weight)
    optimizer.step()
    kept = named_state(optimizer, module)
    assert {key.partition(".")[2] for key in kept} == {"weight"}
    before = [parameter.clone() for parameter in module.parameters()]
    resumed = make_optimizer(list(module.parameters()), FineTuneParams(weight_decay=0.5))
    load_named_state(resumed, module, kept)
    assert list(resumed.state) == [module.weight]
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    load_named_state(make_optimizer(list(module.parameters()), FineTuneParams()), module, {})


def test_adafactor_keeps_a_row_and_a_column() -> None:
    module = nn.Linear(64, 32)
    sizes = {}
    for name in ("adamw", "adafactor"):
        params = FineTuneParams(optimizer=name)  # type: ignore[arg-type]
        optimizer = make_optimizer(list(module.parameters()), params)
        step(module, optimizer, 1)
        state = named_state(optimizer, module)
        sizes[name] = sum(tensor.numel() for key, tensor in state.items() if key.endswith("weight"))
    assert sizes == {"adamw": 2 * 64 * 32 + 1, "adafactor": 64 + 32 + 2}


def test_a_training_with_adafactor_resumes_exactly(source: Path, tmp_path: Path) -> None:
    fine_tune = {"optimizer": "adafactor", "steps": 8, "learning_rate": 1e-4, "checkpoint_every": 100}
    train(source, tmp_path / "whole", fine_tune)
    interrupt(source, tmp_path / "broken", fine_tune)
    train(source, tmp_path / "broken", fine_tune)
    whole, broken = results(tmp_path / "whole"), results(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
