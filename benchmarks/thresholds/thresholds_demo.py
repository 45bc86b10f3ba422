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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from benchmarks.objectives.units import ROOT, Study
from benchmarks.results import RESULTS, machine, replace_section
from benchmarks.thresholds.demo_plan import SEEDS, units
from tgo_pipeline.errors import TgoError

log = logging.getLogger("tgo")
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


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
    chart = "![Difference of each rule to the global one](thresholds_demo.svg)"
    replace_section(output / RESULTS.name, "thresholds_demo", f"{markdown(summary).strip()}\n\n{chart}")


def _numbers(seeds: str) -> list[int]:
    return [int(seed) for seed in seeds.split(",")]


if __name__ == "__main__":
    try:
        app()
    except TgoError as error:
        sys.exit(f"thresholds_demo: {error}")
