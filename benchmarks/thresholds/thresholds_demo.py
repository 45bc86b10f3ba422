"""One threshold for all prompts, or one for each? Global against per-prompt rules on the small world.

    python -m benchmarks.thresholds.thresholds_demo run        # an hour on one core; resumes
    python -m benchmarks.thresholds.thresholds_demo report     # thresholds_demo.json and .svg, RESULTS.md

Binary labels, and weights that do not differ between rules: none at all (c = 0), or those of the global tau. All else
is the same too: images, scores, steps, noise, prompts and seeds of the evaluation. What a rule changes is the labels.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from benchmarks.objectives.units import ROOT, TEST, WEIGHTS, Result, Study, Unit
from benchmarks.results import RESULTS, machine, replace_section
from tgo_pipeline.errors import TgoError

log = logging.getLogger("tgo")
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
FAMILY = "demo"
SEEDS = (0, 1, 2, 3, 4)
GLOBAL = "global"
RULES: dict[str, dict[str, Any]] = {
    GLOBAL: {},
    "global, p 0.75": {"threshold.percentile": 0.75},
    "prompt mean": {"threshold.baseline": "prompt_mean"},
    "prompt median": {"threshold.baseline": "prompt_median"},
    "prompt soft": {"threshold.baseline": "prompt_soft", "threshold.beta": 0.5},
    "prompt quantile": {"threshold.baseline": "prompt_quantile", "threshold.beta": 0.3},
}
"""What labels a sample. With four images a prompt the quantile rule takes the best one, so that a quarter is positive:
the global rule at percentile 0.75 has as many, and differs from it in the prompts alone."""
REESTIMATED = "global, every epoch"
REESTIMATE = {"fine_tune.reestimate.prompts": 64, "fine_tune.reestimate.images_per_prompt": 2}
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "no weights": {"label.c": 0.0, "fine_tune.learning_rate": 2e-4, "fine_tune.temperature": 0.01},
    "weights of the global rule": {
        "fine_tune.learning_rate": 3e-4,
        "fine_tune.temperature": 0.003,
        WEIGHTS: GLOBAL,
    },
}
"""What the study of objectives chose for TGO without and with weights, at the global tau, on validation captions."""


def rules(weighting: str) -> dict[str, dict[str, Any]]:
    """The rules compared at a weighting. A tau of its own each epoch would bring weights of its own."""
    return RULES | ({REESTIMATED: REESTIMATE} if "label.c" in WEIGHTINGS[weighting] else {})


def unit(weighting: str, rule: str, seed: int) -> Unit:
    """A training and its evaluation on the test captions."""
    return Unit(FAMILY, f"tgo+{rule}", seed, TEST, WEIGHTINGS[weighting] | rules(weighting)[rule])


def units(seeds: Sequence[int]) -> Iterator[Unit]:
    """All units, seed by seed: a run that ends early has whole seeds."""
    for seed in seeds:
        for weighting in WEIGHTINGS:
            yield from (unit(weighting, rule, seed) for rule in rules(weighting))


def found(study: Study, weighting: str, seeds: Sequence[int]) -> dict[str, dict[int, Result]]:
    """The results of a weighting by rule and seed."""
    results = {
        rule: {seed: result for seed in seeds if (result := study.result(unit(weighting, rule, seed)))}
        for rule in rules(weighting)
    }
    return {rule: by_seed for rule, by_seed in results.items() if by_seed}


Seeds = typer.Option(",".join(map(str, SEEDS)), help="Run seeds, separated by commas.")
Work = typer.Option(ROOT / "tmp/thresholds_demo", help="Where the runs take place; resumed if it is there.")


@app.command()
def run(seeds: str = Seeds, work: Path = Work) -> None:
    """Train and evaluate what has no result yet."""
    import torch

    from benchmarks.objectives.run import run_unit
    from benchmarks.objectives.work import line

    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    study = Study.of_demo(work)
    for each in units(_numbers(seeds)):
        if study.result(each) is None:
            study.result_path(each).parent.mkdir(parents=True, exist_ok=True)
            log.info("%s", line(run_unit(study, each), study.params(each).target.reward))


@app.command()
def report(
    seeds: str = Seeds,
    work: Path = Work,
    output: Path = typer.Option(ROOT / "benchmarks", help="The folder."),
) -> None:
    """Write what was measured: numbers, a figure, and the section of RESULTS.md."""
    from benchmarks.thresholds.thresholds_demo_tables import figure, markdown, summarise

    study = Study.of_demo(work)
    summary: Mapping[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        **summarise(study, _numbers(seeds)),
    }
    (output / "thresholds_demo.json").write_text(json.dumps(summary, indent=1) + "\n")
    figure(summary).save(str(output / "thresholds_demo.svg"))
    picture = "![Difference of each rule to the global one](thresholds_demo.svg)"
    replace_section(output / RESULTS.name, "thresholds_demo", f"{markdown(summary).strip()}\n\n{picture}")


def _numbers(seeds: str) -> list[int]:
    return [int(seed) for seed in seeds.split(",")]


if __name__ == "__main__":
    try:
        app()
    except TgoError as error:
        sys.exit(f"thresholds_demo: {error}")
