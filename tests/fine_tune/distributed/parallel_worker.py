"""One of the processes that `test_parallel.py` launches: runs trainings one after the other, as the stage does.

CASES.json is a list of trainings: a folder, changed parameters, whether to shard, and what happens to this rank.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from torch import distributed

from fine_tune import stage
from tests.fine_tune import world
from tests.fine_tune.runs import LITTLE
from tests.fine_tune.scarce import scarce_memory
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.shards import Interrupted


def main(cases: Path) -> None:
    distributed.init_process_group("gloo")  # one meeting for all trainings
    rank = distributed.get_rank()
    for (module, name), value in LITTLE.items():
        setattr(module, name, value)
    for case in json.loads(cases.read_text()):
        os.environ["ACCELERATE_USE_FSDP"] = "true" if case.get("sharded") else "false"
        outcome = run(case, rank)
        (Path(case["root"]) / f"outcome-{rank}.txt").write_text(outcome)
    gc.collect()  # as `joined` does: networks in cycles would hold the group's threads until the interpreter ends
    distributed.destroy_process_group()


def run(case: dict[str, Any], rank: int) -> str:
    """How the training ended on this rank."""
    places = world.joined_places(Path(case["source"]), Path(case["root"]))
    params = world.params(Path(case["source"]) / "model", **case["fine_tune"])
    runtime = dataclasses.replace(params.runtime, micro_batch_size=case.get("micro", 2), threads=1)
    params = dataclasses.replace(params, runtime=runtime)
    if case.get("signalled") == rank:
        threading.Thread(target=_signal_self, args=(places["training"],), daemon=True).start()
    if case.get("breaks") == rank:
        places["prompts"] = Path("nowhere.parquet")
    try:
        with scarce_memory(2) if case.get("scarce") == rank else contextlib.nullcontext():
            stage.run(params, world.workspace(places))
    except (TgoError, Interrupted) as error:
        return f"{type(error).__name__}: {error}"
    return "finished"


def _signal_self(training: Path) -> None:
    """Send SIGTERM to this process once the first steps are logged."""
    while not (training / "plots/metrics/train/loss.tsv").is_file():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
