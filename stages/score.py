"""Score every image with every reward, and take the feedback; reads data/generations, writes data/scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages import Inputs
from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths

if TYPE_CHECKING:
    from tgo_pipeline.storage.shards import Shard


def run(params: Params) -> None:
    """Bring the score shards up to date."""
    from tgo_pipeline.scoring.stage import score_folder

    score_folder(
        paths.GENERATIONS,
        paths.SCORES,
        params.score.rewards,
        runtime=params.runtime,
        max_error_rate=params.score.max_error_rate,
        dtype=params.score.dtype,
        feedback=params.score.feedback,
        metrics=paths.METRICS / "score.json",
    )


def plan(params: Params) -> list[Shard]:
    """The shards that `run` would write; loads no model."""
    from tgo_pipeline.scoring.stage import plan

    return plan(paths.GENERATIONS, params.score.rewards, params.score.dtype, params.score.feedback)


def inputs(params: Params) -> Inputs:
    """What else the scores depend on; the version of a reward's code is in the digest of its files."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.scoring.stage import VERSION

    versions = {"score": VERSION}
    if params.score.feedback:
        from tgo_pipeline.feedback import columns

        versions["feedback"] = columns.VERSION
    return {"versions": versions, "files": named_files.rewards(params) | named_files.feedback(params)}


if __name__ == "__main__":
    from stages import main

    main("score")
