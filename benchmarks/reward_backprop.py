"""Does following a reward's gradient raise the small world's target, and what does the oracle say of it?

    python -m benchmarks.reward_backprop run                  # every method on the test captions of three seeds
    python -m benchmarks.reward_backprop report               # its section of RESULTS.md

World, sampling and evaluation are those of `benchmarks.objectives` (guidance 2, 12 steps). A training takes 24 updates
of 8 images, and one scored image of each caption, which gives the units of the target alone. Nothing is tuned. A unit
is a file in the work folder, so that a run stops and continues anywhere.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from benchmarks.objectives.tables import (
    ORACLE,
    by_method,
    effect_cell,
    find,
    pooled,
    samples_of,
    standardised,
)
from benchmarks.objectives.units import ROOT, TEST, Result, Study, Unit
from benchmarks.objectives.work import line
from benchmarks.results import RESULTS, machine, replace_section, table
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import EvaluateParams, parse

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
log = logging.getLogger("tgo")
WORK = ROOT / "tmp/reward_backprop"
FAMILY = "demo"
SEEDS = (0, 1, 2)
SAMPLING = {"steps": 12, "guidance_scale": 2.0, "eta": 0.0, "loss": "linear", "margin": 0.0, "scale": 1.0}
OWN: Mapping[str, Mapping[str, Any]] = {
    "align_prop": {"truncation": "gaussian", "mean": 10.0, "deviation": 1.2},  # N(42, 5) of 50, in 12 steps
    "draft_lv": {"repeats": 2},
    "draft": {"last": 1},
    "refl": {"earliest": 9, "latest": 11, "eta": 1.0},  # 30 to 39 of 40
}
BUDGET = {
    "prompts.limit": 128,
    "generate.images_per_prompt": 1,
    "fine_tune.learning_rate": 3e-4,
    "fine_tune.steps": 24,
    "fine_tune.batch_size": 8,
    "fine_tune.warmup_steps": 3,
    "fine_tune.checkpoint_every": 24,
}
ROWS = 2
"""Network rows of a guided step."""
BACKWARD = 2
"""A backward pass in forward passes."""

Work = typer.Option(WORK, help="Where the runs take place and results are kept; resumed if it is there.")


def units(methods: Iterable[str]) -> list[Unit]:
    """Every method on the test captions, seed after seed."""
    return [Unit(FAMILY, method, seed, TEST, settings(method)) for seed in SEEDS for method in methods]


def settings(method: str) -> dict[str, Any]:
    """The parameters of a method."""
    own = {f"fine_tune.{method}.{key}": value for key, value in {**SAMPLING, **OWN[method]}.items()}
    return {**BUDGET, **own, "fine_tune.held_out": [ORACLE]}


@app.command()
def run(
    methods: str = typer.Option(",".join(OWN), help="Methods, separated by commas."), work: Path = Work
) -> None:
    """Run what has no result yet."""
    import torch

    from benchmarks.objectives.run import run_unit

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    study, names = Study.of_demo(work), methods.split(",")
    if unknown := set(names) - set(OWN):
        raise TgoError(f"--methods names {', '.join(sorted(unknown))}: it knows {', '.join(OWN)}.")
    for unit in units(names):
        if study.result(unit) is None:
            log.info("%s", line(run_unit(study, unit), study.raw["target"]["reward"]))


@app.command()
def report(work: Path = Work, output: Path = typer.Option(RESULTS, help="The markdown file.")) -> None:
    """Write the section of what has run."""
    study = Study.of_demo(work)
    found = by_method(study.results(units(OWN)))
    if not found:
        raise TgoError(f"{work} holds no result of the test captions yet: run `reward_backprop run` first.")
    replace_section(output, "reward_backprop", _markdown(study, found))


def _markdown(study: Study, found: Mapping[str, Mapping[int, Result]]) -> str:
    here, target = machine(), study.raw["target"]["reward"]
    params = parse(EvaluateParams, study.raw["evaluate"])
    lines = []
    for method, results in found.items():
        rows = pooled(samples_of(results), target, params)
        first = next(iter(results.values()))
        seconds = [result.seconds["training"] for result in results.values()]
        cells = []
        for reward in (target, ORACLE):
            row = find(rows, reward)
            each = " ".join(f"{result.value(reward):+.2f}" for result in results.values())
            cells += [effect_cell(standardised(row)), f"{row['win_rate']:.0%}", each]
        lines.append([method, *cells, f"{calls(first):.0f}", f"{sum(seconds) / len(seconds):.0f} s"])
    heads = [f"{target} [95 %]", "wins", "seed by seed", "oracle [95 %]", "wins", "seed by seed"]
    return "\n\n".join(
        [
            "## Reward back-propagation on the small world",
            f"{datetime.date.today().isoformat()}, {here['processor']}, "
            f"accelerator {here['accelerator']}, torch {here['torch']}, commit {here['commit']}; "
            "`python -m benchmarks.reward_backprop run`, one thread. Captions, sampling (guidance 2, 12 steps) and "
            "evaluation (one image of each of 216 test captions) are those of the objectives above, the budget is "
            f"{BUDGET['fine_tune.steps']} updates of {BUDGET['fine_tune.batch_size']} images at learning rate "
            f"{BUDGET['fine_tune.learning_rate']:g} (theirs: 78 of 32), nothing tuned; the loss is "
            f"−s with s the target ({target}: all five rewards). Effects are in standard deviations of the base, "
            "intervals over seeds and prompts. Calls are forward passes of the network for a "
            f"training sample, a backward pass counted as {BACKWARD} and a guided step as {ROWS}; `tgo` takes "
            f"{1 + BACKWARD + 1}. Rewards and decoder come on top.",
            table(["method", *heads, "calls", "training"], lines),
        ]
    )


def calls(result: Result) -> float:
    """Forward passes of the network for one training sample, on average."""
    method, own = result.unit.method, {**SAMPLING, **OWN[result.unit.method]}
    usual = {
        "align_prop": (own.get("mean", 0), own["steps"] - own.get("mean", 0)),
        "draft": (own["steps"] - own.get("last", 0), own.get("last", 0)),
        "draft_lv": (own["steps"], own.get("repeats", 0)),
        "refl": ((own.get("earliest", 0) + own.get("latest", 0)) / 2, 1),
    }
    without, through = usual[method]
    asked = own.get("repeats", 1)  # the reference, for the drift
    return ROWS * (without + (1 + BACKWARD) * through + asked)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app()
    except TgoError as error:
        sys.exit(f"reward_backprop: {error}")
