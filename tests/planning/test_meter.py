"""The meter against closed forms and torch's own counter, on real tensors and on imagined ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from tgo_pipeline.planning.meter import Meter, backward, imagined, rounded

WIDTH, ROWS = 64, 128
FLOAT = 4
aten = torch.ops.aten
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, *_, **__: 2 * 2 * math.prod(q) * q[2],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda _, q, *__, **___: (
        5 * 2 * math.prod(q) * q[2]
    ),
}
"""Two products forward; backward the scores again and four more. By shapes (B, H, L, D); torch has neither."""


def test_a_linear_layer_costs_what_algebra_says() -> None:
    layer = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
    with Meter() as meter:
        layer(torch.ones(ROWS, WIDTH)).sum().backward()
    forward = 2 * ROWS * WIDTH * 2 * WIDTH
    assert meter.flops == 2 * forward  # the input needs no gradient


def test_memory_is_that_of_the_tensors_that_are_alive_at_once() -> None:
    size = ROWS * WIDTH * FLOAT
    with Meter() as meter:
        first = torch.ones(ROWS, WIDTH)
        second = first + 1
        view = second.view(-1)
        del first
        third = view * 2
        del second, third
    assert meter.peak_bytes == 2 * size


def test_what_was_there_before_counts_when_it_is_held_or_used() -> None:
    layer = nn.Linear(WIDTH, WIDTH)
    size = (WIDTH + 1) * WIDTH * FLOAT
    held, used = Meter(), Meter()
    assert held.hold(layer) == size
    assert held.hold(layer) == 0
    with used:
        layer.weight.sum()
        layer.bias.sum()
    assert size < used.peak_bytes <= size + 2 * FLOAT


class Block(nn.Module):
    """Convolution, attention and normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.project = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.convolution(x).flatten(2).transpose(1, 2))
        query, key, value = self.project(x)[:, None].chunk(3, dim=-1)
        return scaled_dot_product_attention(query, key, value)


def test_counts_what_torchs_own_counter_counts() -> None:
    block, x = Block(), torch.ones(2, 8, 16, 16)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        block(x).sum().backward()
    with Meter() as meter:
        block(x).sum().backward()
    assert meter.flops == counter.get_total_flops()


def test_counts_in_inference_mode() -> None:
    block, x = Block(), torch.ones(2, 8, 16, 16)
    with Meter() as recorded:
        block(x)
    with torch.inference_mode(), Meter() as meter:
        block(x)
    assert meter.flops == recorded.flops > 0


@pytest.mark.parametrize("recomputed", [False, True])
def test_imagined_tensors_cost_what_real_ones_cost(recomputed: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    def run() -> tuple[float, int]:
        block, x = Block(), torch.ones(4, 8, 16, 16)
        meter = Meter(imagined=x.is_meta)
        meter.hold(block)
        with meter:
            out = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
            backward(out.sum())
        return meter.flops, meter.peak_bytes

    real = run()
    with imagined():
        assert run() == real


def test_imagined_networks_take_no_memory() -> None:
    with imagined():
        layer = nn.Linear(2**20, 2**20)
        assert Meter(imagined=True).hold(layer) == (2**40 + 2**20) * FLOAT


def test_rounding_halves_what_a_matrix_product_gives() -> None:
    with imagined(), rounded("bf16"):
        layer = nn.Linear(WIDTH, WIDTH)
        assert layer(torch.ones(ROWS, WIDTH)).dtype == torch.bfloat16
        assert torch.nn.functional.softmax(layer(torch.ones(ROWS, WIDTH)), -1).dtype == torch.float32
    with imagined(), rounded("fp32"):
        assert layer(torch.ones(ROWS, WIDTH)).dtype == torch.float32
