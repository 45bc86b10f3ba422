"""Compare base, tuned and other models on the test prompts; reads models/tuned, writes data/evaluation and tables."""

from stages import Inputs
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


def inputs(params: Params) -> Inputs:
    """What else the evaluation depends on: it samples and scores as the earlier stages do."""
    from tgo_pipeline.evaluation import stage
    from tgo_pipeline.evaluation.statistics import diversity
    from tgo_pipeline.generators import stage as generators
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.scoring import stage as scoring

    versions = {
        "evaluate": stage.VERSION,
        "generate": generators.VERSION,
        "score": scoring.VERSION,
        "diversity": diversity.VERSION,
    }
    files = named_files.model(params) | named_files.compared_models(params)
    files |= named_files.rewards(params) | named_files.rewards(params, "evaluate")
    files |= named_files.proxy(params) | named_files.published(params)
    return {"versions": versions, "files": files}


if __name__ == "__main__":
    from stages import main

    main("evaluate")
