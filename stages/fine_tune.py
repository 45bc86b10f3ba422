"""Fine-tune the model on the labels; reads data/labels and data/generations, writes models/tuned and training/."""

from stages import Inputs
from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths


def run(params: Params) -> None:
    """Train, or go on with a training that was interrupted."""
    from fine_tune import stage

    stage.run(
        params,
        labels=paths.LABELS,
        generations=paths.GENERATIONS,
        encoded=paths.ENCODED,
        checkpoints=paths.CHECKPOINTS,
        output=paths.MODEL,
        training=paths.TRAINING,
        prompts=paths.PROMPTS,
    )


def inputs(params: Params) -> Inputs:
    """What else the tuned model depends on; rewards and a proxy set only where tau is estimated again on the way."""
    from fine_tune import job
    from fine_tune.data import cache
    from tgo_pipeline.inputs import named_files

    files = named_files.model(params) | named_files.preset(params)
    if params.fine_tune.reestimate is not None:
        files |= named_files.rewards(params) | named_files.proxy(params)
    return {"versions": {"fine_tune": job.VERSION, "encode": cache.VERSION}, "files": files}


if __name__ == "__main__":
    from stages import main

    main("fine_tune")
