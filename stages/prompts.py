"""Read, normalise, deduplicate and split the prompts; reads their sources, writes data/prompts.parquet."""

from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths


def run(params: Params) -> None:
    """Write the prompts and metrics/prompts.json."""
    from tgo_pipeline import prompts

    prompts.write(params.prompts, params.seed, paths.PROMPTS, paths.METRICS / "prompts.json")


if __name__ == "__main__":
    from stages import main

    main("prompts")
