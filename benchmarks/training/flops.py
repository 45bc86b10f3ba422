"""Operations of a training step, counted on the real architecture, and what a device could do in that time."""

from __future__ import annotations

import functools
import time

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.architectures import SCALES, SDXL, unet_config
from benchmarks.training.plain import LORA
from benchmarks.training.task import Task, Work

PRODUCTS = (512, 1024, 1536, 2048, 3072)


@functools.cache
def useful_flops(architecture: str, size: str, method: str) -> int:
    """Matrix operations that TGO asks for on one sample: policy forward and backward, reference forward.

    Counted on the meta device, attention taken apart into its products; what is computed twice to save memory, and
    encoders in the loop, are not useful in this sense. A multiplication and its addition are two operations.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config(architecture, size)).requires_grad_(method == "full")
        if method == "lora":
            unet.add_adapter(LORA)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            prediction = unet(**_inputs(architecture, size, unet)).sample
            forward = counter.get_total_flops()
            prediction.sum().backward()
            return counter.get_total_flops() + forward


def _inputs(architecture: str, size: str, unet: UNet2DConditionModel) -> dict:
    scale, latent = SCALES[size], SCALES[size].latent_size[architecture]
    inputs: dict = {
        "sample": torch.empty(1, 4, latent, latent),
        "timestep": torch.empty(1, dtype=torch.long),
        "encoder_hidden_states": torch.empty(1, scale.tokens, unet.config["cross_attention_dim"]),
    }
    if architecture == SDXL:
        pooled = torch.empty(1, 1280 // scale.divisor)
        inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.empty(1, 6)}
    return inputs


def load_products(task: Task) -> Work:
    """The side that does large matrix products alone: a processor's peak, measured in turns of its own.

    Which product is the fastest differs from processor to processor, so it is looked for first.
    """
    side = max(PRODUCTS, key=_rate)
    left, right, out = (torch.rand(side, side) for _ in range(3))

    def step() -> float:
        for _ in range(task.batch):
            torch.mm(left, right, out=out)
        return 0.0

    return Work(step, facts={"flops_per_step": task.batch * 2 * side**3, "product": side})


def _rate(side: int) -> float:
    """Operations a second of a product of square matrices, the best of three."""
    left, right, out = (torch.rand(side, side) for _ in range(3))
    torch.mm(left, right, out=out)
    times_s = []
    for _ in range(3):
        began_s = time.perf_counter()
        torch.mm(left, right, out=out)
        times_s.append(time.perf_counter() - began_s)
    return 2 * side**3 / min(times_s)
