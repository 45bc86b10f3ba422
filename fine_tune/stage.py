"""The fine_tune stage: encode once, train from where the last run ended, write a folder that `diffusers` loads."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune import result
from fine_tune.checkpoints import Checkpoints, latest_step
from fine_tune.encode import Source, encode_folder, generation_shards
from fine_tune.encode import plan as plan_encoding
from fine_tune.modules import finish, folder_of, modules
from fine_tune.objectives import OBJECTIVES, make_objective
from tgo_pipeline.errors import TgoError
from tgo_pipeline.fingerprints import fingerprint
from tgo_pipeline.shards import Shard, Stop

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fine_tune.data import TrainingData
    from fine_tune.labels import Labels
    from fine_tune.objectives.base import Objective
    from fine_tune.validation import Validation
    from tgo_pipeline.params import FineTuneParams, Params

log = logging.getLogger("tgo")
VERSION = 2
NOT_NUMBERS = ("checkpoint_every", "validation", "preset", "guidance")
"""Keys of `fine_tune` that change no weight of a training."""


@dataclass(frozen=True)
class Progress:
    """How far a training is; a new run would start from `step` of `steps`."""

    done: bool
    step: int
    steps: int


def run(
    params: Params,
    *,
    labels: Path,
    generations: Path,
    encoded: Path,
    checkpoints: Path,
    output: Path,
    training: Path,
    prompts: Path,
) -> None:
    """Fine-tune `params.model` on the labelled generations and write the result to `output`.

    Resumes exactly from the newest checkpoint of the same parameters and data; does nothing if `output` is their
    result already. Raises `TgoError` for inputs that cannot be trained on and for a training that diverges, and
    `Interrupted` after a signal, with a checkpoint of the last finished step.
    """
    from fine_tune.labels import read_labels

    with result.hold(output):
        labelled = read_labels(labels)
        _check_join(labelled, labels, generations)
        job = Job(params, labelled, generations, encoded, checkpoints, output, training, prompts)
        parts = modules(params)
        if not parts:
            _run_one(job)
            return
        mark = fingerprint(version=VERSION, parts=_marks(job), guidance=params.fine_tune.guidance)
        if result.stored_fingerprint(output) == mark:
            log.info("%s: already the result of these parameters and labels, nothing to do", output)
            return
        for each in _module_jobs(job):
            _run_one(each)
        finish(params, output, checkpoints, mark)


@dataclass(frozen=True)
class Job:
    """One training: its parameters and inputs, and where it writes."""

    params: Params
    labels: Labels
    generations: Path
    encoded: Path
    checkpoints: Path
    output: Path
    training: Path
    prompts: Path

    @property
    def planned(self) -> list[Shard]:
        """The shards of its cache of encoded samples."""
        return plan(self.params, self.generations)

    @property
    def mark(self) -> str:
        """Its fingerprint."""
        return _fingerprint(self.params, self.labels, self.planned)


def _module_jobs(job: Job) -> list[Job]:
    """The trainings of a guidance's modules; the first one's log is the result's."""
    return [
        dataclasses.replace(
            job,
            params=params,
            checkpoints=job.checkpoints / name,
            output=folder_of(job.params, name, job.output, job.checkpoints),
            training=job.training / name if number else job.training,
        )
        for number, (name, params) in enumerate(modules(job.params).items())
    ]


def _marks(job: Job) -> list[str]:
    return [each.mark for each in _module_jobs(job)]


def _run_one(job: Job) -> None:
    from fine_tune.log import SUMMARY

    objective = make_objective(job.params.fine_tune)
    trained, pairs = _units(job, objective)
    kept = Checkpoints(job.checkpoints, job.mark)
    if result.stored_fingerprint(job.output) == job.mark and (job.training / SUMMARY).is_file():
        log.info("%s: already the result of these parameters and labels, nothing to do", job.output)
        kept.clear()
        return
    encode_folder(job.encoded, source(job.params, job.generations), job.planned, job.params.runtime)
    data = _training_data(job, objective, trained, pairs)
    with Stop() as stop:
        _train(job, objective, data, kept, stop)
    kept.clear()


def _units(job: Job, objective: Objective) -> tuple[Labels, np.ndarray | None]:
    """The labels that the objective trains on, and its pairs if it wants pairs."""
    labels = objective.prepare(job.labels)
    if not objective.pairs:
        return labels, None
    from fine_tune.pairs import build_pairs

    if job.params.fine_tune.positive_share is not None:
        raise TgoError(
            f"fine_tune.positive_share is given, but {job.params.fine_tune.objective} trains on pairs, which have one "
            "winner and one loser each: set it to null."
        )
    return labels, build_pairs(labels, job.params.fine_tune.pairs)


def plan(params: Params, generations: Path) -> list[Shard]:
    """The shards of the cache of encoded samples; loads no model."""
    return plan_encoding(source(params, generations))


def progress(params: Params, *, labels: Path, generations: Path, output: Path, checkpoints: Path) -> Progress:
    """How far the training is, or all of a guidance's modules together; loads no model and changes nothing."""
    from fine_tune.labels import read_labels

    nowhere = Path()
    job = Job(params, read_labels(labels), generations, nowhere, checkpoints, output, nowhere, nowhere)
    each = [_progress(one) for one in _module_jobs(job) or [job]]
    return Progress(
        all(one.done for one in each), sum(one.step for one in each), sum(one.steps for one in each)
    )


def _progress(job: Job) -> Progress:
    steps = job.params.fine_tune.steps
    done = result.stored_fingerprint(job.output) == job.mark
    return Progress(done, steps if done else latest_step(job.checkpoints, job.mark), steps)


def source(params: Params, generations: Path) -> Source:
    """What the cache of encoded samples is made of."""
    size = (params.generate.width, params.generate.height)
    prefixes = tuple(sorted({""} | set(_prefixes(params).values())))
    return Source(generations, params.model, params.revision, size, prefixes)


def _prefixes(params: Params) -> Mapping[int, str]:
    """What stands before the prompts of each side; modules of a guidance have none."""
    return {} if modules(params) else make_objective(params.fine_tune).prefixes


def _fingerprint(params: Params, labels: Labels, planned: Sequence[Shard]) -> str:
    return fingerprint(
        version=VERSION,
        seed=params.seed,
        fine_tune=_numbers(params.fine_tune),
        labels=labels.fingerprint,
        encoded=[shard.fingerprint for shard in planned],
    )


def _numbers(tuning: FineTuneParams) -> dict[str, Any]:
    """The parameters that this training reads: not other objectives' options, nor an adapter's in full training."""
    unused = {*NOT_NUMBERS, *(name for name in OBJECTIVES if name != tuning.objective)}
    if tuning.method == "full":
        unused.add("lora")
    if not OBJECTIVES[tuning.objective].pairs:
        unused.add("pairs")
    return {key: value for key, value in dataclasses.asdict(tuning).items() if key not in unused}


def _check_join(labels: Labels, folder: Path, generations: Path) -> None:
    from tgo_pipeline.tables import read_table

    drawn: set[str] = set()
    for file in generation_shards(generations):
        drawn.update(read_table(file, columns=["sample_id"])["sample_id"].to_pylist())
    missing = [sample_id for sample_id in labels.sample_ids if sample_id not in drawn]
    if missing:
        raise TgoError(
            f"{len(missing)} of {len(labels.sample_ids)} samples of {folder} are not in {generations}, the first is "
            f"{missing[0]}: the labels belong to other generations. Run score, threshold and label again."
        )


def _training_data(job: Job, objective: Objective, labels: Labels, pairs: np.ndarray | None) -> TrainingData:
    from fine_tune.data import Encoded, Sampling, TrainingData

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
    )
    data = TrainingData(labels, Encoded(job.encoded, job.planned), sampling, pairs)
    if tuning.batch_size > len(data):
        log.warning(
            "fine_tune.batch_size is %d and there are %d %s to train on: a batch holds some of them more than "
            "once, with other noise",
            tuning.batch_size,
            len(data),
            "samples" if pairs is None else "pairs",
        )
    return data


def _train(job: Job, objective: Objective, data: TrainingData, checkpoints: Checkpoints, stop: Stop) -> None:
    from fine_tune.log import TrainingLog
    from fine_tune.loop import fit
    from fine_tune.policies import policy_class
    from fine_tune.trainer import Trainer, make_accelerator
    from tgo_pipeline.devices import prepare_torch

    params, tuning = job.params, job.params.fine_tune
    device = prepare_torch(params.runtime)
    accelerator = make_accelerator(tuning, device)
    pipeline = _load_base(params, device)
    policy = policy_class(pipeline).build(
        pipeline, tuning, seed=params.seed, with_reference=objective.needs_reference
    )
    trainer = Trainer(policy, objective, data, tuning, params.runtime, accelerator)
    state = checkpoints.load()
    if state is not None:
        trainer.load_state(state)
        log.info("resuming after step %d of %d", state.step, tuning.steps)
    fit(
        trainer,
        tuning,
        checkpoints=checkpoints,
        training=TrainingLog(job.training, trainer.step),
        validation=_validation(job, pipeline, objective),
        stop=stop,
    )
    with trainer.averaged():
        result.write(job.output, params, policy, job.mark, objective.sampling)


def _load_base(params: Params, device: torch.device) -> Any:
    """The pipeline, with VAE and text encoder only if pictures are drawn while training; adapters are fused."""
    from fine_tune.policies.base import ENCODING_PARTS
    from tgo_pipeline.generators import load_pipeline

    without = () if params.fine_tune.validation.every else ENCODING_PARTS
    pipeline = load_pipeline(params.model, params.revision, device, without)
    result.fuse_adapters(pipeline, params)
    return pipeline


def _validation(job: Job, pipeline: Any, objective: Objective) -> Validation | None:
    from fine_tune.validation import Validation
    from tgo_pipeline.tables import PROMPTS, read_table

    params, prompts = job.params, job.prompts
    if not params.fine_tune.validation.every:
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
        folder=job.training,
        seed=params.seed,
        batch_size=params.runtime.generate_batch_size,
        hints=objective.sampling,
    )
