"""How often the verdict on one threshold is right: simulated worlds with a known share of flips, many seeds each.

python -m benchmarks.thresholds.adequacy_verdicts              # prints the Markdown table that docs/THRESHOLDS.md shows
python -m benchmarks.thresholds.adequacy_verdicts --rounds 20  # the same with fewer seeds, in seconds

Scores are b + e with e normal; b, the place of the prompt, is normal, one of two values, or exponential. Its scale is
such that D, the labels that the prompts' own true medians would flip, is what the table says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from tgo_pipeline.thresholds.adequacy.verdict import decide, heterogeneity

TOLERANCE, CONFIDENCE = 0.1, 0.95
PLACES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, count: rng.normal(size=count),
    "two values": lambda rng, count: rng.choice([-1.0, 1.0], count),
    "exponential": lambda rng, count: rng.exponential(size=count),
}
FLIPS = (0.0, 0.05, 0.1, 0.15, 0.25)
SIZES = ((40, 4), (400, 4), (1000, 2), (100, 16), (1000, 8))
VERDICTS = ("adequate", "undecided", "inadequate")


def true_flips(places: np.ndarray) -> float:
    """D at the median of all scores, for places (P,) and residuals of standard deviation 1."""
    cdf = np.vectorize(NormalDist().cdf)
    low, high = float(places.min()), float(places.max())
    for _ in range(40):
        tau = (low + high) / 2
        low, high = (tau, high) if cdf(tau - places).mean() < 0.5 else (low, tau)
    return float(np.mean(np.abs(cdf(tau - places) - 0.5)))


def scale_of(places: np.ndarray, flips: float) -> float:
    """What the places must be multiplied by for so many flips."""
    low, high = 0.0, 20.0
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if true_flips(middle * places) < flips else (low, middle)
    return high


def rates(
    draw: Callable[[np.random.Generator, int], np.ndarray], scale: float, size: tuple[int, int], rounds: int
) -> list[float]:
    """Share of each verdict over `rounds` seeds."""
    prompts, each = size
    found = dict.fromkeys(VERDICTS, 0)
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        scores = scale * draw(rng, prompts)[:, None] + rng.normal(size=(prompts, each))
        negatives = (scores < np.median(scores)).sum(axis=1)
        known = heterogeneity(negatives, np.full(prompts, each), CONFIDENCE)
        found[decide(known, TOLERANCE, CONFIDENCE).verdict] += 1
    return [found[verdict] / rounds for verdict in VERDICTS]


def main() -> None:
    """Print the table: adequate / undecided / inadequate in percent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    heads = ["places", "true D", *(f"{prompts} × {each}" for prompts, each in SIZES)]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, draw in PLACES.items():
        sample = draw(np.random.default_rng(1), 4000)
        for flips in FLIPS:
            scale = scale_of(sample, flips) if flips else 0.0
            cells = [rates(draw, scale, size, rounds) for size in SIZES]
            texts = [" / ".join(f"{100 * share:.0f}" for share in cell) for cell in cells]
            lines.append([name, f"{100 * flips:g} %", *texts])
    sys.stdout.write("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")


if __name__ == "__main__":
    main()
