"""Compares every reward with its official code on fresh random weights, images and prompts.

make parity                    # tiny and full size, a new seed; builds the official environment first
make parity SIZE=tiny SEED=7

Both sides read the same files in the official layouts (written by `benchmarks.parity.checkpoints`): the official
packages in an environment of their own, called as their READMEs say, and this project by `load_reward(...).score(...)`.
What the official code scores must be matched; what it raises an error for must be scored. Then `tgo verify-rewards`
scores the same images through its worker. Writes
benchmarks/parity.json and docs/PARITY.md, where one size replaces only its own part, and exits with 1 if a tolerance
is exceeded. Full size needs 20 GB of disk, 12 GB of memory and, on two cores, about half an hour.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parity.report import page, summary
from benchmarks.parity.run import ROOT, run
from benchmarks.parity.samples import FULL_IMAGES, FULL_PROMPTS
from benchmarks.parity.verify import verify_work
from tgo_pipeline.rewards.isolated.environments import python

SIZES = {"tiny": ("tiny",), "full": ("full",), "both": ("tiny", "full")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare at the sizes asked for, write the results, and return 1 if anything is wrong."""
    chosen = _parse(arguments)
    print(f"seed {chosen.seed}", flush=True)
    results, verdicts = {}, []
    for size in SIZES[chosen.size]:
        only = (FULL_IMAGES, FULL_PROMPTS) if size == "full" else None
        work = chosen.work.resolve() / size
        results[size] = run(chosen.official or python("official-rewards"), work, size, chosen.seed, only)
        print(f"\n{summary(results[size])}", flush=True)
        verdicts += verify_work(work)
    _write(chosen.out, results)
    problems = [problem for result in results.values() for problem in result["problems"]]
    problems += [verdict.sentence for verdict in verdicts if not verdict.agree]
    for verdict in verdicts:
        print(verdict.sentence)
    for problem in problems:
        print(f"WRONG  {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", type=Path, help="Python of the official environment, if not tgo env's")
    parser.add_argument("--size", choices=list(SIZES), default="both")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="default: a new one")
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs/ and benchmarks/ are written")
    parser.add_argument("--work", type=Path, default=ROOT / "tmp/parity", help="checkpoints and images")
    return parser.parse_args(arguments)


def _write(out: Path, results: dict[str, Any]) -> None:
    """The JSON file and the page made of it; sizes that were not run stay as they were."""
    path = out / "benchmarks/parity.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = {size: result for size in SIZES["both"] if (result := results.get(size) or before.get(size))}
    for file, text in (
        (path, json.dumps(content, indent=1) + "\n"),
        (out / "docs/PARITY.md", page(content)),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
