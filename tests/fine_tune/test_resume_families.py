"""A training that was broken off ends, bit for bit, where an unbroken one does: every family, and what has a memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune import stage
from fine_tune.data.tensors import read_tensors
from tests.fine_tune import world
from tests.tiny import IMAGE_SIZE
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tests.tiny_masked import tiny_amused_pipeline, tiny_meissonic_pipeline

Places = dict[str, Path]
SIZE = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
CASES = [
    (tiny_sdxl_pipeline, {"method": "full", "objective": "bco"}),
    (tiny_sd3_pipeline, {"method": "lora", "ema": 0.9}),
    (tiny_flux_pipeline, {"method": "lora", "objective": "dpo"}),
    (tiny_amused_pipeline, {"method": "full", "draws": 2}),
    (tiny_amused_pipeline, {"method": "lora", "objective": "dspo"}),
    (tiny_meissonic_pipeline, {"method": "lora", "objective": "kto"}),
]


def weights(output: Path) -> dict[str, torch.Tensor]:
    files = sorted(output.rglob("*.safetensors"))
    return {
        f"{file.relative_to(output)}:{key}": t for file in files for key, t in read_tensors(file)[0].items()
    }


@pytest.mark.parametrize(("write", "changes"), CASES, ids=[write.__name__ for write, _ in CASES])
def test_it_ends_where_an_unbroken_training_does(
    write: Callable[[Path], Path],
    changes: dict[str, Any],
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = write(tmp_path / "model")
    params = world.params(model, SIZE, steps=3, checkpoint_every=1, batch_size=4, **changes)
    stage.run(params, world.workspace(places))
    broken = places | {name: tmp_path / "again" / name for name in ("checkpoints", "model", "training")}
    world.break_off(monkeypatch, params, broken)
    assert [path.name for path in broken["checkpoints"].iterdir()] == ["step-00002"]
    stage.run(params, world.workspace(broken))
    whole, resumed = weights(places["model"]), weights(broken["model"])
    assert whole and whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
