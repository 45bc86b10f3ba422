"""The result of a training: a pipeline folder, or an adapter folder, each with `tgo.json` saying what it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.fine_tune import ALL_LEVELS
from tgo_pipeline.storage.locks import lock
from tgo_pipeline.storage.reproducible import make_reproducible
from tgo_pipeline.storage.shards import stored_metadata
from tgo_pipeline.storage.writing import atomic_folder, sweep_temporaries

if TYPE_CHECKING:
    from fine_tune.policies.base import Policy
    from tgo_pipeline.params import Params
    from tgo_pipeline.storage.shards import Mark

DESCRIPTION = "tgo.json"


@contextlib.contextmanager
def hold(output: Path) -> Iterator[None]:
    """Lock the output folder and sweep what an interrupted write left; an empty folder does not outlast it."""
    with lock(output):
        sweep_temporaries(output)
        try:
            yield
        finally:
            if not any(output.iterdir()):
                output.rmdir()


def stored(output: Path) -> dict[str, Any]:
    """What a result says of itself; empty if the folder is not a complete result."""
    return stored_metadata(output / DESCRIPTION)


def write(output: Path, params: Params, policy: Policy, mark: Mark, sampling: Mapping[str, str]) -> None:
    """Write the tuned model as a whole folder. Raises `TgoError` on a full disk, with nothing half-written.

    `sampling` is how the objective wants its result to be sampled (`Objective.sampling`).
    """
    from tgo_pipeline.generators.networks.notes import quiet

    description = {
        "base": params.model,
        "revision": params.revision,
        "method": params.fine_tune.method,
        "objective": params.fine_tune.objective,
        "steps": params.fine_tune.steps,
        "seed": params.seed,
        "sampling": dict(sampling),
        **({} if (levels := params.fine_tune.noise_levels) == list(ALL_LEVELS) else {"noise_levels": levels}),
        **mark.entries(),
    }
    pipeline = _rest(params, policy.component) if params.fine_tune.method == "full" else None
    with quiet(), atomic_folder(output) as temporary:
        policy.save(temporary, pipeline)
        make_reproducible(temporary)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _rest(params: Params, component: str) -> Any:
    """The whole pipeline around the tuned network, which is not read again unless an adapter lies on the base."""
    from tgo_pipeline.generators import load_pipeline

    pipeline = load_pipeline(params.model, params.revision, described=(component,))
    fuse_adapters(pipeline, params)
    return pipeline


def fuse_adapters(pipeline: Any, params: Params) -> None:
    """Make the adapter that a base model may come with a part of its weights, since training starts from both."""
    from tgo_pipeline.generators.pipelines import fuse_adapter, has_adapter

    if not has_adapter(pipeline):
        return
    if params.fine_tune.method == "lora":
        raise TgoError(
            f"model {params.model} is an adapter itself, and an adapter on top of one cannot be loaded: use "
            "fine_tune.method full, or tune its base."
        )
    fuse_adapter(pipeline)
