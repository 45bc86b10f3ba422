"""What drawing and encoding images takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tgo_pipeline.generators.pipelines import cast
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.planning.families import Family
from tgo_pipeline.planning.meter import Cost, Meter, imagined

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STEPS = 2
"""Steps that are imagined: in the second, what the first left behind is there too."""


@dataclass(frozen=True)
class SamplingCost:
    """What drawing takes on one device; bytes at the peak are the weights' and those on top."""

    flops_per_image: float
    weight_bytes: int
    denoiser_bytes: int
    """Those of the weights that are the denoiser's, without modules that guide it."""
    peak_bytes: int

    @property
    def activation_bytes(self) -> int:
        """The peak without the weights."""
        return self.peak_bytes - self.weight_bytes


def drawing(
    family: Family,
    generate: GenerateParams,
    batch: int,
    *,
    sliced: bool = False,
    read: bool = False,
    tiled: bool = False,
) -> SamplingCost:
    """What it takes to draw batches of `batch` images in `generate.precision`, all networks on the device.

    `sliced` is how a GPU decodes, one image at a time (`generators.sample.slice_decoder`). Where the prompts are `read`
    already, text encoders are not on the device (`generators.networks.read_texts`). `tiled` decodes in overlapping
    tiles, which changes the pixels where they meet (`enable_tiling` of diffusers).
    Preference guidance runs the network once more for each module, and holds a module's own weights.
    """
    guidance = generate.guidance
    modules = 0 if guidance is None else (2 if guidance.kind == "cpgd" else 1)
    meter = Meter(imagined=True)
    dtype = DTYPES[generate.precision]
    with torch.no_grad(), imagined():
        parts = _networks(family, sliced)
        if tiled:
            parts[family.vae].enable_tiling()
        policy = family.policy(parts[family.component])
        with _default(dtype):
            for network in parts.values():
                cast(network, generate.precision)
            there = (family.component, family.vae) if read else parts
            own = meter.hold(*(parts[name] for name in there))
            guided = family.guided(generate.guidance_scale)
            text, step, decoding = _draw(family, policy, parts, batch, guided, meter, read)
    denoiser = _bytes_of(parts[family.component])
    added = modules * denoiser
    flops = text + step * family.calls(generate.steps) * (1 + modules) + decoding
    return SamplingCost(flops / batch, own + added, denoiser, meter.peak_bytes + added)


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """New tensors are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _draw(
    family: Family, policy: Any, parts: dict[str, Any], batch: int, guided: bool, meter: Meter, read: bool
) -> tuple[float, float, float]:
    """Operations of the text encoders, of one step, and of decoding.

    What a pipeline still holds when a step begins again, or decoding does, is still held here: it is one function, as
    the pipelines are, and takes two steps.
    """
    marks = []
    with contextlib.nullcontext() if read else meter:
        conditions = family.conditions(parts, batch)
        negative = family.conditions(parts, batch) if guided and family.encodes_negative else None
    with meter:
        sides = [conditions]
        if guided:
            negative = negative or {name: torch.zeros_like(t) for name, t in conditions.items()}
            sides = [negative, conditions]
            if family.guides_together:
                sides = [{name: torch.cat([negative[name], t]) for name, t in conditions.items()}]
        x = family.start(batch)
        marks.append(meter.flops)
        for _ in range(STEPS):
            rows = torch.cat([x, x]) if guided and family.guides_together else x
            answers = [policy.forward(policy.network, family.feed(rows, side)) for side in sides]
            prediction = answers[0]
            if guided:
                without, with_prompt = answers if len(answers) == 2 else prediction.chunk(2)
                prediction = without + 2.0 * (with_prompt - without)
            x = family.step(prediction, x)
        marks.append(meter.flops)
        family.decode(parts, x)
        marks.append(meter.flops)
    return marks[0], (marks[1] - marks[0]) / STEPS, marks[2] - marks[1]


@dataclass(frozen=True)
class Encoding:
    """What filling the cache of encoded samples takes, and the tensors that it holds (shape without the row, dtype)."""

    per_image: Cost
    per_prompt: Cost
    image: dict[str, tuple[tuple[int, ...], torch.dtype]]
    prompt: dict[str, tuple[tuple[int, ...], torch.dtype]]


def encoding(family: Family, batch: int, *, sliced: bool = False) -> Encoding:
    """What encoding takes in batches of `batch` images and prompts, VAE and text encoders on the device."""
    with torch.no_grad(), imagined():
        parts = _networks(family, sliced, without=family.component)
        images, image = _measured(parts, lambda: family.encode(parts, batch))
        prompts, prompt = _measured(parts, lambda: family.conditions(parts, batch))
    return Encoding(
        Cost(images.flops / batch, images.peak_bytes),
        Cost(prompts.flops / batch, prompts.peak_bytes),
        image,
        prompt,
    )


def _measured(
    parts: dict[str, Any], work: Any
) -> tuple[Cost, dict[str, tuple[tuple[int, ...], torch.dtype]]]:
    meter = Meter(imagined=True)
    meter.hold(*parts.values())
    with meter:
        made = work()
    return meter.cost, {name: (tuple(t.shape[1:]), t.dtype) for name, t in made.items()}


def _networks(family: Family, sliced: bool, without: str = "") -> dict[str, Any]:
    """The networks of the pipeline in float32, as the stages load them."""
    parts = {name: family.blueprint.build(name) for name in family.blueprint.networks if name != without}
    if sliced and hasattr(parts[family.vae], "use_slicing"):
        parts[family.vae].enable_slicing()
    return parts


def _bytes_of(network: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
