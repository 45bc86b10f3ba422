"""The fine_tune stage: encode once, train from where the last run ended, write a folder that `diffusers` loads."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune import result
from fine_tune.checkpoints import Checkpoints, latest_step
from fine_tune.encode import Source, encode_folder, generation_shards
from fine_tune.encode import plan as plan_encoding
from fine_tune.objectives import OBJECTIVES
from tgo_pipeline.errors import TgoError
from tgo_pipeline.fingerprints import fingerprint
from tgo_pipeline.shards import Shard, Stop

if TYPE_CHECKING:
    import torch

    from fine_tune.data import TrainingData
    from fine_tune.labels import Labels
    from fine_tune.validation import Validation
    from tgo_pipeline.params import Params

log = logging.getLogger("tgo")
VERSION = 1
NOT_NUMBERS = ("checkpoint_every", "validation")
"""Keys of `fine_tune` that change no weight."""


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
    from fine_tune.log import SUMMARY

    with result.hold(output):
        labelled = read_labels(labels)
        trained = labelled.only(OBJECTIVES[params.fine_tune.objective].sides)
        _check_join(labelled, labels, generations)
        planned = plan(params, generations)
        mark = _fingerprint(params, labelled, planned)
        kept = Checkpoints(checkpoints, mark)
        if result.stored_fingerprint(output) == mark and (training / SUMMARY).is_file():
            log.info("%s: already the result of these parameters and labels, nothing to do", output)
            kept.clear()
            return
        encode_folder(encoded, source(params, generations), planned, params.runtime)
        data = _training_data(params, trained, encoded, planned)
        with Stop() as stop:
            _train(params, data, kept, training, prompts, stop, output, mark)
        kept.clear()


def plan(params: Params, generations: Path) -> list[Shard]:
    """The shards of the cache of encoded samples; loads no model."""
    return plan_encoding(source(params, generations))


def progress(params: Params, *, labels: Path, generations: Path, output: Path, checkpoints: Path) -> Progress:
    """How far the training is; loads no model and changes nothing."""
    from fine_tune.labels import read_labels

    mark = _fingerprint(params, read_labels(labels), plan(params, generations))
    done = result.stored_fingerprint(output) == mark
    step = params.fine_tune.steps if done else latest_step(checkpoints, mark)
    return Progress(done, step, params.fine_tune.steps)


def source(params: Params, generations: Path) -> Source:
    """What the cache of encoded samples is made of."""
    size = (params.generate.width, params.generate.height)
    return Source(generations, params.model, params.revision, size)


def _fingerprint(params: Params, labels: Labels, planned: Sequence[Shard]) -> str:
    tuning = dataclasses.asdict(params.fine_tune)
    return fingerprint(
        version=VERSION,
        seed=params.seed,
        fine_tune={key: value for key, value in tuning.items() if key not in NOT_NUMBERS},
        labels=labels.fingerprint,
        encoded=[shard.fingerprint for shard in planned],
    )


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


def _training_data(params: Params, labels: Labels, encoded: Path, planned: Sequence[Shard]) -> TrainingData:
    from fine_tune.data import Encoded, TrainingData

    tuning = params.fine_tune
    if tuning.batch_size > len(labels.sample_ids):
        log.warning(
            "fine_tune.batch_size is %d and there are %d samples to train on: a batch holds some of them more than "
            "once, with other noise",
            tuning.batch_size,
            len(labels.sample_ids),
        )
    return TrainingData(
        labels,
        Encoded(encoded, planned),
        seed=params.seed,
        batch_size=tuning.batch_size,
        caption_dropout=tuning.caption_dropout,
    )


def _train(
    params: Params,
    data: TrainingData,
    checkpoints: Checkpoints,
    training: Path,
    prompts: Path,
    stop: Stop,
    output: Path,
    mark: str,
) -> None:
    from fine_tune.log import TrainingLog
    from fine_tune.loop import fit
    from fine_tune.policies import policy_class
    from fine_tune.trainer import Trainer, make_accelerator
    from tgo_pipeline.devices import prepare_torch

    tuning, objective = params.fine_tune, OBJECTIVES[params.fine_tune.objective]
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
        training=TrainingLog(training, trainer.step),
        validation=_validation(params, pipeline, prompts, training),
        stop=stop,
    )
    result.write(output, params, policy, mark)


def _load_base(params: Params, device: torch.device) -> Any:
    """The pipeline, with VAE and text encoder only if pictures are drawn while training; adapters are fused."""
    from fine_tune.policies.base import ENCODING_PARTS
    from tgo_pipeline.generators import load_pipeline

    without = () if params.fine_tune.validation.every else ENCODING_PARTS
    pipeline = load_pipeline(params.model, params.revision, device, without)
    result.fuse_adapters(pipeline, params)
    return pipeline


def _validation(params: Params, pipeline: Any, prompts: Path, training: Path) -> Validation | None:
    from fine_tune.validation import Validation
    from tgo_pipeline.tables import PROMPTS, read_table

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
        folder=training,
        seed=params.seed,
        batch_size=params.runtime.generate_batch_size,
    )
