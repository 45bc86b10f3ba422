"""The fine_tune stage: encode once, train from where the last run ended, write a folder that `diffusers` loads."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune import noise_levels, result
from fine_tune.data.cache import encode_folder, generation_shards
from fine_tune.distributed import start
from fine_tune.distributed.processes import Group, joined
from fine_tune.guidance_modules import NEGATIVE, finish, modules
from fine_tune.job import Job, guided_mark, is_done, module_jobs, plan, progress, source
from fine_tune.objectives import make_objective
from fine_tune.training import reestimate
from fine_tune.training.checkpoints import Checkpoints
from fine_tune.training.trackers import Run, open_trackers, require
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.fine_tune import AUTO
from tgo_pipeline.storage.locks import lock
from tgo_pipeline.storage.shards import Stop
from tgo_pipeline.storage.writing import sweep_temporaries

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    import torch
    from torch import Tensor

    from fine_tune.data.batches import TrainingData
    from fine_tune.data.labels import Labels
    from fine_tune.data.units import Units
    from fine_tune.noise_levels.table import Levels
    from fine_tune.objectives.base import Objective
    from fine_tune.policies.base import Policy
    from fine_tune.reward_backprop.gradient import RewardGradient
    from fine_tune.training.accelerator import Accelerator
    from fine_tune.training.log import TrainingLog
    from fine_tune.training.reestimate import Estimator, Reestimation
    from fine_tune.training.trainer import Trainer
    from fine_tune.training.validation import Validation
    from tgo_pipeline.params import Params
    from tgo_pipeline.storage.shards import Shard
    from tgo_pipeline.storage.workspace import Workspace

log = logging.getLogger("tgo")
__all__ = ["plan", "progress", "run", "source"]


def run(params: Params, workspace: Workspace) -> None:
    """Fine-tune `params.model` on the labelled generations and write the tuned model.

    Resumes exactly from the newest checkpoint of the same parameters and data; does nothing if the model is their
    result already. Raises `TgoError` for inputs that cannot be trained on and for a training that diverges, and
    `Interrupted` after a signal, with a checkpoint of the last finished step. Several processes share the work: those
    of a launcher, or as many as `runtime.processes` and the GPUs allow, which this starts.
    """
    processes = start.count(params)
    if processes > 1:
        start.run(processes, train, params, workspace)
    else:
        train(params, workspace)


def train(params: Params, workspace: Workspace, told: Event | None = None) -> None:
    """Do the work of `run` in this process, one of several if a launcher says so; `told` as `joined` takes it."""
    with joined(params.runtime, told) as (group, runtime), contextlib.ExitStack() as held:
        group.on_main(lambda: held.enter_context(result.hold(workspace.model)))
        group.on_main(lambda: require(params.runtime.trackers))
        job = _job(dataclasses.replace(params, runtime=runtime), workspace, group)
        params = job.params
        if NEGATIVE not in modules(params):
            earlier = workspace.training / NEGATIVE  # the log of a cpgd
            group.on_main(lambda: shutil.rmtree(earlier, ignore_errors=True))
        if modules(params):
            _run_modules(job)
        else:
            _run_one(job)


def _job(params: Params, workspace: Workspace, group: Group) -> Job:
    """The training of these parameters on the labels that there are."""
    from fine_tune.data.labels import read_labels

    _check_base(params)
    reestimate.check(params)
    labelled = read_labels(workspace.labels)
    _check_join(labelled, workspace.labels, workspace.generations)
    return Job(params, labelled, workspace, group)


def _run_modules(job: Job) -> None:
    params, output, group = job.params, job.output, job.group
    mark = guided_mark(job)
    if group.on_main(lambda: mark.fits(result.stored(output))):
        log.info("%s: already the result of these parameters and labels, nothing to do", output)
        return
    for each in module_jobs(job):
        group.on_main(lambda each=each: sweep_temporaries(each.output))
        _run_one(each)
    group.on_main(lambda: finish(params, output, job.workspace.checkpoints, mark))


def _run_one(job: Job) -> None:
    objective = make_objective(job.params.fine_tune)
    trained, units = _units(job, objective)
    kept, group = Checkpoints(job.workspace.checkpoints, job.mark), job.group
    if group.on_main(lambda: is_done(job)):
        log.info("%s: already the result of these parameters and labels, nothing to do", job.output)
    else:
        _encode(job)
        if job.params.fine_tune.noise_levels == AUTO:
            job = job.at_levels(_measured(job, noise_levels.BATCHES).suggested)
        data = _training_data(job, objective, trained, units)
        with group.stop() as stop:
            _train(job, objective, data, kept, stop)
    group.on_main(kept.clear)


def _encode(job: Job) -> None:
    origin = source(job.params, job.workspace.generations)
    encode_folder(job.workspace.encoded, origin, job.planned, job.params.runtime, job.group)


def measure_levels(params: Params, workspace: Workspace, batches: int | None = None) -> list[Levels]:
    """Measure how much signal the first update's gradient has by noise level, of a guidance for each module.

    Writes a table that a training with `noise_levels: auto` takes its range from, if it is of as many batches as that
    would measure. Does nothing where it is there. Errors and processes as in `run`.
    """
    from fine_tune.noise_levels import table

    processes, batches = start.count(params), batches or noise_levels.BATCHES
    if processes > 1:
        start.run(processes, _measure_all, params, workspace, batches)
    else:
        _measure_all(params, workspace, batches)
    job = _job(params, workspace, Group())
    return [table.read(each.workspace.noise_levels) for each in module_jobs(job) or [job]]


def _measure_all(params: Params, workspace: Workspace, batches: int, told: Event | None = None) -> None:
    with joined(params.runtime, told) as (group, runtime):
        job = _job(dataclasses.replace(params, runtime=runtime), workspace, group)
        for each in module_jobs(job) or [job]:
            _encode(each)
            _measured(each, batches)


def _measured(job: Job, batches: int) -> Levels:
    """The signal by noise level at the start of a training: as it was measured before, or measured now."""
    from fine_tune.noise_levels import measure, table, view
    from fine_tune.noise_levels.statistics import Sketches

    if make_objective(job.params.fine_tune).needs_reward:
        raise TgoError(
            f"{job.params.fine_tune.objective} samples images and draws no noise level, so there is none to measure: "
            "leave fine_tune.noise_levels at [0, 1], or choose an objective on stored samples."
        )
    path, mark, group = job.workspace.noise_levels, job.levels_mark(batches), job.group
    found = group.on_main(lambda: table.find(path, mark))
    if found is None:
        log.info("measuring the signal of noise levels before the first update")
        folder = path.with_suffix("")
        with contextlib.ExitStack() as held:
            group.on_main(lambda: held.enter_context(lock(folder)))
            shards = measure.planned(batches, mark)
            size, edges = _sketch(job, folder, shards)

            def write() -> Levels:
                sketches = Sketches.of(measure.read(folder, shards), size, job.params.fine_tune)
                return table.write(path, mark, sketches, edges, job.params.fine_tune.objective)

            found = group.on_main(write)
            group.on_main(lambda: shutil.rmtree(folder))
    if group.is_main:
        log.info("%s, from %s", view.suggestion(found), path)
    return found


def _sketch(job: Job, folder: Path, shards: Sequence[Shard]) -> tuple[int, list[float]]:
    """Write gradients of the first update by bin of levels; the units of a batch, and the edges of the bins."""
    from fine_tune.noise_levels import measure

    tuning, group = job.params.fine_tune, job.group
    objective = make_objective(tuning)
    labels, units = _units(job, objective)
    small = measure.small(tuning, len(units), group)
    job = dataclasses.replace(job, params=dataclasses.replace(job.params, fine_tune=small))
    data = _training_data(job, objective, labels, units)
    base = group.agree(lambda: _prepare(job, objective, data))
    measuring = measure.Measuring(
        base.policy, objective, data, small, job.params.runtime, base.accelerator, group
    )
    if group.is_main:
        log.info("%s", measuring.cost(len(shards), tuning))
    with group.stop() as stop:
        measure.run(folder, shards, measuring, stop)
    return small.batch_size, measuring.edges


def _units(job: Job, objective: Objective) -> tuple[Labels, Units]:
    """The labels that the objective trains on, and which of them train together."""
    tuning = job.params.fine_tune
    if tuning.safeguard is not None and not objective.pushes_away:
        raise TgoError(
            f"fine_tune.safeguard is {tuning.safeguard:g}, but {tuning.objective} pushes away from no sample, or not "
            "by a log-ratio: set it to null, or use tgo, kto, bco, dpo or threshold_contrast."
        )
    labels = objective.prepare(job.labels)
    together = objective.members > 1
    if tuning.positive_share is not None and (together or len(set(labels.positive.tolist())) == 1):
        reason = "pairs, which have samples of both sides each" if together else "samples of one side"
        raise TgoError(
            f"fine_tune.positive_share is {tuning.positive_share:g}, but {tuning.objective} trains on {reason}: set it "
            "to null."
        )
    point = objective.reference_point
    if tuning.by_prompt and point is not None and point.mismatched:
        raise TgoError(
            "fine_tune.by_prompt puts images of one prompt side by side, and the reference point of "
            f"{tuning.objective} takes the next image's prompt for another: set by_prompt to false, or choose another "
            "reference point."
        )
    units = objective.units(labels, job.params.seed)
    if tuning.by_prompt and units.is_dealt:
        raise TgoError(
            f"fine_tune.by_prompt puts samples of one prompt side by side, and {tuning.objective} deals samples of any "
            "prompts: set by_prompt to false."
        )
    return labels, units


def _check_base(params: Params) -> None:
    from tgo_pipeline.generators.location import sampling_hints

    if sampling_hints(params.model):
        raise TgoError(
            f"model {params.model} is the result of an objective that draws with words of its own before the prompt "
            "(csft): they would be lost in a training on top of it. Tune its base instead."
        )


def _check_join(labels: Labels, folder: Path, generations: Path) -> None:
    from tgo_pipeline.storage.tables import read_table

    drawn: set[str] = set()
    for file in generation_shards(generations):
        drawn.update(read_table(file, columns=["sample_id"])["sample_id"].to_pylist())
    missing = [sample_id for sample_id in labels.sample_ids if sample_id not in drawn]
    if missing:
        raise TgoError(
            f"{len(missing)} of {len(labels.sample_ids)} samples of {folder} are not in {generations}, the first is "
            f"{missing[0]}: the labels belong to other generations. Run score, threshold and label again."
        )


def _training_data(job: Job, objective: Objective, labels: Labels, units: Units) -> TrainingData:
    from fine_tune.data.batches import Encoded, Sampling, TrainingData

    tuning = job.params.fine_tune
    point = objective.reference_point
    sampling = Sampling(
        seed=job.params.seed,
        batch_size=tuning.batch_size,
        caption_dropout=tuning.caption_dropout,
        draws=tuning.draws,
        positive_share=tuning.positive_share,
        by_prompt=tuning.by_prompt,
        prefixes=objective.prefixes,
        mismatched=point is not None and point.mismatched,
        unprompted=objective.needs_reward,
    )
    data = TrainingData(labels, Encoded(job.workspace.encoded, job.planned), sampling, units)
    if tuning.batch_size > len(data):
        log.warning(
            "fine_tune.batch_size is %d and there are %d %s to train on: a batch holds some of them more than "
            "once, with other noise",
            tuning.batch_size,
            len(data),
            "samples" if units.members == 1 else "pairs" if units.members == 2 else "units",
        )
    return data


def _train(job: Job, objective: Objective, data: TrainingData, checkpoints: Checkpoints, stop: Stop) -> None:
    from fine_tune.training.loop import fit
    from fine_tune.training.trainer import Trainer

    params, tuning, group = job.params, job.params.fine_tune, job.group
    base = group.agree(lambda: _prepare(job, objective, data))
    own = group.agree(lambda: _reward_gradient(job, objective, base))
    trainer = Trainer(base.policy, objective, data, tuning, params.runtime, base.accelerator, group, own)
    group.on_main(checkpoints.sweep)
    state = checkpoints.load()
    if state is not None:
        trainer.load_state(state)
        log.info("resuming after step %d of %d", state.step, tuning.steps)
    with contextlib.ExitStack() as opened:
        fit(
            trainer,
            tuning,
            checkpoints=checkpoints,
            training=group.agree(
                lambda: opened.enter_context(_log(job, trainer.step)) if group.is_main else None
            ),
            validation=base.validation,
            stop=stop,
            group=group,
            thresholds=group.agree(lambda: _reestimation(job, base.estimator, objective, trainer, data)),
        )
    with trainer.averaged():
        weights = trainer.weights() if group.sharded else {}
        group.on_main(lambda: _write(job, objective, base.policy, weights))


def _reward_gradient(job: Job, objective: Objective, base: Base) -> RewardGradient | None:
    """How an objective that samples images comes by its gradient; None for others."""
    from fine_tune.reward_backprop import assemble
    from fine_tune.reward_backprop.objectives import RewardObjective

    if not isinstance(objective, RewardObjective):
        return None
    return assemble.gradient(
        objective, base.policy, base.pipeline, job.params, job.workspace.scores, base.accelerator, job.group
    )


def _estimator(job: Job, pipeline: Any, objective: Objective, data: TrainingData) -> Estimator | None:
    params = job.params
    if params.fine_tune.reestimate is None:
        return None
    prompts = reestimate.choose_prompts(job.labels, data.encoded, params)
    return reestimate.Estimator(pipeline, prompts, params, job.workspace.scores, objective.sampling)


def _reestimation(
    job: Job, estimator: Estimator | None, objective: Objective, trainer: Trainer, data: TrainingData
) -> Reestimation | None:
    params, labels = job.params, job.labels
    if estimator is None:
        return None
    return reestimate.Reestimation(
        trainer,
        data,
        estimator,
        relabel=lambda tau: reestimate.relabelled(labels, tau, params, objective),
        first=reestimate.first_tau(params, job.workspace.thresholds),
        group=job.group,
    )


def _log(job: Job, step: int) -> TrainingLog:
    """The log of a training from `step` on, with its trackers."""
    from fine_tune.training.log import TrainingLog

    config = {name: value for name, value in dataclasses.asdict(job.params).items() if name != "runtime"}
    name = job.params.fine_tune.objective.replace(":", ".")  # a colon is no part of a file's name everywhere
    run = Run(f"{name}-{job.mark.fingerprint[:8]}", config, job.workspace.runs)
    names = job.params.runtime.trackers
    opened = TrainingLog(
        job.workspace.training, step, lambda written: open_trackers(names, run, step, written)
    )
    if job.asked is not None:
        opened.parameter("noise_levels", job.params.fine_tune.levels)
    return opened


@dataclass(frozen=True)
class Base:
    """What a training starts from, and what draws images with its network on the way."""

    pipeline: Any
    policy: Policy
    accelerator: Accelerator
    validation: Validation | None
    estimator: Estimator | None


def _prepare(job: Job, objective: Objective, data: TrainingData) -> Base:
    from fine_tune.policies.base import ENCODING_PARTS, on_files
    from fine_tune.training.accelerator import Accelerator
    from tgo_pipeline.executors.runtime import prepare_torch

    device = prepare_torch(job.params.runtime)
    accelerator = Accelerator(job.params.fine_tune.precision, device)
    needed = ENCODING_PARTS if _draws(job) else ("vae",) if objective.needs_reward else ()
    pipeline = _load_base(job.params, needed, as_stored=job.group.sharded)
    _put_encoders(pipeline, device)
    validation = _validation(job, pipeline, objective)
    estimator = _estimator(job, pipeline, objective, data)
    if _draws(job):
        for each in filter(None, (validation, estimator)):
            each.read()
    if not job.group.sharded:  # a shard goes to the device when it is cut, and becomes of its type then
        pipeline.to(device)
    with on_files() if job.group.sharded else contextlib.nullcontext():
        policy = _policy(job, pipeline, objective.needs_reference)
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


def _policy(job: Job, pipeline: Any, with_reference: bool) -> Policy:
    from fine_tune.policies import policy_class

    tuning = job.params.fine_tune
    chosen = policy_class(pipeline, tuning.policy)
    return chosen.build(pipeline, tuning, seed=job.params.seed, with_reference=with_reference)


def _write(job: Job, objective: Objective, policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Write the result: of the policy as it is, or of one built again on the CPU that is given whole `weights`."""
    if weights:
        policy = _policy(job, _load_base(job.params), with_reference=False)
        policy.load(weights)
    result.write(job.output, job.params, policy, job.mark, objective.sampling)


def _load_base(params: Params, parts: Collection[str] = (), *, as_stored: bool = False) -> Any:
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


def _validation(job: Job, pipeline: Any, objective: Objective) -> Validation | None:
    from fine_tune.training.validation import Validation
    from tgo_pipeline.storage.tables import PROMPTS, read_table

    params, prompts = job.params, job.workspace.prompts
    if not params.fine_tune.validation.every or not (job.group.is_main or job.group.sharded):
        return None
    rows = read_table(prompts, PROMPTS).to_pylist()
    tests = [(row["prompt_id"], row["prompt"]) for row in rows if row["split"] == "test"]
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
