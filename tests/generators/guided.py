"""Tiny bases of every family with modules to guide them: two adapters and two full networks each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import IMAGE_SIZE, tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tests.tiny_masked import tiny_amused_pipeline, tiny_meissonic_pipeline

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
BUILDERS: dict[str, Callable[..., Path]] = {
    "sd": tiny_diffusion_pipeline,
    "sdxl": tiny_sdxl_pipeline,
    "sd3": tiny_sd3_pipeline,
    "flux": tiny_flux_pipeline,
    "amused": tiny_amused_pipeline,
    "meissonic": tiny_meissonic_pipeline,
}
COMPONENT = dict.fromkeys(BUILDERS, "transformer") | {"sd": "unet", "sdxl": "unet"}


@dataclass(frozen=True)
class Family:
    """A base and its modules on disk, and the name of the network."""

    component: str
    base: Path
    positive: Path
    negative: Path
    full_positive: Path
    full_negative: Path

    draws_tokens: bool

    def network(self, pipeline: Any) -> Any:
        return getattr(pipeline, self.component)


def make_family(name: str, folder: Path) -> Family:
    """Build a family; the SD adapters are on convolutions too, of different ranks."""
    build, component = BUILDERS[name], COMPONENT[name]
    base = build(folder / "base")
    more = ("conv1", "proj_in") if name == "sd" else ()
    for side, seed, rank in (("positive", 1, 2), ("negative", 2, 3)):
        write_lora(base, component, folder / side, seed=seed, rank=rank, targets=[*ATTENTION, *more])
        build(folder / f"full_{side}", seed=seed)
    return Family(
        component,
        *(folder / part for part in ("base", "positive", "negative", "full_positive", "full_negative")),
        draws_tokens=name in ("amused", "meissonic"),
    )


def write_lora(
    base: Path,
    component: str,
    folder: Path,
    *,
    seed: int,
    rank: int = 2,
    targets: Sequence[str] = ATTENTION,
    **config: Any,
) -> None:
    """Write an adapter with random weights and a scale of 2, as the library's network writes its own."""
    import torch
    from peft import LoraConfig

    from tgo_pipeline.generators import load_pipeline

    network = getattr(load_pipeline(str(base)), component)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=2 * rank, target_modules=list(targets), init_lora_weights=False, **config
            )
        )
    network.save_lora_adapter(folder)


def alone(family: Family, folder: Path, adapter: Path | None = None) -> Any:
    """The network of a pipeline folder, perhaps with an adapter, loaded by the library alone."""
    import importlib
    import json

    library, name = json.loads((folder / "model_index.json").read_text())[family.component]
    network = getattr(importlib.import_module(library), name).from_pretrained(folder / family.component)
    if adapter is not None:
        network.load_lora_adapter(adapter, prefix=None, use_safetensors=True)
    return network


def with_adapter(family: Family, adapter: Path) -> Any:
    """The base with an adapter, loaded by the library alone."""
    from tgo_pipeline.generators import load_pipeline

    pipeline = load_pipeline(str(family.base))
    family.network(pipeline).load_lora_adapter(adapter, prefix=None, use_safetensors=True)
    return pipeline


def draw(pipeline: Any, guidance_scale: float = 3.0, steps: int = 2) -> np.ndarray:
    """Two images (2, H, W, 3) in [0, 1]."""
    import torch

    from tgo_pipeline.generators.masked import seeded_by_image

    with seeded_by_image(pipeline):
        images = pipeline(
            prompt=["a cat", "a dog"],
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            width=IMAGE_SIZE,
            height=IMAGE_SIZE,
            output_type="np",
        ).images
    return np.stack(list(images))


def record_call(network: Any, pipeline: Any) -> tuple[tuple, dict[str, Any], Any]:
    """Arguments and result of the network's first call while the pipeline draws."""
    calls: list[tuple[tuple, dict[str, Any], Any]] = []
    hook = network.register_forward_hook(
        lambda _, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    draw(pipeline, steps=1)
    hook.remove()
    return calls[0]


def first_tensor(output: Any) -> Any:
    """The tensor in whatever form a network returns it."""
    import torch

    return output if isinstance(output, torch.Tensor) else output[0]
