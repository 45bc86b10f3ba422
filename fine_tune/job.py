"""What one training is made of, where it writes, what tells it from another, and how far it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune import noise_levels, result
from fine_tune.data.cache import EncodingSource, generation_shards
from fine_tune.data.cache import plan as plan_encoding
from fine_tune.distributed.processes import Group
from fine_tune.guidance_modules import folder_of, modules
from fine_tune.objectives import OBJECTIVES, make_objective, objective_class
from fine_tune.training import reestimate
from fine_tune.training.checkpoints import latest_step
from fine_tune.training.importance import Importance
from tgo_pipeline.params.fine_tune import ALL_LEVELS, IMPORTANCE, MEASURED
from tgo_pipeline.plugins.kinds import OBJECTIVE
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Mark, Shard
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from fine_tune.data.labels import Labels
    from fine_tune.noise_levels.table import Levels
    from tgo_pipeline.params import FineTuneParams, Params

VERSION = 2
NOT_NUMBERS = ("checkpoint_every", "validation", "preset", "guidance", "guard", "held_out")
"""Keys of `fine_tune` that change no weight of a training."""
AFTER_THE_START = (
    "noise_levels",
    "steps",
    "learning_rate",
    "warmup_steps",
    "schedule",
    "optimizer",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "ema",
    "reestimate",
)
"""Keys that do not change the first update's gradient."""


@dataclass(frozen=True)
class Progress:
    """How far a training is; a new run would start from `step` of `steps`."""

    done: bool
    step: int
    steps: int
    stale: bool = False
    """Whether there is a result, of another training."""


@dataclass(frozen=True)
class Job:
    """One training: its parameters and inputs, and where it writes."""

    params: Params
    labels: Labels
    workspace: Workspace
    group: Group = dataclasses.field(default_factory=Group)
    asked: Params | None = None
    """The parameters as given, where `params` has measured noise levels in place of `auto`."""
    importance: Importance | None = None
    """How noise levels are drawn, where the parameters say so and it has been measured."""

    @property
    def output(self) -> Path:
        """Where the result goes."""
        return self.workspace.model

    @functools.cached_property
    def planned(self) -> list[Shard]:
        """The shards of its cache of encoded samples; every image's prompt is read for it, once."""
        return plan(self.params, self.workspace.generations)

    @functools.cached_property
    def mark(self) -> Mark:
        """What tells it from another training; the labels are in its fingerprint by what they hold."""
        given = self.asked or self.params
        anew = reestimate.mark(given, self.workspace.scores, self.workspace.thresholds)
        own = {} if anew is None else {"reestimate": anew}
        if objective_class(self.params.fine_tune.objective).needs_reward:
            from fine_tune.reward_backprop import scores

            own["reward"] = scores.mark(self.params, self.workspace.scores)
        if given.fine_tune.noise_levels in MEASURED:
            own["levels"] = self.levels_mark(noise_levels.BATCHES).fingerprint
        content = _fingerprint(given.seed, _numbers(given.fine_tune), self.labels, self.planned, **own)
        return Mark(content, _images(self.workspace.generations))

    def levels_mark(self, batches: int) -> Mark:
        """What tells a measurement of its noise levels from another one: how it goes on after the start is no part."""
        numbers = _numbers(self.params.fine_tune)
        start = {key: value for key, value in numbers.items() if key not in AFTER_THE_START}
        how = f"{noise_levels.VERSION} {batches} {noise_levels.UNITS} {noise_levels.BINS}"
        content = _fingerprint(self.params.seed, start, self.labels, self.planned, levels=how)
        return Mark(content, _images(self.workspace.generations))

    def at_levels(self, found: Levels) -> Job:
        """The same training with what was measured in place of `auto` or `importance`."""
        if self.params.fine_tune.noise_levels == IMPORTANCE:
            return dataclasses.replace(self, importance=Importance.of(found.rows))
        tuning = dataclasses.replace(
            self.params.fine_tune, noise_levels=found.suggest(self.params.fine_tune.steps).levels
        )
        return dataclasses.replace(
            self, asked=self.params, params=dataclasses.replace(self.params, fine_tune=tuning)
        )


def module_jobs(job: Job) -> list[Job]:
    """The trainings of a guidance's modules; the first one's log is the result's."""
    work = job.workspace
    return [
        dataclasses.replace(
            job,
            params=params,
            workspace=work.moved(
                noise_levels=work.noise_levels.with_stem(f"{work.noise_levels.stem}-{name}"),
                checkpoints=work.checkpoints / name,
                model=folder_of(job.params, name, work.model, work.checkpoints),
                training=work.training / name if number else work.training,
            ),
        )
        for number, (name, params) in enumerate(modules(job.params).items())
    ]


def guided_mark(job: Job) -> Mark:
    """What tells a guidance from another one."""
    marks = [each.mark for each in module_jobs(job)]
    parts = [mark.fingerprint for mark in marks]
    content = fingerprint(version=VERSION, parts=parts, guidance=job.params.fine_tune.guidance)
    return Mark(content, marks[0].inputs)


def _images(generations: Path) -> str:
    """What the images hold that are trained on."""
    return digests.of_all(generation_shards(generations))


def is_done(job: Job) -> bool:
    """Whether the tuned model of these parameters and inputs is there, with its summary."""
    from fine_tune.training.log import SUMMARY

    return job.mark.fits(result.stored(job.output)) and (job.workspace.training / SUMMARY).is_file()


def plan(params: Params, generations: Path) -> list[Shard]:
    """The shards of the cache of encoded samples; loads no model."""
    return plan_encoding(source(params, generations))


def progress(params: Params, workspace: Workspace) -> Progress:
    """How far the training is, or all of a guidance's modules together; loads no model and changes nothing."""
    from fine_tune.data.labels import read_labels

    job = Job(params, read_labels(workspace.labels), workspace)
    if not modules(params):
        return _progress(job)
    each = [_progress(one) for one in module_jobs(job)]
    there = result.stored(job.output)
    done = guided_mark(job).fits(there)
    steps = sum(one.steps for one in each)
    return Progress(done, steps if done else sum(one.step for one in each), steps, bool(there) and not done)


def _progress(job: Job) -> Progress:
    steps = job.params.fine_tune.steps
    there = result.stored(job.output)
    done = job.mark.fits(there)
    step = steps if done else latest_step(job.workspace.checkpoints, job.mark)
    return Progress(done, step, steps, bool(there) and not done)


def source(params: Params, generations: Path) -> EncodingSource:
    """What the cache of encoded samples is made of."""
    size = (params.generate.width, params.generate.height)
    prefixes = tuple(sorted(set(_prefixes(params).values()))) or ("",)
    return EncodingSource(generations, params.model, params.revision, size, prefixes, params.fine_tune.policy)


def _prefixes(params: Params) -> Mapping[int, str]:
    """What stands before the prompts of each side; modules of a guidance have none."""
    return {} if modules(params) else make_objective(params.fine_tune).prefixes


def _fingerprint(
    seed: int, numbers: Mapping[str, Any], labels: Labels, planned: Sequence[Shard], **own: str
) -> str:
    return fingerprint(
        **own,
        version=VERSION,
        seed=seed,
        fine_tune=numbers,
        labels=labels.fingerprint,
        encoded=[shard.fingerprint for shard in planned],
    )


def _numbers(tuning: FineTuneParams) -> dict[str, Any]:
    """The parameters that this training reads: not other objectives' options, nor an adapter's in full training."""
    unused = {*NOT_NUMBERS, *(name for name in OBJECTIVES if name != tuning.objective)}
    if tuning.method == "full":
        unused.add("lora")
    if not objective_class(tuning.objective).pairs:
        unused.add("pairs")
    if tuning.reestimate is None:
        unused.add("reestimate")
    unused |= {key for key in ("options", "policy") if not getattr(tuning, key)}
    if tuning.noise_levels == list(ALL_LEVELS):
        unused.add("noise_levels")
    if tuning.safeguard is None:
        unused.add("safeguard")
    numbers = {key: value for key, value in dataclasses.asdict(tuning).items() if key not in unused}
    part = OBJECTIVE.identity(tuning.objective)
    return numbers if part is None else {**numbers, "own_objective": part}
