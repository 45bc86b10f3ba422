"""What fine_tune does before its first step, without the model: labels, join, plan, cache, the first batch.

    python benchmarks/training/start.py PROJECT OBJECTIVE

Run as a file, so that PYTHONPATH says whose code is measured (`benchmarks.training.scale`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from pathlib import Path


def main(project: str, objective_name: str) -> None:
    """Print a line for each part, with its seconds, and the digest of the first batches."""
    from fine_tune.distributed.processes import Group
    from fine_tune.inputs import choose_units, encode, open_job, training_data
    from fine_tune.job import is_done
    from fine_tune.objectives import make_objective
    from fine_tune.training.checkpoints import Checkpoints
    from tgo_pipeline.params import load_params
    from tgo_pipeline.storage.workspace import Workspace

    os.chdir(project)
    logging.basicConfig(level=logging.WARNING)
    params = load_params(Path("params.yaml"), [f"fine_tune.objective={objective_name}"])
    began_s = time.perf_counter()

    def done(what: str) -> None:
        print(f"{what}: {time.perf_counter() - began_s:.1f} s", flush=True)

    job = open_job(params, Workspace(), Group())
    done("labels and join")
    objective = make_objective(params.fine_tune)
    trained, units = choose_units(job, objective)
    done("units")
    kept = Checkpoints(job.workspace.checkpoints, job.mark)
    assert not is_done(job) and kept.load() is None
    done("plan and mark")
    encode(job)
    done("cache")
    data = training_data(job, objective, trained, units)
    digest = hashlib.sha256(job.mark.fingerprint.encode())
    for step in range(3):
        batch = data.batch(step)
        digest.update(repr([batch.seeds, batch.prompts, batch.label.tolist(), batch.score.tolist()]).encode())
        digest.update(batch.images["latents"].numpy().tobytes())
    done("first batches")
    print(digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
