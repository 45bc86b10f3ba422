"""The sides of the training benchmark by name, and the section that it writes from the numbers it keeps as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.results import described, table
from benchmarks.rewards.tables import DEVICES, NOT_MEASURED

CHECK, PRODUCTS = "check", "products"
TITLES = {"sd15": "Stable Diffusion 1.5", "sdxl": "Stable Diffusion XL"}
OFFICIAL_MICRO = 2
"""Samples in a forward pass of the official scripts: KTO's batch of 2 on a device, DPO's pair."""
SIZES = {
    "toy": "toy networks, which show that everything runs and nothing else",
    "small": "the official block structure at a quarter of its width, latents of 16 x 16",
    "full": "the official networks at 512 (SD 1.5) and 1024 (SDXL) pixels",
}


@dataclass(frozen=True)
class Variant:
    """One side: what it is, which part of the benchmark it belongs to, and what it is compared with."""

    name: str
    title: str
    part: str
    against: str
    side: str = "ours"
    method: str = "full"
    official_micro: bool = False
    checkpointing: bool | frozenset[str] = False
    """Whether activations are computed twice, or for which architectures."""
    compile: bool = False
    vae_fp32: bool = False
    pairs: bool = False

    def settings(self, architecture: str, batch: int) -> dict[str, Any]:
        """The fields of a `Task` in which this side differs from the engine's default."""
        twice = self.checkpointing
        settings = {
            "side": self.side,
            "method": self.method,
            "checkpointing": twice if isinstance(twice, bool) else architecture in twice,
            "compile": self.compile,
            "vae_fp32": self.vae_fp32,
            "pairs": self.pairs,
        }
        return settings | ({"micro": min(OFFICIAL_MICRO, batch)} if self.official_micro else {})


VARIANTS = (
    Variant("ours", "this project", "speed", "ours"),
    Variant(
        "kto",
        "plain loop as Diffusion-KTO's: 2 samples at once, activations computed twice, VAE in fp32",
        "speed",
        "ours",
        "plain",
        official_micro=True,
        checkpointing=True,
        vae_fp32=True,
    ),
    Variant(
        "dpo",
        "plain loop as Diffusion-DPO's: a pair at once, activations computed twice for SDXL",
        "speed",
        "ours",
        "plain",
        official_micro=True,
        checkpointing=frozenset(("sdxl",)),
        pairs=True,
    ),
    Variant("plain", "plain loop with this project's batches", "speed", "ours", "plain"),
    Variant("ours, LoRA", "this project, LoRA", "lora", "ours, LoRA", method="lora"),
    Variant("mixed", "the same, policy and reference in one call", "lora", "ours, LoRA", "mixed", "lora"),
    Variant(
        "plain, LoRA",
        "plain loop, LoRA beside a reference copy, 2 samples at once",
        "lora",
        "ours, LoRA",
        "plain",
        "lora",
        official_micro=True,
    ),
    Variant(
        "ours, checkpointing",
        "this project, gradient checkpointing",
        "checkpointing",
        "ours",
        checkpointing=True,
    ),
    Variant("ours, compiled", "this project, torch.compile", "compile", "ours", compile=True),
)
_HEADER = (
    "side",
    "samples at once",
    "ms/sample",
    "samples/s",
    "its time by that of this project",
    "model FLOPs utilisation",
    "peak memory, MiB",
)


def section(devices: Mapping[str, Any]) -> str:
    """The whole section of `training_speed` for the devices that were measured."""
    parts = [
        "## Speed of a training step",
        "A TGO step (policy, reference, backward, AdamW) on the architectures of Stable Diffusion 1.5 and XL with "
        "random weights: this project's trainer on cached latents and embeddings against plain loops built as the "
        "official scripts are, VAE and text encoder in the loop and a second U-Net as reference. The same images, "
        "loss, optimiser and number of samples in an update on every side; float32 on a CPU, bf16 autocast on a GPU; "
        "images are decoded beforehand. Useful operations are policy forward and backward and reference forward, "
        "counted on the network itself: what is computed twice and the encoders in the loop are none. Peak memory is "
        "that of a step beyond a process that has only its libraries loaded (a GPU's: all that is allocated).",
    ]
    for device, title in DEVICES.items():
        parts.append(f"### {title}")
        measured = devices.get(device)
        parts += _of_device(device, measured) if measured else [_empty()]
    return "\n\n".join(parts)


def _empty() -> str:
    rows = [[variant.title, NOT_MEASURED, *[""] * (len(_HEADER) - 2)] for variant in VARIANTS]
    return table(_HEADER, rows)


def _of_device(device: str, measured: Mapping[str, Any]) -> list[str]:
    work = measured["workload"]
    parts = [
        f"{described(measured['hardware'])} {work['size']} size: {SIZES[work['size']]}; {work['batch']} samples in an "
        f"update, {work['threads']} threads. {_how(device, work)}"
    ]
    for name, architecture in measured["architectures"].items():
        parts += [f"#### {TITLES[name]}", _facts(device, architecture), _table(device, architecture)]
    return parts


def _how(device: str, work: Mapping[str, Any]) -> str:
    if device == "cpu":
        return (
            "All sides are loaded and take turns of two seconds, large matrix products (the peak) among them, so that "
            "changes of the machine's speed fall on all alike; medians over steps. Small batches cost one processor "
            "more than another, and none of this says what a GPU would do."
        )
    return f"One side after the other, each alone on the device; the best of {work['rounds']} rounds."


def _facts(device: str, architecture: Mapping[str, Any]) -> str:
    flops, peak = architecture["useful_flops"], architecture["peak_flops_per_s"]
    losses = architecture["check"]
    worst = max(abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["plain"], strict=True))
    sentences = [
        f"Useful operations: {flops['full'] / 1e9:,.4g} GFLOP a sample, with LoRA {flops['lora'] / 1e9:,.4g}.",
        f"Peak: {peak / 1e12:,.3g} TFLOP/s ({'large matrix products' if device == 'cpu' else 'data sheet'})."
        if peak
        else "Peak: not known for this device; give `--peak`.",
        f"On the same draws both sides have the same losses over {len(losses['ours'])} updates, to {worst:.1e}.",
    ]
    sentences += _factors(architecture["sides"])
    ours = architecture["sides"].get("ours", {})
    rival = architecture["sides"].get("plain")
    if "encode_s_per_sample" in ours and rival:
        once = ours["encode_s_per_sample"]
        ratio = rival["s_per_sample"] / (ours["s_per_sample"] + once)
        sentences.append(
            f"Filling the cache takes {1000 * once:.3g} ms a sample, once: over a single epoch the plain loop "
            f"takes {ratio:.2f} times as long at equal batches."
        )
    return " ".join(sentences)


def _factors(sides: Mapping[str, Any]) -> list[str]:
    """What a ratio is made of: cache and shared reference at equal batches, and what the scripts' settings add."""
    equal = sides.get("plain", {}).get("ratio")
    if not equal:
        return []
    parts = [f"**At equal batches a plain loop takes {equal:.2f} times as long**, by cache and reference."]
    for name, title in (("kto", "Diffusion-KTO's"), ("dpo", "Diffusion-DPO's")):
        if ratio := sides.get(name, {}).get("ratio"):
            parts.append(
                f"{title} settings (batches, what is computed twice) add a factor of {ratio / equal:.2f}."
            )
    return parts


def _table(device: str, architecture: Mapping[str, Any]) -> str:
    rows = [
        _row(device, architecture, variant) for variant in VARIANTS if variant.name in architecture["sides"]
    ]
    return table(_HEADER, rows)


def _row(device: str, architecture: Mapping[str, Any], variant: Variant) -> list[str]:
    side = architecture["sides"][variant.name]
    seconds, peak = side["s_per_sample"], architecture["peak_flops_per_s"]
    rate = architecture["useful_flops"][side["method"]] / seconds
    used = side["peak_bytes"] - side["bare_bytes"] if device == "cpu" else side["peak_device_bytes"]
    ratio = side.get("ratio")
    return [
        variant.title,
        str(side["micro"]),
        f"{1000 * seconds:.4g}",
        f"{1 / seconds:.3g}",
        f"**{ratio:.2f}**" if ratio and variant.against != variant.name else "",
        f"{rate / peak:.1%}" if peak else "",
        f"{used / 2**20:,.0f}",
    ]
