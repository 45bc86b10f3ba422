"""Sketches keep inner products, whatever the gradients are like and however they are cut."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fine_tune.noise_levels.sketch import WIDTH, Sketch

SKETCH = Sketch(torch.device("cpu"))


def gradients(kind: str, count: int) -> Tensor:
    """(8, count) with something in common."""
    generator = torch.Generator().manual_seed(1)
    made = torch.randn(8, count, generator=generator) + 0.5 * torch.randn(1, count, generator=generator)
    if kind == "heavy columns":  # of a weight with rows of 1024: one feature of large activations
        made *= torch.where(torch.arange(count) % 1024 < 8, 50.0, 1.0)
    if kind == "all alike":
        made = made.abs() + 1
    return made


@pytest.mark.parametrize("kind", ["normal", "heavy columns", "all alike"])
def test_inner_products_are_kept(kind: str) -> None:
    made = gradients(kind, 300_000)
    sketches = torch.stack([SKETCH([each]) for each in made])
    exact = made.double() @ made.double().T
    size = exact.diag().sqrt()
    error = (sketches @ sketches.T - exact) / (size[:, None] * size)
    assert error.square().mean().sqrt() < 2 / math.sqrt(WIDTH)


def test_it_is_the_gradient_itself_where_that_is_short() -> None:
    made = gradients("normal", WIDTH)
    sketches = torch.stack([SKETCH([each]) for each in made])
    torch.testing.assert_close(sketches @ sketches.T, made.double() @ made.double().T)


def test_it_does_not_matter_how_the_parameters_are_cut() -> None:
    (whole, *_) = gradients("normal", 2_200_000)
    parts = [whole[:70_000].view(70, 1000), whole[70_000:70_003], whole[70_003:].view(1, -1)]
    torch.testing.assert_close(SKETCH(parts), SKETCH([whole]), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(SKETCH([2 * whole]), 2 * SKETCH([whole]))
