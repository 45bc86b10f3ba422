"""`tgo plan`: what a run will take, before anything is spent."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import PARAMS, STAGES
from tgo_pipeline.storage.chunks import MOST_ROWS

DIVIDED = ("generate", "score")
"""Stages whose devices take whole shards."""

if TYPE_CHECKING:
    from stages.estimate import Estimate
    from tgo_pipeline.params import Params
    from tgo_pipeline.planning.gpus import Device
    from tgo_pipeline.planning.plan import Plan, StagePlan


def plan(
    params: Path = PARAMS,
    gpu: str = typer.Option(
        None,
        metavar="NAME",
        help="B200, H200, H100, A100-80, L40S, RTX4090, ..., or cpu; none: what is here.",
    ),
    gpu_tflops: float = typer.Option(
        None,
        min=1e-3,
        metavar="N",
        help="A GPU that the table lacks: tera-operations a second in half precision, dense, by its data sheet.",
    ),
    gpu_memory: float = typer.Option(None, min=1e-3, metavar="GB", help="And its memory."),
    gpus: int = typer.Option(
        1, "--gpus", "--gpus-per-node", min=1, metavar="N", help="How many of them a node has."
    ),
    nodes: int = typer.Option(1, min=1, metavar="N", help="How many nodes there are (docs/SCALE.md)."),
    price: float = typer.Option(
        None, min=0, metavar="DOLLARS", help="What a GPU costs an hour, for a column of dollars."
    ),
    prompts: int = typer.Option(
        None,
        min=1,
        max=MOST_ROWS,
        metavar="N",
        help="Training prompts to plan for, by default those there are.",
    ),
    test_prompts: int = typer.Option(
        None, min=1, max=MOST_ROWS, metavar="N", help="Test prompts to plan for, likewise."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say what a run will take before anything is spent: images, files, disk, operations, memory, hours."""
    from tgo_pipeline.params import load_params
    from tgo_pipeline.planning import plan as planned
    from tgo_pipeline.planning.gpus import device
    from tgo_pipeline.rendering.terminal import show

    there = device(gpu, gpu_tflops, gpu_memory)
    made = make(load_params(params), there, gpus * nodes, prompts, test_prompts, price)
    if as_json:
        typer.echo(json.dumps(made.as_json(), indent=2))
    else:
        show(planned.show(made), planned.WIDE)


def make(
    params: Params,
    device: Device,
    gpus: int = 1,
    prompts: int | None = None,
    test_prompts: int | None = None,
    price: float | None = None,
) -> Plan:
    """The plan of all stages; `prompts` and `test_prompts` are how many to plan for; by default those there are.

    `price` is that of a GPU and an hour.

    Raises `TgoError` if the model's configuration cannot be read, or the prompts cannot be counted.
    """
    from stages.estimate import Estimate
    from tgo_pipeline.planning.plan import Plan
    from tgo_pipeline.plugins.folder import NotChecked, looking

    run = Estimate(params, device, gpus, prompts, test_prompts)
    estimated = (importlib.import_module(f"stages.{name}") for name in STAGES)
    stages: list[StagePlan] = []
    left_out: list[str] = []
    with looking():
        for stage in estimated:
            try:
                stages += [stage.estimate(run)] if hasattr(stage, "estimate") else []
            except NotChecked as error:
                left_out.append(f"{stage.__name__.removeprefix('stages.')} is left out, {error}")
        warnings = (*left_out, *_warnings(run, stages))
        return Plan(params.model, device, gpus, tuple(stages), warnings, price)


def _warnings(run: Estimate, stages: Sequence[StagePlan]) -> list[str]:
    """What will not fit, and what was not counted."""
    from tgo_pipeline.doctor.resources import CLOSE
    from tgo_pipeline.planning.plan import amount

    found = []
    memory = run.device.memory_gb
    for stage in stages:
        if memory is not None and stage.memory_bytes > CLOSE * memory * 1e9:
            found.append(
                f"{stage.stage} takes {amount(stage.memory_bytes)}B, and {run.device.name} has {memory:.4g} GB: "
                f"{_advice(stage.stage, run.params, run.gpus)}."
            )
            found += [_smaller(run)] if stage.stage == "generate" and run.family.frames else []
    few = [stage for stage in stages if stage.hours and 0 < stage.files < run.gpus and stage.stage in DIVIDED]
    for stage in few:
        found.append(
            f"{stage.stage} has {stage.files} shards for {run.gpus} devices: lower generate.shard_size "
            f"({run.params.generate.shard_size})."
        )
    return [*found, *_not_counted(run.params)]


def _not_counted(params: Params) -> Iterator[str]:
    """What rewards take that cannot be known before they run."""
    from tgo_pipeline.rewards.specs import resolve_all

    specs = resolve_all({**params.score.rewards, **params.evaluate.rewards})
    if own := [name for name, spec in specs.items() if ":" in spec.reward]:
        yield f"not counted: {', '.join(own)}, rewards of your own."
    if named := [name for name, spec in specs.items() if spec.reward == "vqascore"]:
        yield f"not counted: {', '.join(named)}, which takes what the model takes that you named."
    if asked := [name for name, spec in specs.items() if spec.reward == "judge"]:
        yield f"not counted: {', '.join(asked)}, which asks a server about every image, at its own speed and price."
    if read := [name for name, spec in specs.items() if spec.reward == "ocr"]:
        yield f"not counted: {', '.join(read)}, which reads text on CPUs."


def _smaller(run: Estimate) -> str:
    """What diffusers can do for a clip that is too large, and what it leaves."""
    from tgo_pipeline.planning.plan import amount

    alone, tiled = (amount(run.smallest_drawing(tiled).peak_bytes) for tiled in (False, True))
    return (
        f"one clip of {run.size} takes {alone}B with the text encoders off the device (enable_model_cpu_offload of "
        f"diffusers), and {tiled}B if the VAE decodes it in tiles besides (vae.enable_tiling), which changes pixels "
        "where tiles meet; the stages do neither."
    )


def _advice(stage: str, params: Params, gpus: int) -> str:
    runtime, tuning = params.runtime, params.fine_tune
    if stage in ("generate", "evaluate"):
        return f"lower runtime.generate_batch_size ({runtime.generate_batch_size})"
    if stage == "score":
        return (
            "lower runtime.score_batch_size, or let runtime.score_memory_gb load rewards one after the other"
        )
    sizes = {
        "runtime.micro_batch_size ({})": runtime.micro_batch_size or tuning.batch_size,
        "runtime.generate_batch_size ({}, for encoding)": runtime.generate_batch_size,
    }
    smaller = [key.format(size) for key, size in sizes.items() if size > 1]
    more = [] if runtime.gradient_checkpointing else ["runtime.gradient_checkpointing: true"]
    more += ["fine_tune.method: lora"] if tuning.method == "full" else []
    more += ["configs/accelerate/fsdp2.yaml, which cuts weights and states into shards"] if gpus > 1 else []
    if not smaller:
        return f"set {', '.join(more)}" if more else "take a GPU with more memory"
    return f"lower {' and '.join(smaller)}" + (f"; or {', '.join(more)}" if more else "")
