"""What a training starts from: the base model, its policy, and what draws images with it on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fine_tune import result
from fine_tune.job import Job
from fine_tune.training import reestimate
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    import torch

    from fine_tune.data.batches import TrainingData
    from fine_tune.objectives.base import Objective
    from fine_tune.policies.base import Policy
    from fine_tune.training.accelerator import Accelerator
    from fine_tune.training.reestimate import Estimator
    from fine_tune.training.validation import Validation
    from tgo_pipeline.params import Params


@dataclass(frozen=True)
class Base:
    """What a training starts from, and what draws images with its network on the way."""

    pipeline: Any
    policy: Policy
    accelerator: Accelerator
    validation: Validation | None
    estimator: Estimator | None


def prepare(job: Job, objective: Objective, data: TrainingData) -> Base:
    """Load the base and all that training it needs, on this process's device."""
    from fine_tune.policies.base import ENCODING_PARTS, on_files
    from fine_tune.training.accelerator import Accelerator
    from tgo_pipeline.executors.runtime import prepare_torch

    device = prepare_torch(job.params.runtime)
    accelerator = Accelerator(job.params.fine_tune.precision, device)
    needed = ENCODING_PARTS if _draws(job) else ("vae",) if objective.needs_reward else ()
    pipeline = load_base(job.params, needed, as_stored=job.group.sharded)
    _put_encoders(pipeline, device)
    validation = _validation(job, pipeline, objective)
    estimator = _estimator(job, pipeline, objective, data)
    if _draws(job):
        for each in filter(None, (validation, estimator)):
            each.read()
    if not job.group.sharded:  # a shard goes to the device when it is cut, and becomes of its type then
        pipeline.to(device)
    with on_files() if job.group.sharded else contextlib.nullcontext():
        policy = build_policy(job, pipeline, objective.needs_reference)
    return Base(pipeline, policy, accelerator, validation, estimator)


def _draws(job: Job) -> bool:
    """Whether this process draws images on the way: the main one, or all that hold a shard of the network."""
    tuning = job.params.fine_tune
    drawn = bool(tuning.validation.every) or tuning.reestimate is not None
    return drawn and (job.group.is_main or job.group.sharded)


def _put_encoders(pipeline: Any, device: torch.device) -> None:
    """The decoder of a pipeline on the device, for it takes little; its text encoders aside."""
    from fine_tune.policies.base import ENCODING_PARTS
    from tgo_pipeline.generators.networks.read_texts import put_aside

    put_aside(pipeline, device)
    for name in ENCODING_PARTS:
        if (part := pipeline.components.get(name)) is not None:
            part.to(device)


def _validation(job: Job, pipeline: Any, objective: Objective) -> Validation | None:
    from fine_tune.training.validation import Validation
    from tgo_pipeline.prompts.split import read_split

    params, prompts = job.params, job.workspace.prompts
    if not params.fine_tune.validation.every or not (job.group.is_main or job.group.sharded):
        return None
    tests = read_split(prompts, "test")
    if not tests:
        raise TgoError(
            f"{prompts} has no test prompt to draw validation images for: set fine_tune.validation.every to 0, or "
            "give the prompts section a test source."
        )
    wanted = params.fine_tune.validation.prompts
    return Validation(
        pipeline,
        tests[:: max(1, len(tests) // wanted)][:wanted],  # some of every test set
        params.generate,
        folder=job.workspace.training,
        seed=params.seed,
        batch_size=params.runtime.generate_batch_size,
        hints=objective.sampling,
        writes=job.group.is_main,
    )


def _estimator(job: Job, pipeline: Any, objective: Objective, data: TrainingData) -> Estimator | None:
    params = job.params
    if params.fine_tune.reestimate is None:
        return None
    prompts = reestimate.choose_prompts(job.labels, data.encoded, params)
    return reestimate.Estimator(pipeline, prompts, params, job.workspace.scores, objective.sampling)


def build_policy(job: Job, pipeline: Any, with_reference: bool) -> Policy:
    """The policy of the base's family, with the parameters that are trained."""
    from fine_tune.policies import policy_class

    tuning = job.params.fine_tune
    chosen = policy_class(pipeline, tuning.policy)
    return chosen.build(pipeline, tuning, seed=job.params.seed, with_reference=with_reference)


def load_base(params: Params, parts: Collection[str] = (), *, as_stored: bool = False) -> Any:
    """The pipeline on the CPU, adapters fused; of VAE and text encoders (`ENCODING_PARTS`) those in `parts`.

    `as_stored` leaves the weights to be tuned in their file, in its type; not those that an adapter changes.
    """
    from fine_tune.policies.base import ENCODING_PARTS, base_precision
    from tgo_pipeline.generators import load_pipeline
    from tgo_pipeline.generators.location import locate

    without = tuple(part for part in ENCODING_PARTS if part not in parts)
    is_whole = locate(params.model, params.revision).adapter is None
    held = "stored" if as_stored and is_whole else base_precision(params.fine_tune)
    pipeline = load_pipeline(params.model, params.revision, "cpu", without, held=held)
    result.fuse_adapters(pipeline, params)
    return pipeline
