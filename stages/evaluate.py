"""Compare base, tuned and other models on the test prompts; reads models/tuned, writes data/evaluation and tables."""

from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths


def run(params: Params) -> None:
    """Sample and score all models, write the evaluation tables, metrics, plot and what is to be cited."""
    from tgo_pipeline.evaluation.stage import evaluate

    evaluate(
        params,
        prompts=paths.PROMPTS,
        scores=paths.SCORES,
        thresholds=paths.THRESHOLDS,
        model=paths.MODEL,
        folder=paths.EVALUATION_IMAGES,
        table=paths.EVALUATION,
        tables=paths.TABLES,
        metrics=paths.METRICS / "evaluate.json",
        plots=paths.PLOTS,
    )


if __name__ == "__main__":
    from stages import main

    main("evaluate")
