"""The five rewards on a GPU: whether numbers hold from run to run, how fast they are, and what full memory does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.case import Case
from benchmarks.parity.networks import NETWORKS
from benchmarks.rewards.flops import count, matrix_rate
from benchmarks.rewards.inputs import captions, png
from tgo_pipeline.devices import cores
from tgo_pipeline.planning import scoring
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.engine.images import open_image
from tgo_pipeline.rewards.engine.scorer import Scorer
from tgo_pipeline.rewards.networks.precision import Precision

FIVE = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
DISTINCT = 8
"""Different images; a stream repeats their bytes."""
BATCHES = (8, 32, 64, 128, 256, 512)
KERNELS = 18
"""How many kernels are listed."""


def five(case: Case, precision: Precision) -> dict[str, Any]:
    """The five at official sizes with random weights, made on the device; on a CPU those of the embedded world."""
    if not case.full:
        return {name: load_reward(name, "demo", dtype=precision) for name in FIVE}
    networks = {name: scoring._official(name) for name in FIVE}
    networks["aesthetic"].tower = networks["clip"].tower
    generator = torch.Generator(case.device).manual_seed(0)
    for network in networks.values():
        _fill(network, case.device, generator)
        network.to(case.device).requires_grad_(False).eval().set_precision(precision)
    return networks


def _fill(network: nn.Module, device: torch.device, generator: torch.Generator) -> None:
    """Give parameters without memory random numbers: norms about 1, all else about 0."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                made = torch.randn(parameter.shape, device=device, generator=generator) * 0.02
                is_scale = isinstance(module, nn.LayerNorm) and name == "weight"
                setattr(module, name, nn.Parameter(made + float(is_scale)))


def images_of(case: Case, count: int, pixels: int) -> tuple[list[bytes], list[str]]:
    """PNG files and prompts; small ones on a CPU."""
    base = [png(index, pixels if case.full else 64) for index in range(DISTINCT)]
    return [base[row % DISTINCT] for row in range(count)], captions(count, 4)


def numbers(case: Case) -> dict[str, Any]:
    """Two runs, other batches and other decoders; fp16 beside fp32, scores and gradients."""
    images, prompts = images_of(case, 64, 512)
    found: dict[str, Any] = {}
    columns: dict[str, Mapping[str, np.ndarray]] = {}
    gradients: dict[str, dict[str, Tensor]] = {}
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        rewards = five(case, precision)
        first, again = (_score(rewards, images, prompts, 32, 0) for _ in range(2))
        other = _score(rewards, images, prompts, 7, 2)
        columns[precision] = first
        gradients[precision] = _gradients(rewards, prompts)
        found[f"{precision}: two runs are equal to the bit"] = all(
            np.array_equal(again[name], column) for name, column in first.items()
        )
        found[f"{precision}: greatest change with batches of 7 and workers"] = _greatest(first, other)
        del rewards
        case.forget()
    found["fp16 minus fp32, greatest"] = _greatest(columns["fp32"], columns["fp16"])
    found["gradients of fp16 and fp32, cosine"] = {
        name: float(nn.functional.cosine_similarity(gradients["fp16"][name], whole, 0))
        for name, whole in gradients["fp32"].items()
    }
    return found


def _score(
    rewards: Mapping[str, Any], images: list[bytes], prompts: list[str], batch: int, workers: int
) -> Mapping[str, np.ndarray]:
    with Scorer(rewards, batch_size=batch, workers=workers) as scorer:
        return scorer.score(images, prompts).columns


def _greatest(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.abs(other[name] - column).max()) for name, column in one.items()}


def _gradients(rewards: Mapping[str, Any], prompts: list[str]) -> dict[str, Tensor]:
    """The gradient of each reward by the pixels, flat, on the CPU."""
    found = {}
    pixels = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, reward in rewards.items():
        images = pixels.to(reward.device).requires_grad_()
        reward.score_tensor(images, prompts[:4]).sum().backward()
        assert images.grad is not None
        found[name] = images.grad.float().flatten().cpu()
    return found


def speed(case: Case) -> dict[str, Any]:
    """Networks alone by batch, eager and compiled; where the time goes; end to end from PNG at two sizes."""
    rewards = five(case, "fp16" if case.full else "fp32")
    floor_s = _floor_s(case, rewards)
    found: dict[str, Any] = {}
    for batch in BATCHES if case.full else BATCHES[:1]:
        case.forget()
        took_s = case.seconds(networks(rewards, batch))
        found[f"networks, batches of {batch}"] = {
            "images_per_s": batch / took_s,
            "of the floor": batch * floor_s / took_s,
            "peak_gb": case.peak_gb,
        }
    if case.full:
        found["kernels of a batch of 256, share of the time"] = _kernels(case, networks(rewards, 256))
    for pixels in (512, 1024) if case.full else (64,):
        images, prompts = images_of(case, 1024 if case.full else 32, pixels)
        for workers in (max(1, cores() - 1), 0):
            name = f"end to end, {pixels} px, {workers} workers"
            found[name] = _end_to_end(rewards, images, prompts, 256 if case.full else 8, workers)
    if case.full and case.left_s > 200:
        for reward in rewards.values():
            reward.compile_towers()
        run = networks(rewards, 256)
        found["compiled: first call, s"] = case.seconds(run, 1, 0)
        took_s = case.seconds(run)
        found["compiled, batches of 256"] = {
            "images_per_s": 256 / took_s,
            "of the floor": 256 * floor_s / took_s,
        }
    return found


def _floor_s(case: Case, rewards: Mapping[str, Any]) -> float:
    """Seconds of an image at the rate of plain matrix products of these shapes."""
    size, dtype = ("full", torch.float16) if case.full else ("tiny", torch.float32)
    rate = matrix_rate(NETWORKS[size], 256 if case.full else 8, case.device, dtype)
    return count(networks(rewards, 1)) / rate.total


def networks(rewards: Mapping[str, Any], batch: int) -> Callable[[], list[Tensor]]:
    """What the networks do for a batch, with its pixels and prompts on the device."""
    image, prompt = open_image(png(0)), captions(1, 1)
    places = np.zeros(batch, dtype=int)
    with torch.inference_mode():
        encoded = {name: reward.encode_prompts(prompt)[places] for name, reward in rewards.items()}
        pixels = {
            reward.preprocessing: torch.stack([reward.preprocessing(image)])
            .repeat(batch, 1, 1, 1)
            .to(reward.device)
            for reward in rewards.values()
        }

    @torch.inference_mode()
    def run() -> list[Tensor]:
        seen: dict[Any, Any] = {}
        scores = []
        for name, reward in rewards.items():
            key = id(reward.image_encoder), reward.preprocessing
            if key not in seen:
                seen[key] = reward.encode_images(reward.preprocessing.finish(pixels[reward.preprocessing]))
            scores.append(reward.combine(seen[key], encoded[name]))
        return scores

    return run


def _kernels(case: Case, run: Callable[[], Any]) -> list[str]:
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        case.wait()
    rows = sorted(((each.self_device_time_total, each.key) for each in profiled.key_averages()), reverse=True)
    total = sum(took for took, _ in rows)
    return [f"{took / total:.1%} {name[:90]}" for took, name in rows[:KERNELS]]


def _end_to_end(
    rewards: Mapping[str, Any], images: list[bytes], prompts: list[str], batch: int, workers: int
) -> dict[str, float]:
    with Scorer(rewards, batch_size=batch, workers=workers) as scorer:
        scorer.score(images[:batch], prompts[:batch])
        began_s, busy_s = time.perf_counter(), time.process_time()
        scorer.score(images, prompts)
        took_s, busy_s = time.perf_counter() - began_s, time.process_time() - busy_s
    return {"images_per_s": len(images) / took_s, "parent_cpu_ms_per_image": 1e3 * busy_s / len(images)}


def memory(case: Case) -> dict[str, Any]:
    """With half of the memory that it needs, a batch is halved, and scores are those of small batches."""
    if not case.full:
        return {"skipped": "needs a GPU"}
    rewards = five(case, "fp16")
    images, prompts = images_of(case, 256, 512)
    wanted = _score(rewards, images, prompts, 64, 0)
    case.forget()
    total = torch.cuda.get_device_properties(case.device).total_memory
    held = torch.cuda.memory_reserved(case.device)
    torch.cuda.set_per_process_memory_fraction((held + 1.5e9) / total, case.device)
    try:
        with Scorer(rewards, batch_size=256) as scorer:
            got = scorer.score(images, prompts).columns
            size = scorer.batch_size.current
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, case.device)
    return {"went on with batches of": size, "greatest change": _greatest(wanted, got)}
