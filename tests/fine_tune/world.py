"""A tiny data set for training: random images of a few prompts, labelled, and the model that is tuned on them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fine_tune import stage
from fine_tune.training.trainer import Trainer
from tests.thresholds.columns import fitted
from tests.thresholds.shards import params as scored_params
from tests.thresholds.shards import write_scores
from tests.tiny import IMAGE_SIZE, tiny_diffusion_pipeline
from tgo_pipeline.params import Params, parse
from tgo_pipeline.storage.tables import GENERATIONS, LABELS, PROMPTS, write_table
from tgo_pipeline.storage.workspace import Workspace

INPUTS = ("labels", "generations", "prompts", "scores", "thresholds")
PROMPT_COUNT, PER_PROMPT, SHARDS = 6, 4, 2
SAMPLES = PROMPT_COUNT * PER_PROMPT


def places(root: Path) -> dict[str, Path]:
    """The places of a training below one folder."""
    names = ("labels", "generations", "scores", "encoded", "checkpoints", "training")
    tables = {name: root / f"{name}.parquet" for name in ("prompts", "thresholds", "noise_levels")}
    return {name: root / name for name in names} | tables | {"model": root / "output"}


def workspace(places: dict[str, Path]) -> Workspace:
    """The workspace with these places."""
    return Workspace().moved(**places)


def break_off(
    monkeypatch: pytest.MonkeyPatch, params: Params, places: dict[str, Path], step: int = 2
) -> None:
    """Run a training that is interrupted once it has taken so many steps."""
    update = Trainer.update

    def update_until(trainer: Trainer) -> Any:
        if trainer.step == step:
            raise KeyboardInterrupt
        return update(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", update_until)
        stage.run(params, workspace(places))


def joined_places(source: Path, root: Path) -> dict[str, Path]:
    """Inputs from `source`, outputs below `root`."""
    return {name: (places(source) if name in INPUTS else places(root))[name] for name in places(source)}


def params(model: Path, generate: dict[str, Any] | None = None, **fine_tune: Any) -> Params:
    """Parameters of a training of a few steps."""
    return parse(Params, raw_params(model, generate, **fine_tune))


def raw_params(model: Path, generate: dict[str, Any] | None = None, **fine_tune: Any) -> dict[str, Any]:
    """The same as a parameter file has them."""
    small = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "temperature": 0.01, "checkpoint_every": 2}
    return {
        "seed": 3,
        "model": str(model),
        "prompts": {"test": {"plain": "tests.txt"}},
        "generate": {"guidance_scale": 1.0, "steps": 2, **(generate or {})},
        "score": {"rewards": {"clip": "demo"}},
        "target": {"reward": "clip"},
        "fine_tune": small | fine_tune,
        "runtime": {"device": "cpu"},
    }


def build(root: Path, prediction_type: Any = "epsilon") -> Path:
    """Write model, prompts, generations, scores, thresholds and labels; returns `root`."""
    tiny_diffusion_pipeline(root / "model", prediction_type)
    prompts = [f"picture number {number}" for number in range(PROMPT_COUNT)]
    write_prompts(root / "prompts.parquet", prompts)
    rows = [generation(number, index) for number in range(PROMPT_COUNT) for index in range(PER_PROMPT)]
    size = len(rows) // SHARDS
    for shard in range(SHARDS):
        name = f"train-{shard:05d}-of-{SHARDS:05d}.parquet"
        write_generations(root / "generations" / name, rows[shard * size : (shard + 1) * size])
        labels = [
            _label(row, shard * size + i) for i, row in enumerate(rows[shard * size : (shard + 1) * size])
        ]
        write_labels(root / "labels" / name, labels)
    _write_thresholds(root)
    return root


def _write_thresholds(root: Path) -> None:
    """Scores like those of the labels, and the thresholds fitted to them."""
    scores = {"clip": [_score(number) for number in range(SAMPLES)]}
    write_scores(root / "scores", scores, per_prompt=PER_PROMPT)
    chosen = scored_params(["clip"], target={"reward": "mean_z"}, threshold={"bootstrap": 10}, seed=3)
    table = fitted(scores, chosen, PER_PROMPT)
    write_table(table, root / "thresholds.parquet", {"fingerprint": "thresholds"})


def write_prompts(path: Path, prompts: list[str]) -> None:
    splits = ["train"] * (len(prompts) - 2) + ["test"] * 2
    rows = [
        {"prompt_id": f"p{number}", "prompt": prompt, "split": split, "source": split}
        for number, (prompt, split) in enumerate(zip(prompts, splits, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(rows, PROMPTS), path, {"fingerprint": "prompts"})


def write_generations(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(rows, GENERATIONS), path, {"fingerprint": f"drawn {path.name}"})


def write_labels(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(rows, LABELS), path, {"fingerprint": f"labelled {path.name}"})


def random_image(seed: int, size: int = IMAGE_SIZE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def generation(number: int, index: int) -> dict[str, Any]:
    sample_id = f"p{number}-{index:04d}"
    return {
        "sample_id": sample_id,
        "prompt_id": f"p{number}",
        "prompt": f"picture number {number}",
        "image": {"bytes": png(random_image(number * PER_PROMPT + index)), "path": f"{sample_id}.png"},
        "width": IMAGE_SIZE,
        "height": IMAGE_SIZE,
        "model": "tiny",
        "revision": None,
        "seed": number,
        "index": index,
        "guidance_scale": 1.0,
        "steps": 2,
    }


def _label(row: dict[str, Any], number: int) -> dict[str, Any]:
    score = _score(number)
    return {
        "sample_id": row["sample_id"],
        "prompt_id": row["prompt_id"],
        "reward": "clip",
        "score": score,
        "relative_score": score,
        "label": int(score >= 0),
        "weight": 1 + 5 * abs(score),
    }


def _score(number: int) -> float:
    return float(np.float32(np.sin(1.7 * number)))
