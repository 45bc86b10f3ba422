"""The small project that faults happen to, and what two runs of it must have in common."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.project import copy_project
from tgo_pipeline.demo import moving, world

STAGES = ("prompts", "generate", "score", "threshold", "label", "fine_tune", "evaluate", "report")
OUTPUTS = ("data", "models", "metrics", "tables", "training", "plots", "report.html", "share", "runs")
CODE = ("stages", "tgo_pipeline", "fine_tune", "tests", "benchmarks")
PARAMS = """\
seed: 3
revision: null
model: demo
prompts: {train: fault_train.txt, test: {plain: fault_test.txt}}
generate: {images_per_prompt: 2, guidance_scale: 2.0, steps: 4, shard_size: 8}
score: {rewards: {hpsv2.1: demo, pickscore: demo, imagereward: demo, clip: demo, aesthetic: demo}}
target: {reward: mean_z}
threshold: {percentile: 0.5, bootstrap: 100}
label: {ties: positive, c: 5.0, scale: std}
fine_tune:
  objective: tgo
  preset: auto
  steps: 11
  checkpoint_every: 3
  batch_size: 16
  validation: {every: 4, prompts: 2}
evaluate: {images_per_prompt: 2, rewards: {oracle: demo}, bootstrap: 100}
report: {title: faults, gallery: 40}
runtime: {device: cpu, processes: 1, threads: 1, generate_batch_size: 8, score_batch_size: 8}
"""
CLIPS: dict[str, dict[str, Any]] = {
    "generate": {"frames": 9, "fps": 8, "width": 32, "height": 32},
    "score": {"rewards": {"moving_choice": "demo", "hpsv2.1": "demo", "motion": None}, "frames": 3},
    "target": {"reward": "mean_z", "rewards": ["moving_choice", "hpsv2.1"]},
    "fine_tune": {"method": "lora"},
    "evaluate": {"rewards": {"moving_oracle": "demo"}},
}
"""What is another for the small world's clips."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?")


def params(model: str = "demo") -> str:
    """The small parameters, for one of the models that ship."""
    written = yaml.safe_load(PARAMS) | {"model": model}
    for section, values in CLIPS.items() if is_of_clips(model) else ():
        written[section] |= values
    return yaml.safe_dump(written, sort_keys=False)


def is_of_clips(model: str) -> bool:
    """Whether one of the models that ship draws clips."""
    return model == "demo-video"


def make(folder: Path, model: str = "demo") -> Path:
    """A git and DVC project with the small parameters, without outputs and without code of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_project(folder)
    for name in CODE:
        shutil.rmtree(folder / name)
    (folder / "params.yaml").write_text(params(model))
    for name, split, count in (("fault_train.txt", "train", 24), ("fault_test.txt", "test", 6)):
        captions = moving.captions(split) if is_of_clips(model) else world.captions("plain", split)
        (folder / name).write_text("\n".join(captions[:count]) + "\n")
    return folder


def set_processes(folder: Path, processes: int) -> None:
    """Let the project's shards be written by so many processes."""
    written = yaml.safe_load((folder / "params.yaml").read_text())
    written["runtime"]["processes"] = processes
    (folder / "params.yaml").write_text(yaml.safe_dump(written, sort_keys=False))


def copy_outputs(source: Path, target: Path) -> None:
    """Let the outputs in `target` be those in `source`."""
    target.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        _remove(target / name)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, symlinks=True)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def contents(folder: Path) -> dict[str, str]:
    """Every file of the outputs with a digest of what must be equal."""
    found: dict[str, str] = {}
    for name in OUTPUTS:
        root = folder / name
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        found |= {str(path.relative_to(folder)): _digest(path) for path in files if not _is_bookkeeping(path)}
    return found


def _is_bookkeeping(path: Path) -> bool:
    """Hidden files (locks, digests beside a table) hold no result; a temporary file must not stay."""
    return path.name.startswith(".") and not path.name.startswith(".tmp-")


def _digest(path: Path) -> str:
    """Bytes without the times that dvclive and the report write, and the order of keys in safetensors."""
    data = path.read_bytes()
    if path.suffix == ".tsv":
        data = _without_times(data.decode())
    elif path.suffix == ".html":
        data = _TIME.sub("TIME", data.decode()).encode()
    elif path.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        data = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode() + data[8 + size :]
    return hashlib.sha256(data).hexdigest()[:16]


def _without_times(text: str) -> bytes:
    rows = [line.split("\t") for line in text.splitlines()]
    kept = [place for place, name in enumerate(rows[0] if rows else []) if name != "timestamp"]
    return "\n".join("\t".join(row[place] for place in kept) for row in rows).encode()


def differences(truth: dict[str, str], found: dict[str, str]) -> list[str]:
    """Files that are missing, too many, or not the same."""
    lines = [f"missing {name}" for name in sorted(truth.keys() - found.keys())]
    lines += [f"extra {name}" for name in sorted(found.keys() - truth.keys())]
    return lines + [
        f"differs {name}" for name in sorted(truth.keys() & found.keys()) if truth[name] != found[name]
    ]
