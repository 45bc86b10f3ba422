"""Sample images from the model, or take existing ones; reads data/prompts.parquet, writes data/generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgo_pipeline.params import Params
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    from stages import Inputs
    from stages.estimate import Estimate
    from tgo_pipeline.planning.plan import StagePlan, Sure
    from tgo_pipeline.storage.shards import Shard, Status


def run(params: Params, workspace: Workspace = HERE) -> None:
    """Bring the generation shards of the train split up to date."""
    from tgo_pipeline.generators import stage
    from tgo_pipeline.images import import_folder as existing

    if params.generate.source == "images":
        existing.import_folder(workspace.generations, **_images(params, workspace))
    else:
        stage.generate_folder(workspace.generations, **_sampling(params, workspace), runtime=params.runtime)


def plan(params: Params, workspace: Workspace = HERE) -> list[Shard]:
    """The shards that `run` would write; loads no model."""
    from tgo_pipeline.generators import stage
    from tgo_pipeline.images import import_folder as existing

    if params.generate.source == "images":
        return existing.plan(**_images(params, workspace))
    return stage.plan(**_sampling(params, workspace))


def inputs(params: Params) -> Inputs:
    """What else the images depend on."""
    from tgo_pipeline.generators import stage
    from tgo_pipeline.images import import_folder as existing
    from tgo_pipeline.inputs import named_files

    if params.generate.source == "images":
        return {"versions": {"images": existing.VERSION}, "files": named_files.images(params)}
    files = named_files.model(params) | named_files.guidance(params)
    return {"versions": {"generate": stage.VERSION}, "files": files}


def _sampling(params: Params, workspace: Workspace) -> dict[str, Any]:
    return {
        "prompts": _prompts(workspace, "train"),
        "split": "train",
        "model": params.model,
        "revision": params.revision,
        "params": params.generate,
        "images_per_prompt": params.generate.images_per_prompt,
        "seed": params.seed,
        "purpose": "generate",
    }


def _images(params: Params, workspace: Workspace) -> dict[str, Any]:
    return {
        "params": params.generate,
        "split": "train",
        "excluded": {key for key, _ in _prompts(workspace, "test")},
    }


def _prompts(workspace: Workspace, split: str) -> list[tuple[str, str]]:
    from tgo_pipeline.prompts.split import read_split

    return read_split(workspace.prompts, split)


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """How many shards are done, stale and to do."""
    from tgo_pipeline.storage.shards import status

    return status(workspace.generations, plan(params, workspace)), f"shards of {workspace.generations}"


def estimate(run: Estimate) -> StagePlan:
    """What sampling the training images will take."""
    size, sure = _image_bytes(run)
    work = f"{run.images:,} {run.what}s of {run.size}"
    common = {
        "images": run.images,
        "rows": run.images,
        "files": run.shards,
        "disk_bytes": size,
        "disk": sure,
    }
    if not run.drawn:
        return run.stage("generate", work=f"{work}, taken as they are", **common)
    drawing = run.drawing
    return run.stage(
        "generate",
        run.params.generate.precision,
        flops=drawing.flops_per_image * run.images,
        work=work,
        memory_bytes=drawing.peak_bytes,
        parts={"weights": drawing.weight_bytes, "activations": drawing.activation_bytes},
        **common,
    )


def _image_bytes(run: Estimate) -> tuple[int, Sure]:
    """Bytes of the generation shards: of those there are, by their mean, or the most that they can be."""
    from tgo_pipeline.planning import disk
    from tgo_pipeline.storage.stores.stubs import size_bytes

    images, shards = run.images, run.shards
    sizes = [size_bytes(file) for file in run.workspace.generations.glob("train-*.parquet")]
    if sizes and len(sizes) == shards:
        return sum(sizes), "exact"
    if sizes:
        return int(sum(sizes) / len(sizes) * shards), "about"
    return images * (run.most_bytes + 2 * disk.ROW_BYTES) + shards * disk.PARQUET_BYTES, "at most"


if __name__ == "__main__":
    from stages import main

    main("generate")
