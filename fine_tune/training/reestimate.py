"""tau estimated again at the start of every epoch after the first, from images that the policy of that moment draws.

An epoch's samples are labelled and weighed with its tau; a batch that spans two epochs has some of each. The images
are drawn as those of the training set were, from seeds of (run seed, sample, epoch), and a combined target is measured
against the same reference as before, so that a training that resumes finds the same taus.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import TARGET_COMBINATIONS
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.fingerprints import fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

    from fine_tune.data.batches import Encoded, TrainingData
    from fine_tune.data.labels import Labels
    from fine_tune.distributed.processes import Group
    from fine_tune.objectives.base import Objective
    from fine_tune.training.trainer import Trainer
    from tgo_pipeline.generators.stage import PlannedImage
    from tgo_pipeline.params import Params

log = logging.getLogger("tgo")
READS_LABELS = ("tgo", "kto", "bco", "csft", "threshold_contrast")
"""Objectives that train on both sides and ask on which one a sample is."""


def check(params: Params) -> None:
    """Raises `TgoError` where `fine_tune.reestimate` is given and tau cannot be estimated again, or changes nothing."""
    tuning = params.fine_tune
    if tuning.reestimate is None:
        return
    for fails, reason in (
        (
            not params.target_is_scored_anywhere,
            f"the target {params.target.reward} needs feedback, which new images do not have; choose a target of "
            "reward models alone",
        ),
        (
            params.threshold.baseline != "global",
            f"threshold.baseline is {params.threshold.baseline}: only the global tau is estimated again; use "
            "baseline: global",
        ),
        (
            params.target.reward == "majority",
            "the target is majority, whose tau is one half whatever the policy draws; choose another target",
        ),
        (
            tuning.objective not in READS_LABELS or tuning.tgo.labels == "quantile",
            f"{tuning.objective} does not label samples at tau on two sides; use one of {', '.join(READS_LABELS)} "
            "(tgo with labels: threshold)",
        ),
        (
            tuning.positive_share is not None,
            "fine_tune.positive_share draws samples by their side without epochs; set it to null",
        ),
        (
            params.generate.guidance is not None,
            "generate.guidance drew the training images with modules, and the policy draws without; leave it out",
        ),
    ):
        if fails:
            raise TgoError(f"fine_tune.reestimate is given, but {reason}.")


def mark(params: Params, scores: Path, thresholds: Path) -> str | None:
    """What the taus of a training depend on besides its policy; None where they are not estimated again."""
    if params.fine_tune.reestimate is None:
        return None
    from tgo_pipeline.rewards import fingerprint as reward_fingerprint
    from tgo_pipeline.thresholds.targets import reference_folder, scores_fingerprint

    sampling = params.generate
    combined = params.target.reward in TARGET_COMBINATIONS
    return fingerprint(
        first=first_tau(params, thresholds),
        percentile=params.threshold.percentile,
        target=[params.target.reward, params.target_rewards],
        reference=scores_fingerprint(reference_folder(params.threshold, scores)) if combined else None,
        rewards=[reward_fingerprint(spec) for spec in params.target_specs.values()],
        dtype=params.score.dtype,
        sampling=[sampling.guidance_scale, sampling.steps, sampling.width, sampling.height],
        label=params.label,
    )


def first_tau(params: Params, thresholds: Path) -> float:
    """The tau that the labels of the first epoch come from."""
    from tgo_pipeline.thresholds.table import read_thresholds, threshold_row

    tau = threshold_row(read_thresholds(thresholds), params.target.reward)["tau"]
    if tau is None:
        raise TgoError(f"{params.target.reward} has no tau in {thresholds}: run the threshold stage again.")
    return tau


class Estimator:
    """Draws images of some training prompts, scores them with the target's rewards, and takes their percentile."""

    def __init__(
        self,
        pipeline: Any,
        prompts: Sequence[tuple[str, str]],
        params: Params,
        scores: Path,
        hints: Mapping[str, str],
    ) -> None:
        """`prompts` are (prompt_id, prompt); `scores` are those that a combined target is measured against.

        `hints` are the objective's `sampling`, so that the images are those that the result would give.
        """
        from tgo_pipeline.generators.sample import Sampler

        self._params = params
        self._prompts = prompts
        self._sampler = Sampler(pipeline, params.generate, params.runtime.generate_batch_size, hints)
        if self._sampler.fps is not None:
            raise TgoError(
                "fine_tune.reestimate scores images drawn while training, and the model draws clips: set it to null."
            )
        self._reference = _reference(params, scores)

    def read(self) -> None:
        """Let the text encoders read the prompts (`Sampler.read`), which are those of every epoch."""
        self._sampler.read([row.prompt for row in self._rows(1)])

    def draw(self, epoch: int) -> list[Image]:
        """The images of an epoch, by whatever network the pipeline holds now."""
        rows = self._rows(epoch)
        return list(self._sampler.images([row.prompt for row in rows], [row.seed for row in rows]))

    def tau(self, epoch: int, images: Sequence[Image]) -> float:
        """The percentile of the target scores of an epoch's images. Raises `TgoError` if two cannot be scored."""
        from tgo_pipeline.thresholds.estimate import percentile
        from tgo_pipeline.thresholds.targets import finite

        known = finite(self._target(images, [row.prompt for row in self._rows(epoch)]))
        if known.size < 2:
            raise TgoError(
                f"{known.size} of {len(images)} images that tau of epoch {epoch} is estimated from could be scored: "
                "the training may have diverged; lower fine_tune.learning_rate, or raise fine_tune.reestimate.prompts."
            )
        return percentile(known, self._params.threshold.percentile)

    def _rows(self, epoch: int) -> list[PlannedImage]:
        from tgo_pipeline.generators.stage import rows

        options = self._params.fine_tune.reestimate
        count = 1 if options is None else options.images_per_prompt
        return rows(
            self._prompts, images_per_prompt=count, seed=self._params.seed, purpose=f"reestimate-{epoch}"
        )

    def _target(self, images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        from tgo_pipeline.thresholds.targets import combine

        params = self._params
        columns = _score(images, prompts, params)
        if params.target.reward not in TARGET_COMBINATIONS:
            return columns[params.target.reward]
        return combine(columns, params.target.reward, self._reference)


def _reference(params: Params, scores: Path) -> dict[str, np.ndarray]:
    """The scores (M,) of each reward of a combined target that it is measured against."""
    from tgo_pipeline.thresholds.targets import column, read_scores, reference_folder

    if params.target.reward not in TARGET_COMBINATIONS:
        return {}
    frame = read_scores(reference_folder(params.threshold, scores), params.target_rewards)
    return {name: column(frame, name) for name in params.target_rewards}


def _score(images: Sequence[Image], prompts: Sequence[str], params: Params) -> dict[str, np.ndarray]:
    """One float64 column (N,) for each column of the target; rewards are in memory while they score alone."""
    from tgo_pipeline.devices import resolve_device
    from tgo_pipeline.rewards import load_reward, score_all
    from tgo_pipeline.scoring.memory import groups

    wanted, runtime, dtype = params.target_specs, params.runtime, params.score.dtype
    columns: dict[str, np.ndarray] = {}
    for names in groups(wanted, dtype, runtime):
        rewards = {
            spec.column: load_reward(spec, None, resolve_device(runtime.device), dtype)
            for spec in dict.fromkeys(wanted[name] for name in names)
        }
        columns |= score_all(
            rewards, images, prompts, batch_size=runtime.score_batch_size, parts=True
        ).columns
    return {name: columns[name].astype(np.float64) for name in wanted}


def choose_prompts(labels: Labels, encoded: Encoded, params: Params) -> list[tuple[str, str]]:
    """The (prompt_id, prompt) of `fine_tune.reestimate.prompts` labelled prompts, chosen by a hash of their ids."""
    options = params.fine_tune.reestimate
    count = 0 if options is None else options.prompts
    numbers = labels.prompt_ids.numbers
    one = np.empty(numbers.max() + 1, np.int64)
    one[numbers] = np.arange(len(numbers))  # a sample of each prompt, its last
    ids = list(labels.prompt_ids.take(one))
    chosen = sorted(range(len(ids)), key=lambda at: derive_seed(params.seed, ids[at], "reestimate"))[:count]
    rows = encoded.rows(labels.sample_ids.take(one[chosen]))
    return [(ids[at], encoded.prompt(row)) for at, row in zip(chosen, rows, strict=True)]


def relabelled(labels: Labels, tau: float, params: Params, objective: Objective) -> Labels:
    """What the objective makes of all samples, labelled and weighed at another tau.

    Raises `TgoError` if that leaves a side empty: the policy has moved away from the training images.
    """
    from tgo_pipeline.thresholds.labels import labels as label
    from tgo_pipeline.thresholds.labels import weights

    options = params.label
    changed = replace(
        labels,
        label=label(labels.score, tau, options.ties).astype(labels.label.dtype),
        weight=weights(labels.score, tau, options.c, options.scale),
        relative_score=labels.score - tau,
    )
    try:
        return objective.prepare(changed)
    except TgoError as error:
        raise TgoError(
            f"the policy's own images put tau at {tau:g}, while the training images score from "
            f"{labels.score.min():g} to {labels.score.max():g}: {error}"
        ) from error


class Reestimation:
    """Keeps the data of a training labelled with the tau of each epoch; `trainer.thresholds` remembers them."""

    def __init__(
        self,
        trainer: Trainer,
        data: TrainingData,
        estimator: Estimator,
        relabel: Callable[[float], Labels],
        first: float,
        group: Group,
    ) -> None:
        """`first` is the tau of the first epoch, `relabel` gives the labels of another one."""
        self._trainer = trainer
        self._data = data
        self._estimator = estimator
        self._relabel = relabel
        self._group = group
        self._shown: range | None = None
        trainer.thresholds = trainer.thresholds or [first]

    @property
    def tau(self) -> float:
        """That of the latest epoch."""
        return self._trainer.thresholds[-1]

    def advance(self) -> None:
        """Make the data ready for the next batch: estimate tau if it begins an epoch, and label its epochs.

        The epochs that one batch begins share their policy, and with it their tau. All processes have to call it:
        the main one scores and tells the others; sharded weights need all of them to draw.
        """
        epochs = self._data.epochs_of(self._trainer.step)
        taus = self._trainer.thresholds
        if epochs[-1] >= len(taus):
            tau = self._estimate(len(taus))
            taus += [tau] * (epochs[-1] + 1 - len(taus))
        if epochs != self._shown:
            self._data.relabel({epoch: self._relabel(taus[epoch]) for epoch in epochs if epoch > 0})
            self._shown = epochs

    def _estimate(self, epoch: int) -> float:
        group = self._group

        def draw() -> list[Image]:
            if not (group.is_main or group.sharded):
                return []
            with self._trainer.averaged():
                return self._estimator.draw(epoch)

        images = group.agree(draw)
        tau = group.on_main(lambda: self._estimator.tau(epoch, images))
        log.info(
            "epoch %d: tau = %.6g from %d images of the policy, %.6g before",
            epoch,
            tau,
            len(images),
            self.tau,
        )
        return tau
