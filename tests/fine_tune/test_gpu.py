"""Trainings of every family on a GPU, which is pretended, and what is drawn meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune import stage
from fine_tune.data.tensors import read_tensors
from fine_tune.training.trainer import Trainer, Update
from fine_tune.training.validation import Validation
from tests.fine_tune import world
from tests.pretended_gpu import pretended
from tests.tiny import IMAGE_SIZE, tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tests.tiny_masked import tiny_amused_pipeline, tiny_meissonic_pipeline
from tgo_pipeline.generators.stage import generate_folder

Places = dict[str, Path]
SIZE = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
DRAWN = {"validation": {"every": 1, "prompts": 2}}
ANEW = {"reestimate": {"prompts": 3, "images_per_prompt": 2}, "batch_size": 24}
CASES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (tiny_diffusion_pipeline, {"method": "lora", "objective": "dpo", **DRAWN}),
    (tiny_diffusion_pipeline, {"objective": "cpgd", "method": "lora", "guidance": {"strength": 2.0}}),
    (tiny_diffusion_pipeline, {"precision": "bf16", **ANEW}),
    (tiny_sdxl_pipeline, {"method": "lora", "precision": "bf16", **DRAWN}),
    (tiny_sd3_pipeline, {"method": "lora", "precision": "fp16", "ema": 0.9, **DRAWN}),
    (tiny_flux_pipeline, {"method": "lora", "precision": "bf16", **DRAWN}),
    (tiny_amused_pipeline, {"draws": 2, "precision": "bf16", **DRAWN}),
    (tiny_meissonic_pipeline, {"method": "lora", "objective": "kto", **DRAWN}),
]
IDS = [f"{write.__name__}-{'-'.join(map(str, changes.values()))[:24]}" for write, changes in CASES]


@pytest.mark.parametrize(("write", "changes"), CASES, ids=IDS)
def test_it_trains_and_draws_on_its_gpu(
    write: Callable[..., Any],
    changes: dict[str, Any],
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = write(tmp_path / "model")
    settings = {"steps": 2, "checkpoint_every": 1, "batch_size": 4, "learning_rate": 1e-6, **changes}
    params = world.params(model, SIZE, **settings)
    params = replace(params, runtime=replace(params.runtime, device="cuda:1", workers=0))
    expected = torch.device("cuda:1")
    with pretended(monkeypatch) as machine:
        stage.run(params, world.workspace(places))
    assert machine.used.keys() == machine.asked | {expected} == {expected}
    with pretended(monkeypatch) as machine:
        generate_folder(
            tmp_path / "drawn",
            [("p", "picture number 1")],
            split="train",
            model=str(places["model"]),
            revision=None,
            params=params.generate,
            images_per_prompt=2,
            seed=0,
            purpose="generate",
            runtime=params.runtime,
        )
    assert machine.used.keys() == {expected}


def test_text_encoders_are_off_the_gpu_while_it_trains_and_draws(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"steps": 2, "batch_size": 4, "method": "lora", **DRAWN}
    params = world.params(tiny_sd3_pipeline(tmp_path / "model"), SIZE, **changes)
    params = replace(params, runtime=replace(params.runtime, device="cuda", workers=0))
    draw, seen = Validation.draw, []

    def watched(validation: Validation, step: int) -> Path | None:
        pipeline: Any = validation._sampler._pipeline
        parts = {
            "vae": pipeline.vae,
            "transformer": pipeline.transformer,
            "text": pipeline.text_encoder_2.encoder,
        }
        seen.append({name: next(part.parameters()).device.type for name, part in parts.items()})
        return draw(validation, step)

    monkeypatch.setattr(Validation, "draw", watched)
    with pretended(monkeypatch):
        stage.run(params, world.workspace(places))
    assert seen == [{"vae": "cuda", "transformer": "cuda", "text": "cpu"}] * 3


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (tiny_diffusion_pipeline, {"micro": 2}),
        (tiny_sd3_pipeline, {"micro": 2}),
        (tiny_amused_pipeline, {"micro": 2}),
        (tiny_diffusion_pipeline, {"micro": 2, "objective": "kto"}),
        (tiny_diffusion_pipeline, {"micro": 4, "objective": "kto"}),
        (tiny_diffusion_pipeline, {"micro": 2, "objective": "bco"}),
        (tiny_diffusion_pipeline, {"micro": 4, "objective": "kto", "kto": {"reference_point": "paper"}}),
    ],
)
def test_a_step_waits_for_its_gpu_once(
    write: Callable[..., Any],
    changes: dict[str, Any],
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the objective: the reference point of KTO and BCO stays on the GPU until the end of the step."""
    model, micro = write(tmp_path / "model"), changes["micro"]
    tuning = {name: value for name, value in changes.items() if name != "micro"}

    def waits(steps: int) -> int:
        settings = {"steps": steps, "checkpoint_every": 100, "batch_size": 4, "learning_rate": 1e-6}
        params = world.params(model, SIZE, **settings, method="lora", **tuning)
        runtime = replace(params.runtime, device="cuda", workers=0, micro_batch_size=micro)
        with pretended(monkeypatch) as machine:
            stage.run(replace(params, runtime=runtime), world.workspace(places))
        return machine.waits

    waits(1)  # which fills the cache
    clipping = 1  # torch copies its factor to the CPU, where it takes the gradients of a pretended GPU to be
    assert (waits(5) - waits(3)) / 2 == 1 + clipping


class _Killed(BaseException):
    """As a kill: nothing catches it."""


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"method": "lora"}], ids=["full", "lora"])
def test_convolutions_train_channels_last_and_go_on_from_a_checkpoint(
    changes: dict[str, Any], places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pretended GPU computes as a CPU does, channels last: losses are near, and a resumed run has the same bits."""
    settings = {"steps": 4, "checkpoint_every": 2, "batch_size": 4, "learning_rate": 1e-4, **changes}
    params = world.params(tiny_diffusion_pipeline(tmp_path / "model"), SIZE, **settings)
    layouts: list[bool] = []
    update = Trainer.update

    def train(name: str, device: str, kill_at: int | None = None) -> Places:
        def watched(trainer: Trainer) -> Update:
            if trainer.step == kill_at:
                raise _Killed
            weight = trainer._network.get_submodule("conv_in").weight
            moments = [m for m in trainer._optimizer.state.get(weight, {}).values() if m.dim() == 4]
            layouts.extend(each.stride()[1] == 1 for each in (weight, *moments))  # type: ignore[operator]
            return update(trainer)

        here = {key: place if key in world.INPUTS else tmp_path / name / key for key, place in places.items()}
        monkeypatch.setattr(Trainer, "update", watched)
        own = replace(params, runtime=replace(params.runtime, device=device, workers=0))
        stage.run(own, world.workspace(here))
        return here

    on_cpu = train("cpu", "cpu")
    assert not any(layouts)
    layouts.clear()
    with pretended(monkeypatch):
        unbroken = train("unbroken", "cuda")
        assert all(layouts)
        with pytest.raises(_Killed):
            train("killed", "cuda", kill_at=3)
        layouts.clear()
        resumed = train("killed", "cuda")
        assert len(layouts) >= 2 and all(layouts)
    for found, expected, equal in ((resumed, unbroken, True), (unbroken, on_cpu, False)):
        theirs = {
            path.relative_to(expected["model"]): path for path in expected["model"].rglob("*.safetensors")
        }
        assert theirs
        for name, path in theirs.items():
            mine = (found["model"] / name).read_bytes()
            if equal:
                assert mine == path.read_bytes()
            else:
                weights, wanted = read_tensors(found["model"] / name)[0], read_tensors(path)[0]
                for key, tensor in wanted.items():
                    torch.testing.assert_close(weights[key], tensor, rtol=1e-3, atol=3e-4)
