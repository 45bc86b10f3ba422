"""`python -m benchmarks.training.side TASK.json`: one side of the training benchmark, in a process of its own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.training.task import Task, run

SIDES = {
    "ours": "benchmarks.training.ours:load",
    "mixed": "benchmarks.training.ours:load_mixed",
    "plain": "benchmarks.training.plain:load",
    "products": "benchmarks.training.flops:load_products",
    "check": "benchmarks.training.check:load",
}


def main() -> None:
    """Do the task that the command line names."""
    task = Task.read(Path(sys.argv[1]))
    module, _, function = SIDES[task.side].partition(":")
    run(task, getattr(importlib.import_module(module), function))


if __name__ == "__main__":
    main()
