"""Read, normalise, deduplicate and split the prompts; reads their sources, writes data/prompts.parquet."""

from stages import Inputs
from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths


def run(params: Params) -> None:
    """Write the prompts and metrics/prompts.json."""
    from tgo_pipeline import prompts

    prompts.write(params.prompts, params.seed, paths.PROMPTS, paths.METRICS / "prompts.json")


def inputs(params: Params) -> Inputs:
    """What else the prompts depend on."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.prompts.build import VERSION

    return {"versions": {"prompts": VERSION}, "files": named_files.prompts(params)}


if __name__ == "__main__":
    from stages import main

    main("prompts")
