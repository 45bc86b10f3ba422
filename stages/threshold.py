"""Estimate tau and its uncertainty for every reward; reads data/scores, writes data/thresholds.parquet and plots."""

from stages import Inputs
from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths


def run(params: Params) -> None:
    """Fit the thresholds table."""
    from tgo_pipeline.thresholds.stage import fit_folder

    fit_folder(
        params,
        scores=paths.SCORES,
        thresholds=paths.THRESHOLDS,
        metrics=paths.METRICS / "threshold.json",
        plots=paths.PLOTS,
    )


def inputs(params: Params) -> Inputs:
    """What else the thresholds depend on."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.thresholds.stage import VERSION

    return {"versions": {"threshold": VERSION}, "files": named_files.proxy(params)}


if __name__ == "__main__":
    from stages import main

    main("threshold")
