"""The official side of the benchmark of HPSv3: the package's own inferencer, called as its README shows.

Run with the Python of an environment that has `hpsv3` 1.0.0 (`benchmarks.rewards.vision_language` says how to make it).
Reads one JSON object from its input: folder, dtype, threads, and cases of image paths and prompts; writes one line.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import torch


def main() -> None:
    """Answer the one question of the input."""
    import yaml
    from hpsv3 import HPSv3RewardInferencer  # type: ignore[reportMissingImports]
    from hpsv3 import inference as package  # type: ignore[reportMissingImports]

    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    folder = Path(asked["folder"])
    stated = yaml.safe_load((Path(package.__file__).parent / "config/HPSv3_7B.yaml").read_text())
    half = asked["dtype"] == "bf16"
    stated |= {"model_name_or_path": str(folder / "base"), "disable_flash_attn2": True, "bf16": half}
    stated |= {"torch_dtype": "bfloat16" if half else "float32", "output_dir": str(folder / "out")}
    (folder / "official.yaml").write_text(yaml.safe_dump(stated))
    inferencer = HPSv3RewardInferencer(
        str(folder / "official.yaml"), str(folder / "HPSv3.safetensors"), device=asked["device"]
    )
    answers = []
    for case in asked["cases"]:
        seconds, scores = [], None
        for _ in range(asked["rounds"]):
            started_s = time.perf_counter()
            with torch.inference_mode():
                scores = inferencer.reward(case["images"], case["prompts"]).float().tolist()
            seconds.append(time.perf_counter() - started_s)
        answers.append({"seconds": seconds, "scores": scores})
    versions = {name: importlib.metadata.version(name) for name in ("hpsv3", "transformers", "torch")}
    print(json.dumps({"answers": answers, "versions": versions}), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    sys.stdout = sys.stderr  # which the package prints to
    main()
