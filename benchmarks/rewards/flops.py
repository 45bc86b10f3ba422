"""Floating-point operations of the reward networks, counted and in closed form; the matrix rate of this machine.

A multiplication and the addition of its product are two operations, in matrix products and attention alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.parity.networks import Blip, Clip, Networks, Tower

PUBLISHED = {
    "ViT-H image tower": 334.6,
    "ViT-H text tower": 47.1,
    "ViT-L image tower": 162.0,
    "ViT-L text tower": 13.3,
    "ImageReward's image tower": 123.1,
    "ImageReward's text tower": 14.7,
}
"""GFLOP per image or prompt of full length, as computed elsewhere (all five one by one: 1,239)."""


def count(work: Callable[[], Any]) -> int:
    """Operations that `work` does. Fused attention is taken apart, since no kernel of it is counted on every device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


def tower_flops(tower: Tower, tokens: int, inner: int | None = None) -> int:
    """Operations of a transformer's blocks on `tokens`: projections, attention, feed-forward of width `inner`."""
    projections = 2 * tokens * tower.width * 4 * tower.width
    attention = 2 * 2 * tokens * tokens * tower.width
    feed_forward = 2 * 2 * tokens * tower.width * (inner or 4 * tower.width)
    return tower.layers * (projections + attention + feed_forward)


def patch_flops(width: int, image_size: int, patch_size: int) -> int:
    """Operations of cutting an image into patches and embedding them."""
    return 2 * (image_size // patch_size) ** 2 * 3 * patch_size**2 * width


def clip_flops(network: Clip) -> tuple[int, int]:
    """Operations of CLIP's image tower and of its text tower at full length, with their projections."""
    patches = (network.image_size // network.patch_size) ** 2
    width = network.vision.width
    image = patch_flops(width, network.image_size, network.patch_size) + tower_flops(
        network.vision, patches + 1
    )
    text = tower_flops(network.text, network.context_length)
    return image + 2 * width * network.embedding, text + 2 * network.text.width * network.embedding


def blip_flops(network: Blip, tokens: int = 35) -> tuple[int, int]:
    """Operations of ImageReward's image tower and of its text tower, which looks at every patch in every layer."""
    patches = (network.image_size // network.patch_size) ** 2 + 1
    vision, text = network.vision, network.text
    embedded = patch_flops(vision.width, network.image_size, network.patch_size)
    crossing = (
        2 * 2 * tokens * text.width * text.width  # queries and outputs
        + 2 * 2 * patches * vision.width * text.width  # keys and values
        + 2 * 2 * tokens * patches * text.width
    )
    own = tower_flops(text, tokens, network.intermediate)
    return embedded + tower_flops(vision, patches), own + text.layers * crossing


def closed_form(networks: Networks) -> dict[str, float]:
    """GFLOP of the towers that `PUBLISHED` names."""
    values = (*clip_flops(networks.vit_h), *clip_flops(networks.vit_l), *blip_flops(networks.blip))
    return {name: value / 1e9 for name, value in zip(PUBLISHED, values, strict=True)}


@dataclass(frozen=True)
class Rate:
    """A measured matrix rate in FLOP/s: of all shapes together, and of each (rows, outputs, inputs)."""

    total: float
    shapes: Mapping[str, float]


def matrix_rate(networks: Networks, batch: int, device: torch.device, dtype: torch.dtype) -> Rate:
    """Rate of the matrix products of the image towers on `batch` images, each shape as often as it occurs.

    A shape is timed by the fastest of several runs: the floor is what the machine can do at its best.
    """
    seconds, flops, rates = 0.0, 0, {}
    for tower, patch in (
        (networks.vit_h.vision, networks.vit_h.patch_size),
        (networks.vit_l.vision, networks.vit_l.patch_size),
        (networks.blip.vision, networks.blip.patch_size),
    ):
        rows = batch * ((networks.vit_h.image_size // patch) ** 2 + 1)
        width = tower.width
        for outputs, inputs in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
            once = _product_s(rows, outputs, inputs, device, dtype)
            rates[f"{rows} x {inputs} by {inputs} x {outputs}"] = 2 * rows * outputs * inputs / once
            seconds += tower.layers * once
            flops += tower.layers * 2 * rows * outputs * inputs
    return Rate(flops / seconds, rates)


def _product_s(
    rows: int, outputs: int, inputs: int, device: torch.device, dtype: torch.dtype, runs: int = 5
) -> float:
    left = torch.randn(rows, inputs, device=device, dtype=dtype)
    weight, bias = (
        torch.randn(*shape, device=device, dtype=dtype) for shape in ((outputs, inputs), (outputs,))
    )

    def product() -> None:
        torch.nn.functional.linear(left, weight, bias)
        if device.type == "cuda":
            torch.cuda.synchronize()

    product()
    return min(seconds(product) for _ in range(runs))


def seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes; on an accelerator it has to wait for its own end."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
