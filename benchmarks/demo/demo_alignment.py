"""Does alignment work on the embedded small world? Runs the pipeline for several seeds and methods, writes a table.

    python -m benchmarks.demo.demo_alignment                # three seeds, tgo and sft, RESULTS.md
    python -m benchmarks.demo.demo_alignment --validation --set fine_tune.learning_rate=3e-4

Each seed has a work folder in which the stages run as a user runs them; methods share everything up to the labels, and
the samples of the base model. `--validation` evaluates on the prompts that hyperparameters are chosen on, not on the
test sets that are reported, and prints instead of writing RESULTS.md. Started again, it resumes; every run adds a line
to history.jsonl in the work folder.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import typer
import yaml

from benchmarks.demo.alignment_table import Rows, markdown
from benchmarks.results import machine, of_training, replace_section
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.scores import ALL, pairs_from_samples
from tgo_pipeline.params import EvaluateParams, Params, parse, presets
from tgo_pipeline.storage.workspace import HERE

ROOT = Path(__file__).parents[2]
SHARED_STAGES = ("prompts", "generate", "score", "threshold", "label")
METHOD_STAGES = ("fine_tune", "evaluate")
VALIDATION = {"validation": "demo:validation"}


@dataclass(frozen=True)
class Runs:
    """What all runs gave: evaluation rows by method and seed, paired samples by method, seconds by stage."""

    params: Params
    rows: dict[str, dict[int, Rows]] = field(default_factory=dict)
    samples: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)


def method_params(raw: Mapping[str, Any], method: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """The parameters of one run; an override is `key.path=value`, or `method:key.path=value` for one method alone."""
    content = json.loads(json.dumps(raw)) | {"seed": seed}
    content.setdefault("fine_tune", {})["objective"] = method
    for override in overrides:
        where, separator, value = override.partition("=")
        scope, colon, key = where.rpartition(":")
        if not separator or not key:
            raise TgoError(f"--set {override!r} is not `key.path=value` or `method:key.path=value`.")
        if not colon or scope == method:
            _set(content, key.split("."), yaml.safe_load(value))
    return content


def _set(content: dict[str, Any], keys: Sequence[str], value: object) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
    content[keys[-1]] = value


def run_seed(runs: Runs, folder: Path, contents: Mapping[str, dict[str, Any]], seed: int) -> None:
    """Run every stage for one seed in `folder` and keep each method's tables; `contents`: parameters by method."""
    folder.mkdir(parents=True, exist_ok=True)
    for method, content in contents.items():
        (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        for stage in (*SHARED_STAGES, *METHOD_STAGES):
            seconds = _run_stage(folder, stage, f"seed {seed}, {method}")
            if method == next(iter(contents)):  # the others find most of their inputs done
                runs.seconds.setdefault(stage, []).append(seconds)
        kept = folder / "results" / method
        kept.mkdir(parents=True, exist_ok=True)
        for file in (HERE.evaluation, HERE.evaluation_images / "samples.parquet", Path("params.yaml")):
            shutil.copy2(folder / file, kept / file.name)
        runs.rows.setdefault(method, {})[seed] = pl.read_parquet(kept / "evaluation.parquet").to_dicts()
        samples = pl.read_parquet(kept / "samples.parquet")
        runs.samples.setdefault(method, []).append(of_training(samples, seed))


def _run_stage(folder: Path, stage: str, what: str) -> float:
    typer.echo(f"{what}: {stage}", err=True)
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        raise TgoError(
            f"{what}: stage {stage} ended with {done.returncode} in {folder}; its message is above."
        )
    return time.monotonic() - start_s


def pooled(frames: Sequence[pl.DataFrame], target: str, params: EvaluateParams) -> Rows:
    """The rows of all seeds together; intervals resample seeds and prompts."""
    return evaluation_table(pairs_from_samples(pl.concat(frames)), target, params).to_pylist()


def against(ours: Sequence[pl.DataFrame], theirs: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Samples that pair the tuned models of two methods: `theirs` as base, `ours` as tuned."""
    keys = ["sample_id", "reward"]
    other = pl.concat(theirs).select(*keys, base="tuned")
    return pl.concat(ours).drop("base").join(other, on=keys, maintain_order="left")


def summarise(runs: Runs, where: Mapping[str, str]) -> dict[str, Any]:
    """Everything the tables show, as plain numbers."""
    params = runs.params
    target = params.target.reward
    methods = list(runs.samples)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": dict(where),
        "params": {
            name: dataclasses.asdict(getattr(params, name))
            for name in ("prompts", "generate", "target", "threshold", "label", "fine_tune", "evaluate")
        },
        "target": target,
        "shown": list(dict.fromkeys([target, *params.evaluate.rewards])),
        "seeds": {method: {str(seed): rows for seed, rows in by.items()} for method, by in runs.rows.items()},
        "pooled": {
            method: pooled(frames, target, params.evaluate) for method, frames in runs.samples.items()
        },
        "between": {
            f"{methods[0]} against {other}": pooled(
                [against(runs.samples[methods[0]], runs.samples[other])], target, params.evaluate
            )
            for other in methods[1:]
        },
        "seconds": {stage: sum(times) / len(times) for stage, times in runs.seconds.items()},
    }


def short(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The pooled effects and win rates of what is shown, by method: the line that a search for parameters compares."""
    return {
        method: {
            row["reward"]: {key: row[key] for key in ("difference", "difference_low", "effect", "win_rate")}
            for row in rows
            if row["test_set"] == ALL and row["reward"] in summary["shown"]
        }
        for method, rows in summary["pooled"].items()
    }


def main(
    seeds: str = typer.Option("0,1,2", help="Run seeds, separated by commas."),
    methods: str = typer.Option(
        "tgo,sft", help="Objectives, separated by commas; the first is set against the others."
    ),
    overrides: list[str] = typer.Option(
        [], "--set", help="key.path=value, or method:key.path=value; may be repeated."
    ),
    validation: bool = typer.Option(
        False, help="Evaluate on demo:validation, the prompts to choose parameters on."
    ),
    params: Path = typer.Option(ROOT / "params.yaml", help="The parameter file to start from."),
    work: Path = typer.Option(
        ROOT / "tmp/demo_alignment", help="Where the runs take place; resumed if it is there."
    ),
    output: Path | None = typer.Option(
        None, help="The markdown file; RESULTS.md if not given, none for --validation."
    ),
) -> None:
    """Run the demo for several seeds and methods and write the table with its intervals."""
    raw = yaml.safe_load(params.read_text())
    if validation:
        raw["prompts"] = {**raw["prompts"], "test": VALIDATION}
    names = methods.split(",")
    contents = {
        int(seed): {name: method_params(raw, name, int(seed), overrides) for name in names}
        for seed in seeds.split(",")
    }
    for content in (content for by_method in contents.values() for content in by_method.values()):
        parse(Params, presets.apply(content))  # refuse a misspelt override before hours of work
    runs = Runs(parse(Params, presets.apply(next(iter(contents.values()))[names[0]])))
    for seed, by_method in contents.items():
        run_seed(runs, work / f"seed-{seed}", by_method, seed)
    summary = summarise(runs, machine())
    title = "Alignment on the small world" + (" (validation prompts)" if validation else "")
    text = markdown(summary, overrides, title)
    typer.echo(text)
    (work / "demo_alignment.json").write_text(json.dumps(summary, indent=2) + "\n")
    with (work / "history.jsonl").open("a") as history:
        history.write(json.dumps({"validation": validation, "overrides": overrides, **short(summary)}) + "\n")
    output = output or (None if validation else ROOT / "benchmarks/RESULTS.md")
    if output:
        replace_section(output, "demo_alignment" + "_validation" * validation, text)
        shutil.copy2(work / "demo_alignment.json", output.with_name("demo_alignment.json"))


if __name__ == "__main__":
    try:
        typer.run(main)
    except TgoError as error:
        sys.exit(f"demo_alignment: {error}")
