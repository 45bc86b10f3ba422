"""Weights held in half precision answer under autocast as float32 ones, to the bit; others stay float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tgo_pipeline.generators.networks.held import DTYPES, compute_in, hold
from tgo_pipeline.params.checks import Precision


class Net(nn.Module):
    """One of each: a product, a norm, an embedding, and a table that is both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.own = nn.Embedding(5, 8)
        self.tied = nn.Embedding(7, 8)
        self.out = nn.Linear(8, 7)
        self.out.weight = self.tied.weight
        self.register_buffer("scale", torch.tensor(1.5))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: torch.Tensor, word: torch.Tensor) -> tuple[torch.Tensor]:
        tokens = self.conv(x).flatten(2).transpose(1, 2) + self.own(word % 5) + self.tied(word)
        return (self.out(self.norm(tokens) * self.scale),)


def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = Net()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


GIVEN = (torch.linspace(-2, 2, 48).view(1, 3, 4, 4), torch.tensor([[2]]))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_answers_under_autocast_as_float32_weights_do(precision: Precision) -> None:
    plain, held = net(), net()
    hold(held, precision)
    with torch.autocast("cpu", DTYPES[precision]):
        assert torch.equal(held(*GIVEN)[0], plain(*GIVEN)[0])
    assert held.conv.weight.dtype == held.conv.bias.dtype == held.out.bias.dtype == DTYPES[precision]
    kept = (held.norm.weight, held.own.weight, held.tied.weight, held.out.weight, held.scale)
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert held.count.dtype == torch.int64


def test_whoever_calls_it_gets_float32_answers() -> None:
    plain, held = net(), copy.deepcopy(net())
    hold(held, "bf16")
    compute_in(held, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(*GIVEN)[0]
        inside = held(*GIVEN)[0]
    outside = held(*GIVEN)[0]
    assert outside.dtype == inside.dtype == torch.float32
    assert torch.equal(outside, expected.float()) and torch.equal(inside, expected.float())


def test_others_may_be_held_in_half_too() -> None:
    held = net()
    hold(held, "fp16", "fp16")
    assert {tensor.dtype for tensor in held.parameters()} == {torch.float16}
    hold(held, "fp32")
    assert {tensor.dtype for tensor in held.parameters()} == {torch.float32}
