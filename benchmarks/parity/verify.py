"""`tgo verify-rewards` on random weights: the official packages as workers, on a comparison's images and prompts."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.parity.checkpoints import HPS_FILES
from tgo_pipeline.scoring.command.options import Call
from tgo_pipeline.scoring.verify import Verdict, verify

SOURCES = {
    **{name: f"hpsv2/{file}" for name, file in HPS_FILES.items()},
    "imagereward": "imagereward/ImageReward.pt",
}


def verify_work(work: Path) -> list[Verdict]:
    """The verdicts on what `run` left in its folder; each image gets one of the prompts."""
    request = json.loads((work / "request.json").read_text(encoding="utf-8"))
    prompts = list(request["prompts"].values())
    rows = [
        {"image": path, "prompt": prompts[number % len(prompts)]}
        for number, path in enumerate(request["images"].values())
    ]
    table = work / "verify.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rewards = [f"{name}={work / 'checkpoints' / source}" for name, source in SOURCES.items()]
    call = Call([str(table)], rewards, Path(), device="cpu", dtype="fp32")
    return verify(call, len(rows))
