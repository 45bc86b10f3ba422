"""Fine-tune the model on the labels; reads data/labels and data/generations, writes models/tuned and training/."""

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


if __name__ == "__main__":
    from stages import main

    main("fine_tune")
