"""Label every scored sample at tau and weigh it; reads data/scores and data/thresholds.parquet, writes data/labels."""

from stages import Inputs
from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths


def run(params: Params) -> None:
    """Write the label shards, their metrics and the histogram of the weights."""
    from tgo_pipeline.thresholds.labels import label_folder

    label_folder(
        params,
        scores=paths.SCORES,
        thresholds=paths.THRESHOLDS,
        labels=paths.LABELS,
        metrics=paths.METRICS / "label.json",
        plots=paths.PLOTS,
    )


def inputs(params: Params) -> Inputs:
    """What else the labels depend on."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.thresholds.labels import VERSION

    return {"versions": {"label": VERSION}, "files": named_files.proxy(params)}


if __name__ == "__main__":
    from stages import main

    main("label")
