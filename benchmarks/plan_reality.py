"""What `tgo plan` says of a run of the small world, beside what the run did: `python -m benchmarks.plan_reality`.

The stages run as they do for a user, in this process, while every operation and every live byte is counted on the real
tensors; files are counted and weighed afterwards. Writes benchmarks/plan_reality.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from stages.commands.plan import make
from tgo_pipeline.params import Params, load_params
from tgo_pipeline.planning.gpus import device
from tgo_pipeline.planning.plan import StagePlan
from tgo_pipeline.storage.workspace import HERE

ROOT = Path(__file__).parents[1]
OUTPUT = Path(__file__).with_name("plan_reality.json")
MEASURED = ("generate", "score", "fine_tune")
FOLDERS = {"generate": HERE.generations, "score": HERE.scores, "label": HERE.labels}


def compare(folder: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Plan a run, run it in `folder` up to fine_tune, and give each stage's planned and measured numbers."""
    with contextlib.chdir(folder):
        plan = make(params, device("cpu"))
        found = {}
        for stage in ("prompts", "generate", "score", "threshold", "label", "fine_tune"):
            flops, peak_bytes = _run(stage, params)
            found[stage] = _beside(plan.stage(stage), flops, peak_bytes) | _files(stage, plan.stage(stage))
    return found


def _run(stage: str, params: Params) -> tuple[float, int]:
    from tgo_pipeline.planning.meter import Meter

    run = importlib.import_module(f"stages.{stage}").run
    if stage not in MEASURED:
        run(params)
        return 0.0, 0
    with Meter() as meter:
        run(params)
    return meter.flops, meter.peak_bytes


def _beside(planned: StagePlan, flops: float, peak_bytes: int) -> dict[str, Any]:
    if not flops:
        return {}
    return {
        "flops": {"planned": planned.flops, "measured": flops, "ratio": planned.flops / flops},
        "memory_bytes": {
            "planned": planned.memory_bytes,
            "measured": peak_bytes,
            "ratio": planned.memory_bytes / peak_bytes,
        },
    }


def _files(stage: str, planned: StagePlan) -> dict[str, Any]:
    import pyarrow.parquet as pq

    if stage == "fine_tune":
        encoded, result = _bytes(HERE.encoded), _bytes(HERE.model)
        return {
            "encoded_bytes": {"planned": planned.parts["encoded on disk"], "measured": encoded},
            "result_bytes": {"planned": planned.parts["result on disk"], "measured": result},
        }
    files = sorted(FOLDERS[stage].glob("*.parquet")) if stage in FOLDERS else []
    if not files:
        return {}
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    return {
        "files": {"planned": planned.files, "measured": len(files)},
        "rows": {"planned": planned.rows, "measured": rows},
        "disk_bytes": {
            "planned": planned.disk_bytes,
            "kind": planned.disk,
            "measured": sum(file.stat().st_size for file in files),
        },
    }


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def small(params: Params) -> Params:
    """The committed parameters with few prompts, images and steps, on the CPU."""
    return dataclasses.replace(
        params,
        prompts=dataclasses.replace(params.prompts, limit=10),
        generate=dataclasses.replace(params.generate, steps=4, shard_size=16),
        fine_tune=dataclasses.replace(
            params.fine_tune,
            steps=4,
            batch_size=16,
            validation=dataclasses.replace(params.fine_tune.validation, every=2, prompts=4),
        ),
        runtime=dataclasses.replace(
            params.runtime,
            device="cpu",
            processes=1,
            generate_batch_size=16,
            micro_batch_size=8,
            score_batch_size=8,
        ),
    )


def main() -> None:
    """Compare at a small size and write the numbers."""
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder), small(load_params(ROOT / "params.yaml")))
    OUTPUT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
