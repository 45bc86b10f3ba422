"""Runs one unit of the study by the functions of the pipeline's stages; what several units need is made once.

Folders of a family and seed: prompts, generations, scores and the base's evaluation; labels by the parameters that
they depend on; trainings by theirs, so that the module of a guidance is the result of the plain method.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.objectives.units import BASE, TAU, WEIGHTS, Result, Study, Unit
from fine_tune.guidance_modules import describe, modules
from fine_tune.levels import measure_levels
from fine_tune.noise_levels.table import read as read_levels
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.params.fine_tune import ALL_LEVELS, MEASURED
from tgo_pipeline.params.objectives import ModuleGuidanceParams
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.storage.workspace import Workspace

log = logging.getLogger("tgo")
LAST_STEPS = 10
"""Training metrics are means over this many last updates."""
LOW = "noise_levels_from"
"""The metric that says where a measured range begins."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Wait for `folder` and hold it, so that two processes do not make it both."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.held").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Job:
    """A unit with its parameters and folders."""

    unit: Unit
    params: Params
    home: Path

    @property
    def prompts(self) -> Path:
        return self.home / "prompts" / f"{self.unit.split}.parquet"

    @property
    def generations(self) -> Path:
        return self.home / "generations"

    @property
    def scores(self) -> Path:
        return self.home / "scores"

    @property
    def labelled(self) -> Path:
        """Labels and thresholds of these parameters."""
        params, settings = self.params, self.unit.settings
        own = {"weights": settings[WEIGHTS]} if WEIGHTS in settings else {}
        mark = fingerprint(
            threshold=params.threshold,
            label=params.label,
            target=[params.target, params.target_rewards],
            tau=settings.get(TAU),
            **own,
        )
        return self.home / "labelled" / mark[:10]

    @property
    def workspace(self) -> Workspace:
        """The places of a project; what is fitted and labelled lies in `labelled`."""
        tables = {name: self.labelled / f"{name}.parquet" for name in ("thresholds", "baselines", "adequacy")}
        inputs = {name: getattr(self, name) for name in ("prompts", "generations", "scores")}
        labels = {
            "labels": self.labelled / "labels",
            "plots": self.labelled / "plots",
            "metrics": self.labelled,
        }
        return Workspace(self.home).moved(**tables, **inputs, **labels)


def run_unit(study: Study, unit: Unit) -> Result:
    """Make what is missing, train, sample, score and compare with the base; the result is kept in the study."""
    job = Job(unit, study.params(unit), study.home(unit))
    seconds: dict[str, float] = {}
    with _timed(seconds, "data"):
        make_data(job)
        make_labels(job)
    path = study.result_path(unit)
    samples = path.with_suffix(".parquet")
    try:
        model, metrics = job.params.model, {}
        if unit.method != BASE:
            with _timed(seconds, "training"):
                model, metrics = make_model(job)
        with _timed(seconds, "evaluation"):
            rows = evaluate(job, study, model, samples)
        result = Result(unit, rows, metrics, seconds, samples)
    except TgoError as error:
        result = Result(unit, [], {}, seconds, samples, failed=str(error))
    study.write(result)
    return result


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started_s, 2)


def make_data(job: Job) -> None:
    """Prompts, training images and their scores."""
    from tgo_pipeline import prompts
    from tgo_pipeline.generators.stage import generate_folder
    from tgo_pipeline.scoring.stage import score_folder
    from tgo_pipeline.storage.tables import PROMPTS, read_table

    params = job.params
    with held(job.home):
        if not job.prompts.is_file():
            prompts.write(params.prompts, params.seed, job.prompts, job.prompts.with_suffix(".json"))
        if (job.home / "complete").is_file():
            return
        rows = [row for row in read_table(job.prompts, PROMPTS).to_pylist() if row["split"] == "train"]
        generate_folder(
            job.generations,
            [(row["prompt_id"], row["prompt"]) for row in rows],
            split="train",
            model=params.model,
            revision=params.revision,
            params=params.generate,
            images_per_prompt=params.generate.images_per_prompt,
            seed=params.seed,
            purpose="generate",
            runtime=params.runtime,
        )
        score_folder(
            job.generations,
            job.scores,
            params.score.rewards,
            runtime=params.runtime,
            max_error_rate=params.score.max_error_rate,
            dtype=params.score.dtype,
        )
        (job.home / "complete").touch()


def make_labels(job: Job) -> None:
    """Thresholds and label shards; at each prompt's mean score if the unit asks for it."""
    from tgo_pipeline.thresholds.label_stage import label_folder
    from tgo_pipeline.thresholds.stage import fit_folder

    folder = job.labelled
    with held(folder):
        if (folder / "complete").is_file():
            return
        fit_folder(job.params, job.workspace)
        label_folder(job.params, job.workspace)
        if TAU in job.unit.settings:
            _label_at_prompt_means(folder / "labels", job.params)
        if job.unit.settings.get(WEIGHTS) == "global":
            _weigh_at_global_tau(folder / "labels", job)
        (folder / "complete").touch()


def _label_at_prompt_means(folder: Path, params: Params) -> None:
    """Write the label shards again: label and weight of each score minus its prompt's mean."""
    from fine_tune.data.prompt_statistics import prompt_means
    from tgo_pipeline.thresholds.labels import labels, weights

    def change(columns: Mapping[str, np.ndarray], prompt_ids: list[str]) -> dict[str, np.ndarray]:
        score = columns["score"]
        distance = score - prompt_means(prompt_ids, score)
        return {
            "relative_score": distance,
            "label": labels(distance, 0.0, params.label.ties),
            "weight": weights(distance, 0.0, params.label.c, params.label.scale, reference=score),
        }

    _relabel(folder, change, TAU)


def _weigh_at_global_tau(folder: Path, job: Job) -> None:
    """Write the label shards again: the labels as they are, the weights from the distance to the global tau."""
    from tgo_pipeline.thresholds.labels import weights
    from tgo_pipeline.thresholds.table import read_thresholds, taus

    tau, options = taus(read_thresholds(job.workspace.thresholds))[job.params.target.reward], job.params.label
    _relabel(
        folder,
        lambda columns, _: {"weight": weights(columns["score"], tau, options.c, options.scale)},
        WEIGHTS,
    )


def _relabel(
    folder: Path, change: Callable[[Mapping[str, np.ndarray], list[str]], dict[str, np.ndarray]], mark: str
) -> None:
    import pyarrow as pa

    from tgo_pipeline.storage.tables import LABELS, read_metadata, read_table, write_table
    from tgo_pipeline.storage.writing import atomic

    tables = {file: read_table(file, LABELS) for file in sorted(folder.glob("*.parquet"))}
    whole = pa.concat_tables(table.replace_schema_metadata() for table in tables.values())
    columns = {name: whole[name].to_numpy() for name in ("score", "relative_score", "label", "weight")}
    changed = change(columns, whole["prompt_id"].to_pylist())
    start = 0
    for file, table in tables.items():
        rows = slice(start, start := start + table.num_rows)
        for name, values in changed.items():
            kind, position = LABELS.field(name).type, table.schema.get_field_index(name)
            table = table.set_column(position, LABELS.field(name), pa.array(values[rows], kind))
        metadata = read_metadata(file)
        metadata |= {"fingerprint": fingerprint(of=metadata["fingerprint"], change=mark)}
        with atomic(file) as temporary:
            write_table(table, temporary, metadata)


def make_model(job: Job) -> tuple[str, dict[str, float]]:
    """Train, or find the training of another unit: the model to sample, and the means of its last metrics.

    Modules of a guidance are combined at every sampling step.
    """
    parts = modules(job.params)
    if not parts:
        return _train(job, job.params)
    trained = {name: _train(job, params) for name, params in parts.items()}
    places = {name: str(Path(place).resolve()) for name, (place, _) in trained.items()}
    metrics = trained["positive"][1]
    mark = fingerprint(guidance=job.params.fine_tune.guidance, parts=places)
    folder = job.home / "guided" / mark[:10]
    folder.mkdir(parents=True, exist_ok=True)
    described = describe(job.params, Mark(mark)) | places
    (folder / "tgo.json").write_text(json.dumps(described, indent=2) + "\n")
    return str(folder), metrics


def _train(job: Job, params: Params) -> tuple[str, dict[str, float]]:
    from fine_tune import stage

    tuning = dataclasses.replace(params.fine_tune, guidance=ModuleGuidanceParams())
    params = dataclasses.replace(params, fine_tune=tuning)
    folder = job.home / "trained" / fingerprint(tuning=tuning, labels=job.labelled.name)[:10]
    with held(folder):
        workspace = job.workspace.moved(
            encoded=_encoded(job, params, folder / "encoded"),
            checkpoints=folder / "checkpoints",
            model=folder / "model",
            training=folder / "training",
        )
        measured = _measured(job, params, workspace)
        stage.run(params, measured or workspace)
    metrics = last_metrics(folder / "training")
    if measured is not None:
        metrics[LOW] = read_levels(measured.noise_levels).suggest(params.fine_tune.steps).low
    return str(folder / "model"), metrics


def _measured(job: Job, params: Params, workspace: Workspace) -> Workspace | None:
    """Where the noise levels of such trainings were measured, once for all that begin alike; None if none are."""
    tuning = params.fine_tune
    if tuning.noise_levels not in MEASURED:
        return None
    start = dataclasses.replace(tuning, noise_levels=list(ALL_LEVELS), learning_rate=1.0)
    place = job.home / "levels" / fingerprint(start=start, labels=job.labelled.name)[:10]
    workspace = workspace.moved(noise_levels=place.with_suffix(".parquet"))
    with held(place):
        measure_levels(params, workspace)
    return workspace


def _encoded(job: Job, params: Params, own: Path) -> Path:
    """The cache of encoded samples, made once; as links in `own`, since a training locks its cache."""
    from fine_tune import stage
    from fine_tune.data.cache import encode_folder

    source = stage.source(params, job.generations)
    shared = job.home / "encoded" / fingerprint(prefixes=source.prefixes)[:10]
    with held(shared):
        encode_folder(shared, source, stage.plan(params, job.generations), params.runtime)
        shutil.copytree(shared, own, copy_function=os.link, dirs_exist_ok=True, ignore=_existing(own))
    return own


def _existing(folder: Path) -> Callable[[str, list[str]], list[str]]:
    return lambda _, names: [name for name in names if (folder / name).exists()]


def last_metrics(training: Path) -> dict[str, float]:
    """Each metric of a training log as its mean over the last updates, and the ratio of the errors on negatives."""
    means = {}
    for path in sorted(training.glob("plots/metrics/train/*.tsv")):
        with path.open() as stream:
            values = [float(row[path.stem]) for row in csv.DictReader(stream, delimiter="\t")]
        means[path.stem] = float(np.mean(values[-LAST_STEPS:]))
    if means.get("reference_error_negative"):
        means["negative_error_ratio"] = means["policy_error_negative"] / means["reference_error_negative"]
        means["positive_error_ratio"] = means["policy_error_positive"] / means["reference_error_positive"]
    return means


def evaluate(job: Job, study: Study, model: str, samples: Path) -> list[dict]:
    """Sample and score what is to be compared, write `samples` (base and tuned), return the evaluation table."""
    from tgo_pipeline.evaluation import stage
    from tgo_pipeline.evaluation.statistics.compare import evaluation_table
    from tgo_pipeline.evaluation.statistics.scores import pair_scores, samples_table
    from tgo_pipeline.storage.tables import write_table
    from tgo_pipeline.storage.writing import atomic
    from tgo_pipeline.thresholds.targets import read_scores

    params = job.params
    test, rewards = stage.read_test_prompts(job.prompts), stage.evaluation_rewards(params)
    name = f"{job.unit.split}-base-{params.evaluate.images_per_prompt}"
    base = stage.Side("base", params.model, None, job.home / "evaluation" / name)
    stated = dataclasses.replace(
        params, generate=study.params(dataclasses.replace(job.unit, settings={})).generate
    )
    with held(base.folder):
        stage.sample_side(stated, base, test, rewards)
    tuned = stage.Side("tuned", model, None, job.home / "evaluation" / samples.stem)
    stage.sample_side(params, tuned, test, rewards)
    target = stage.Target.read(params, job.workspace)
    before, after = (target.add_to(read_scores(side.scores, list(rewards))) for side in (base, tuned))
    pairs = pair_scores(before, after, test, list(dict.fromkeys([target.name, *rewards])))
    with atomic(samples) as temporary:
        write_table(samples_table(pairs), temporary, {})
    shutil.rmtree(tuned.folder)
    return evaluation_table(pairs, target.name, params.evaluate, params.seed).to_pylist()
