"""Compare base and tuned model on the test prompts; reads models/tuned, writes data/evaluation and its tables."""

from tgo_pipeline import paths
from tgo_pipeline.params import Params


def run(params: Params) -> None:
    """Sample and score both models, write the evaluation tables, metrics and plot."""
    from tgo_pipeline.evaluation.stage import evaluate

    evaluate(
        params,
        prompts=paths.PROMPTS,
        scores=paths.SCORES,
        thresholds=paths.THRESHOLDS,
        model=paths.MODEL,
        folder=paths.EVALUATION_IMAGES,
        table=paths.EVALUATION,
        metrics=paths.METRICS / "evaluate.json",
        plots=paths.PLOTS,
    )


if __name__ == "__main__":
    from stages import main

    main("evaluate")
