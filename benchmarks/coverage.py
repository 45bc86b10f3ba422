"""How often an interval over several trainings holds the truth, by what it resamples: a simulation.

python -m benchmarks.coverage              # two minutes on one core; replaces its section of RESULTS.md
python -m benchmarks.coverage --rounds 2   # the same with fewer simulations, printed alone

Every training draws the same prompts. What a training gains on a prompt is the sum of what its seed, the prompt, and
nothing but chance give, all normal: the truth is known, it is zero.
"""

from __future__ import annotations

import datetime
import itertools
from typing import NamedTuple

import numpy as np
import typer

from benchmarks.results import RESULTS, machine, replace_section, table
from tgo_pipeline.evaluation.statistics.intervals import bootstrap_means, crossed_t_interval

PROMPTS, RESAMPLES, CONFIDENCE = 240, 1000, 0.95
COLUMNS, ROUNDS = 200, 20
"""Simulations that share their resamples, and how many times so many."""
SEEDS = (2, 3, 5, 10)
SPREADS = (0.0, 0.05, 0.1, 0.2)
"""Standard deviations of what the seed gives, in those of the base's scores."""


class World(NamedTuple):
    """Standard deviations of what the prompt gives and of the rest, in those of the base's scores."""

    prompt: float
    rest: float


WORLDS = {"against the base": World(0.4, 0.5), "two settings, paired": World(0.1, 0.5)}
KINDS = ("prompts alone", "trainings and prompts", "Student's t")


def gains(world: World, spread: float, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Gains (seeds, PROMPTS, COLUMNS) whose mean is zero but for chance."""
    return (
        spread * rng.normal(size=(seeds, 1, COLUMNS))
        + world.prompt * rng.normal(size=(1, PROMPTS, COLUMNS))
        + world.rest * rng.normal(size=(seeds, PROMPTS, COLUMNS))
    )


def covered(values: np.ndarray, seed: int) -> np.ndarray:
    """Of each kind the share of intervals that hold zero, and their mean width, (kinds, 2)."""
    seeds, prompts, columns = values.shape
    flat, clusters = values.reshape(-1, columns), np.tile(np.arange(prompts), seeds)
    options = {"resamples": RESAMPLES, "confidence": CONFIDENCE, "seed": seed}
    intervals = [
        bootstrap_means(flat, clusters, **options),
        bootstrap_means(flat, clusters, **options, trainings=np.repeat(np.arange(seeds), prompts)),
        crossed_t_interval([values], CONFIDENCE),
    ]
    return np.array([(((low <= 0) & (high >= 0)).mean(), (high - low).mean()) for low, high in intervals])


def line(name: str, spread: float, seeds: int, rounds: int) -> list[str]:
    """A row of the table."""
    rng = np.random.default_rng(0)
    each = [covered(gains(WORLDS[name], spread, seeds, rng), number) for number in range(rounds)]
    shown = [f"{100 * share:.1f} % ({width:.2f})" for share, width in np.mean(each, axis=0)]
    return [name, f"{spread:g}", str(seeds), *shown]


def main(
    rounds: int = typer.Option(ROUNDS, help=f"Rounds of {COLUMNS} simulations; fewer are printed alone."),
) -> None:
    """Simulate and write the section."""
    lines = [line(*each, rounds) for each in itertools.product(WORLDS, SPREADS, SEEDS)]
    header = ["comparison", "sd of seeds", "trainings", *KINDS]
    here = machine()
    worlds = "; ".join(
        f"*{name}*: {world.prompt:g} for prompts, {world.rest:g} for the rest"
        for name, world in WORLDS.items()
    )
    text = (
        f"## Intervals over several trainings\n\n{datetime.date.today().isoformat()}, {here['processor']}, commit "
        f"{here['commit']}. How often a {CONFIDENCE:.0%} interval of a mean gain holds the truth (how wide it is), "
        f"by what it is of: {rounds * COLUMNS} simulations a row, {PROMPTS} prompts, {RESAMPLES} resamples. Effects "
        f"are normal, with standard deviations in those of the base's scores; {worlds}.\n\n{table(header, lines)}"
    )
    print(text)
    if rounds >= ROUNDS:
        replace_section(RESULTS, "coverage", text)


if __name__ == "__main__":
    typer.run(main)
