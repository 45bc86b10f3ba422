"""Fine-tune the model on the labels; reads data/labels and data/generations, writes models/tuned and training/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgo_pipeline.params import FineTuneParams, Params
from tgo_pipeline.params.fine_tune import MEASURED
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    from fine_tune.footprint import Footprint
    from stages import Inputs
    from stages.estimate import Estimate
    from tgo_pipeline.params.checks import Precision
    from tgo_pipeline.planning.plan import StagePlan
    from tgo_pipeline.storage.shards import Status


def run(params: Params, workspace: Workspace = HERE) -> None:
    """Train, or continue a training that was interrupted."""
    from fine_tune import stage

    stage.run(params, workspace)


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """How many steps are done and to do."""
    from fine_tune.stage import progress
    from tgo_pipeline.storage.shards import Status

    now = progress(params, workspace)
    left = now.steps - now.step
    return Status(now.step, left * now.stale, left * (not now.stale), 0), f"steps of {workspace.model}"


def estimate(run: Estimate) -> StagePlan:
    """What encoding, training and the images drawn on the way will take."""
    from tgo_pipeline.planning.plan import StagePlan

    tuning = run.params.fine_tune
    feet = list(run.footprints.values())
    encoding, largest = run.encoding, max(feet, key=lambda foot: foot.peak_bytes)
    extra_flops, extra_bytes, peak = _validation(run, largest)
    encoder = encoding.per_image.times(run.images).then(encoding.per_prompt.times(len(run.train) + 1))
    training = sum(foot.flops_per_step * (tuning.steps + _measuring(tuning)) for foot in feet)
    precision: Precision = tuning.precision if run.device.name != "cpu" else "fp32"
    sizes = _sizes(run, feet)
    hours = run.device.hours(encoder.flops + extra_flops, "fp32") + run.device.hours(training, precision)
    name = tuning.objective if len(feet) == 1 else f"{len(feet)} modules of {tuning.objective}"
    return StagePlan(
        stage="fine_tune",
        work=f"{tuning.steps:,} steps of {tuning.batch_size:,}, {name}, {tuning.method}",
        files=int(sizes.pop("files")),
        disk_bytes=int(sum(sizes.values())),
        disk="exact" if run.drawn and run.given is None and run.trained.frames is None else "about",
        flops=encoder.flops + training + extra_flops,
        precision=precision,
        memory_bytes=max(encoder.peak_bytes, peak, extra_bytes),
        hours=hours / run.gpus,
        parts={
            "weights": largest.weight_bytes,
            "reference": largest.reference_bytes,
            "gradients": largest.gradient_bytes,
            "optimizer": largest.optimizer_bytes,
            "average": largest.average_bytes,
            "activations": largest.activation_bytes,
            "encoding": encoder.peak_bytes,
            "training": training,
            **{f"{name} on disk": size for name, size in sizes.items()},
        },
    )


def _measuring(tuning: FineTuneParams) -> float:
    """As how many updates it counts to measure noise levels."""
    from fine_tune import noise_levels

    if tuning.noise_levels not in MEASURED:
        return 0.0
    return noise_levels.BATCHES * noise_levels.BINS * min(1.0, noise_levels.UNITS / tuning.batch_size)


def _validation(run: Estimate, foot: Footprint) -> tuple[float, int, int]:
    """Operations of images that are drawn on the way, the peak while they are, and that of the training.

    Text encoders read the prompts before the network is there, which takes less than encoding the training set.
    """
    validation, drawing = run.params.fine_tune.validation, run.drawing_while_training
    if not validation.every:
        return 0.0, 0, foot.peak_bytes
    times = run.params.fine_tune.steps // validation.every + 1
    prompts = min(validation.prompts, len(run.test)) * len(run.footprints)
    guided = run.family.guided(run.params.generate.guidance_scale) and run.family.encodes_negative
    flops = prompts * (times * drawing.flops_per_image + (1 + guided) * run.encoding.per_prompt.flops)
    decoder = drawing.weight_bytes - drawing.denoiser_bytes
    while_drawing = foot.state_bytes + decoder + drawing.activation_bytes
    return flops, while_drawing, foot.peak_bytes + decoder


def _sizes(run: Estimate, feet: list[Footprint]) -> dict[str, float]:
    """Bytes of the encoded cache, of a checkpoint and of the result, and the number of their files."""
    from stages.estimate import SAMPLE_ID
    from tgo_pipeline.planning import disk

    texts = ["", *sorted({text for _, text in run.train} - {""})]
    from fine_tune.data.cache import PROMPTS_PER_SHARD

    chunks = [texts[start : start + PROMPTS_PER_SHARD] for start in range(0, len(texts), PROMPTS_PER_SHARD)]
    parts = run.listed if run.drawn else [[("x" * SAMPLE_ID, "")] * run.images]
    foot = feet[0]
    checkpoint = disk.safetensors_bytes(foot.trained, {}) + disk.safetensors_bytes(foot.optimizer, {})
    checkpoint += disk.safetensors_bytes(foot.trained, {}) if foot.average_bytes else 0
    return {
        "files": run.shards + len(chunks) + len(feet) * _result_files(run),
        "encoded": disk.encoded_bytes(
            parts,
            [(chunk, run.trained.cached(run.encoding.prompt, chunk)) for chunk in chunks],
            run.encoding.image,
        ),
        "checkpoint": checkpoint,
        "result": len(feet) * _result_bytes(run, foot),
    }


def _result_files(run: Estimate) -> int:
    return 1 if run.params.fine_tune.method == "lora" else len(run.blueprint.networks)


def _result_bytes(run: Estimate, foot: Footprint) -> int:
    """Weight files of the result: an adapter, or every network of the pipeline."""
    from tgo_pipeline.planning import disk
    from tgo_pipeline.planning.meter import imagined

    if run.params.fine_tune.method == "lora":
        return disk.safetensors_bytes(foot.trained, {})
    blueprint = run.blueprint
    with imagined():
        return sum(disk.network_bytes(blueprint.build(name)) for name in blueprint.networks)


def inputs(params: Params) -> Inputs:
    """What else the tuned model depends on; rewards and a proxy set only where images are scored on the way."""
    from fine_tune import job, noise_levels
    from fine_tune.data import cache
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.params import reward_gradient

    files = named_files.model(params) | named_files.preset(params) | named_files.own_parts(params)
    if params.fine_tune.reestimate is not None or params.fine_tune.objective in reward_gradient.OBJECTIVES:
        files |= named_files.rewards(params) | named_files.proxy(params)
    versions = {"fine_tune": job.VERSION, "encode": cache.VERSION}
    if params.fine_tune.noise_levels in MEASURED:
        versions["noise_levels"] = noise_levels.VERSION
    return {"versions": versions, "files": files}


if __name__ == "__main__":
    from stages import main

    main("fine_tune")
