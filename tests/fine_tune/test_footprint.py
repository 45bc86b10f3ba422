"""An imagined update against one of the real trainer: operations, memory, and the checkpoint's size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fine_tune.data.batches import TrainingBatch
from fine_tune.footprint import training
from fine_tune.objectives import make_objective
from fine_tune.policies import family_of, policy_class
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.checkpoints import Checkpoints
from fine_tune.training.trainer import Trainer
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_families import tiny_sd3_pipeline, tiny_wan_pipeline
from tests.tiny_masked import tiny_meissonic_pipeline
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import (
    FineTuneParams,
    GenerateParams,
    GuardParams,
    Params,
    PromptsParams,
    RuntimeParams,
    ScoreParams,
)
from tgo_pipeline.params.objectives import KtoParams
from tgo_pipeline.planning.blueprint import read_blueprint
from tgo_pipeline.planning.disk import safetensors_bytes
from tgo_pipeline.planning.meter import Meter
from tgo_pipeline.planning.sampling import Encoding, encoding
from tgo_pipeline.storage.shards import Mark

TUNING = FineTuneParams(steps=4, batch_size=4, guard=GuardParams(negative_error=None))
ONE, PARTS = RuntimeParams(device="cpu"), RuntimeParams(device="cpu", micro_batch_size=2)
SPARING = RuntimeParams(device="cpu", micro_batch_size=2, gradient_checkpointing=True)
CASES: dict[str, tuple[dict[str, Any], RuntimeParams]] = {
    "tgo": ({}, ONE),
    "recomputed": ({"method": "lora"}, SPARING),
    "pairs": ({"objective": "dpo"}, PARTS),
    "reference point": ({"objective": "kto", "kto": KtoParams(reference_point="paper")}, PARTS),
    "no reference": ({"objective": "sft", "ema": 0.9, "draws": 2}, PARTS),
    "adafactor": ({"optimizer": "adafactor"}, PARTS),
    "half precision": ({"precision": "bf16"}, SPARING),
}


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_diffusion_pipeline(tmp_path_factory.mktemp("sd")))


@pytest.mark.parametrize("case", CASES)
def test_an_update_costs_what_it_costs_in_reality(case: str, diffusion: str, tmp_path: Path) -> None:
    changes, runtime = CASES[case]
    _compare(diffusion, dataclasses.replace(TUNING, **changes), runtime, tmp_path)


@pytest.mark.parametrize("write", [tiny_sd3_pipeline, tiny_meissonic_pipeline])
def test_other_families_cost_what_they_cost_in_reality(write: Any, tmp_path: Path) -> None:
    _compare(str(write(tmp_path / "model")), TUNING, PARTS, tmp_path)


@pytest.mark.parametrize("changes", [{"method": "lora"}, {"method": "lora", "precision": "bf16"}])
def test_clips_cost_what_they_cost_in_reality(changes: dict[str, Any], tmp_path: Path) -> None:
    size = GenerateParams(width=32, height=32, frames=9)
    model = str(tiny_wan_pipeline(tmp_path / "model"))
    _compare(model, dataclasses.replace(TUNING, **changes), SPARING, tmp_path, size)


def _compare(
    model: str,
    tuning: FineTuneParams,
    runtime: RuntimeParams,
    folder: Path,
    size: GenerateParams | None = None,
) -> None:
    params = Params(
        model=model,
        generate=size or GenerateParams(),
        prompts=PromptsParams(test_fraction=0.5),
        score=ScoreParams(rewards={"clip": "demo"}),
        fine_tune=tuning,
        runtime=runtime,
    )
    family = family_of(read_blueprint(model), params.generate, tuning)
    encoded = encoding(family, 1)
    planned = training(family, encoded, params)
    measured, trainer = _measure(params, encoded)
    assert planned.flops_per_step == pytest.approx(measured.flops, rel=1e-6)
    sure = (
        0.01 if tuning.precision == "fp32" else 0.5
    )  # a CPU rounds more than CUDA, whose rules are planned with
    assert planned.peak_bytes == pytest.approx(measured.peak_bytes, rel=sure)
    Checkpoints(folder / "kept", Mark("mark")).save(trainer.state())
    files = {
        "weights": planned.trained,
        "optimizer": planned.optimizer,
        **({"average": planned.trained} if planned.average_bytes else {}),
    }
    for name, tensors in files.items():
        (file,) = (folder / "kept").rglob(f"{name}.safetensors")
        assert safetensors_bytes(tensors, {}) == file.stat().st_size


def _measure(params: Params, encoded: Encoding) -> tuple[Meter, Trainer]:
    """The second update: from then on the optimiser has its state."""
    pipeline, tuning = load_pipeline(params.model), params.fine_tune
    objective = make_objective(tuning)
    policy = policy_class(pipeline).build(pipeline, tuning, seed=0, with_reference=objective.needs_reference)
    meter = Meter()
    meter.hold(*policy.networks)
    with meter:
        accelerator = Accelerator(tuning.precision, torch.device("cpu"))
        data: Any = _data(encoded, objective, tuning)
        trainer = Trainer(policy, objective, data, tuning, params.runtime, accelerator)
        trainer.update()
        meter.restart_peak()
        meter.flops = 0.0
        trainer.update()
    return meter, trainer


def _data(encoded: Encoding, objective: Any, tuning: FineTuneParams) -> SimpleNamespace:
    """Batches of zeros of the encoder's shapes, made again at every step as real ones are."""
    members = 2 if objective.pairs else 1
    rows = tuning.batch_size * members
    mismatched = objective.reference_point is not None and objective.reference_point.mismatched

    def tensors(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(rows, *shape, dtype=dtype) + 32 for name, (shape, dtype) in shapes.items()}

    def images() -> dict[str, torch.Tensor]:
        made = tensors(encoded.image)
        return made | ({"tokens": made["tokens"] * 0} if "tokens" in made else {})

    def batch(*_: int) -> TrainingBatch:
        label = torch.tensor([1.0, 0.0] * (rows // 2))
        seeds = [[row] * tuning.draws for row in range(rows)]
        others = tensors(encoded.prompt) if mismatched else {}
        return TrainingBatch(
            images(), tensors(encoded.prompt), others, label, torch.ones(rows), torch.ones(rows), seeds
        )

    return SimpleNamespace(batch=batch, members=members, epochs=lambda _: 0.0)
