"""What a training reads: labels of the images that there are, their encoded samples, and which train together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fine_tune.data.cache import encode_folder, generation_shards
from fine_tune.distributed.processes import Group
from fine_tune.job import Job, source
from fine_tune.training import reestimate
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from fine_tune.data.batches import TrainingData
    from fine_tune.data.labels import Labels
    from fine_tune.data.units import Units
    from fine_tune.objectives.base import Objective
    from tgo_pipeline.params import Params
    from tgo_pipeline.storage.workspace import Workspace

log = logging.getLogger("tgo")


def open_job(params: Params, workspace: Workspace, group: Group) -> Job:
    """The training of these parameters on the labels that there are."""
    from fine_tune.data.labels import read_labels

    _check_base(params)
    reestimate.check(params)
    labelled = read_labels(workspace.labels)
    _check_join(labelled, workspace.labels, workspace.generations)
    return Job(params, labelled, workspace, group)


def _check_base(params: Params) -> None:
    from tgo_pipeline.generators.location import sampling_hints

    if sampling_hints(params.model):
        raise TgoError(
            f"model {params.model} is the result of an objective that draws with words of its own before the prompt "
            "(csft): they would be lost in a training on top of it. Tune its base instead."
        )


def _check_join(labels: Labels, folder: Path, generations: Path) -> None:
    from fine_tune.data.texts import Texts, release
    from tgo_pipeline.storage.tables import read_columns

    # The bytes are checked when the images are read: those of ten million take an hour.
    files = generation_shards(generations)
    drawn = Texts(read_columns(files, ["sample_id"], check=False)["sample_id"])
    missing = np.flatnonzero(labels.sample_ids.places_in(drawn) < 0)
    del drawn
    release()
    if missing.size:
        raise TgoError(
            f"{missing.size} of {len(labels)} samples of {folder} are not in {generations}, the first is "
            f"{labels.sample_ids[missing[0]]}: the labels belong to other generations. Run score, threshold and label "
            "again."
        )


def encode(job: Job) -> None:
    """Encode every sample into the workspace's cache; what is there already stays."""
    origin = source(job.params, job.workspace.generations)
    encode_folder(job.workspace.encoded, origin, job.planned, job.params.runtime, job.group)


def choose_units(job: Job, objective: Objective) -> tuple[Labels, Units]:
    """The labels that the objective trains on, and which of them train together."""
    tuning = job.params.fine_tune
    if tuning.safeguard is not None and not objective.pushes_away:
        raise TgoError(
            f"fine_tune.safeguard is {tuning.safeguard:g}, but {tuning.objective} pushes away from no sample, or not "
            "by a log-ratio: set it to null, or use tgo, kto, bco, dpo or threshold_contrast."
        )
    labels = objective.prepare(job.labels)
    together = objective.members > 1
    if tuning.positive_share is not None and (together or labels.positive.all() == labels.positive.any()):
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


def training_data(job: Job, objective: Objective, labels: Labels, units: Units) -> TrainingData:
    """What the trainer reads: encoded samples, labels, units, and how they are drawn."""
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
