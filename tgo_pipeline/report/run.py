"""What was run: the stages with what they left behind and when, the versions, the parameters."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from tgo_pipeline import __version__
from tgo_pipeline.params import FineTuneParams, Params, ThresholdParams
from tgo_pipeline.rendering.text import count
from tgo_pipeline.report.collect import prompt_counts, shard_counts
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.workspace import Workspace

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "open_clip_torch",
    "pyarrow",
)
SHOWN_DIGITS = 8
"""Of a digest: enough to tell runs apart by eye."""
_DISTANCES = {"global": "|s − τ|", "prompt_quantile": "|q − τ_q|"}
"""What a weight grows with, for thresholds that are not a baseline b in units of the score."""


@dataclass(frozen=True)
class StageFact:
    """A stage, what it left behind, and the beginning of a digest of that; no digest if there is nothing."""

    stage: str
    left: str
    digest: str | None


@dataclass(frozen=True)
class RunSection:
    """The parameters that matter most, the stages, the installed versions, and all tracked parameters as YAML."""

    key_facts: list[tuple[str, str]]
    stages: list[StageFact]
    versions: list[tuple[str, str]]
    parameters: str


def describe(params: Params, workspace: Workspace) -> RunSection:
    """Everything of the section on the run; nothing here needs a stage to have run."""
    return RunSection(_key_facts(params), _stages(workspace), _versions(), _parameters(params))


def _key_facts(params: Params) -> list[tuple[str, str]]:
    tune, label, sampling = params.fine_tune, params.label, params.generate
    distance = _DISTANCES.get(params.threshold.baseline, "|s − b|")
    revision = f" at {params.revision}" if params.revision else ""
    target = params.shown_names(params.target.reward)
    if params.target_rewards != [params.target.reward]:
        target += f" of {', '.join(map(params.shown_names, params.target_rewards))}"
    images = (
        f"taken from {sampling.images}"
        if sampling.source == "images"
        else f"{sampling.images_per_prompt} a prompt, {sampling.steps} steps, guidance {sampling.guidance_scale:g}"
        + f", {sampling.precision}" * (sampling.precision != "fp32")
    )
    return [
        ("Model", f"{params.model}{revision}"),
        ("Images", images),
        ("Target", target),
        (
            "Threshold",
            _threshold(params.threshold) + ", τ estimated again every epoch" * (tune.reestimate is not None),
        ),
        ("Labels", f"ties {label.ties}, weight 1 + {label.c:g}{distance}, scale {label.scale}"),
        ("Objective", _objective(tune)),
        ("Fine-tuning", f"{tune.method}, {count(tune.steps)} steps of {tune.batch_size}, {tune.precision}"),
        ("Optimiser", f"{tune.optimizer}, learning rate {tune.learning_rate:g}, {tune.schedule}"),
        ("Seed", str(params.seed)),
    ]


def _threshold(threshold: ThresholdParams) -> str:
    """The percentile, or what a sample is compared with in place of the one tau."""
    text = f"percentile {threshold.percentile:g} of the {threshold.source}"
    if threshold.baseline == "global":
        return text
    if threshold.baseline == "group":
        return f"{text}, for each {threshold.group}"
    said = [threshold.baseline]
    said += [f"β {threshold.beta:g}"] if threshold.beta is not None else []
    said += [name for name in ("leave_one_out", "jackknife") if getattr(threshold, name)]
    return f"{', '.join(said)}; beside it {text}"


def _objective(tune: FineTuneParams) -> str:
    if tune.objective in ("pgd", "cpgd"):
        return f"{tune.objective}, strength {tune.guidance.strength:g}{', merged' * tune.guidance.merge}"
    return f"{tune.objective}, β {tune.beta:g}, T {tune.temperature:g}"


def _stages(workspace: Workspace) -> list[StageFact]:
    prompts = prompt_counts(workspace.prompts) or {}
    by_source = ", ".join(f"{count(n)} {name}" for name, n in prompts.items())
    return [
        _fact("prompts", by_source, workspace.prompts),
        _fact("generate", _rows(workspace.generations, "images"), workspace.generations),
        _fact("score", _rows(workspace.scores, "scored images"), workspace.scores),
        _fact("threshold", "a threshold per reward", workspace.thresholds),
        _fact("label", _rows(workspace.labels, "labels"), workspace.labels),
        _fact("fine_tune", "metrics of the training", workspace.training / "metrics.json"),
        _fact("evaluate", "base against tuned", workspace.evaluation),
    ]


def _rows(folder: Path, what: str) -> str:
    rows, failed = shard_counts(folder) or (0, 0)
    return f"{count(rows)} {what}" + (f", {count(failed)} failed" if failed else "")


def _fact(stage: str, left: str, path: Path) -> StageFact:
    files = parquet_files(path) if path.is_dir() else [path]
    if not any(file.is_file() for file in files):
        return StageFact(stage, "nothing yet", None)
    return StageFact(stage, left, digests.of_all(files)[:SHOWN_DIGITS])


def _versions() -> list[tuple[str, str]]:
    installed = [(name, _version(name)) for name in PACKAGES]
    machine = f"{platform.system()} {platform.machine()}"
    return [
        ("tgo-pipeline", __version__),
        ("python", platform.python_version()),
        *installed,
        ("system", machine),
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _parameters(params: Params) -> str:
    tracked = dataclasses.asdict(params)
    tracked.pop("runtime")
    return yaml.safe_dump(tracked, sort_keys=False, allow_unicode=True, width=100)
