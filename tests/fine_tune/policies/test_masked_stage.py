"""The whole fine_tune stage on aMUSEd and Meissonic: cache, training that resumes, result, sampling from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fine_tune import stage
from fine_tune.data.batches import Encoded, Sampling, TrainingData
from fine_tune.data.cache import encode_folder
from fine_tune.data.labels import read_labels
from fine_tune.data.tensors import read_tensors
from fine_tune.policies import policy_class
from tests.fine_tune import world
from tests.tiny_masked import tiny_amused_pipeline, tiny_meissonic_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import Sampler

FAMILIES = [tiny_amused_pipeline, tiny_meissonic_pipeline]
WRITTEN = {
    "full": "transformer/diffusion_pytorch_model.safetensors",
    "lora": "pytorch_lora_weights.safetensors",
}


def draw(model: Path, params: Any) -> np.ndarray:
    sampler = Sampler(load_pipeline(str(model)), params.generate, batch_size=1)
    return np.asarray(next(iter(sampler.images(["picture number 0"], [1]))))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("write", FAMILIES)
def test_the_stage_tunes_the_family_and_resumes_exactly(
    write: Callable[[Path], Path],
    method: str,
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = write(tmp_path / "model")
    options: dict[str, Any] = {
        "steps": 3,
        "checkpoint_every": 1,
        "caption_dropout": 0.3,
        "learning_rate": 0.05,
    }
    params = world.params(model, {"guidance_scale": 2.0}, method=method, temperature=1.0, **options)
    stage.run(params, world.workspace(places))
    assert set(read_tensors(next(places["encoded"].glob("train-*")))[0]) == {"tokens", "size"}
    assert set(read_tensors(next(places["encoded"].glob("prompts-*")))[0]) == {"states", "pooled"}
    assert not np.array_equal(draw(places["model"], params), draw(model, params))
    broken = places | {name: tmp_path / "again" / name for name in ("checkpoints", "model", "training")}
    world.break_off(monkeypatch, params, broken)
    stage.run(params, world.workspace(broken))
    whole, resumed = (load_file(each["model"] / WRITTEN[method]) for each in (places, broken))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("write", FAMILIES)
def test_a_dropped_caption_is_the_empty_prompt_in_states_and_pooled(
    write: Callable[[Path], Path], places: dict[str, Path], tmp_path: Path
) -> None:
    params = world.params(write(tmp_path / "model"))
    shards = stage.plan(params, places["generations"])
    encode_folder(places["encoded"], stage.source(params, places["generations"]), shards, params.runtime)
    labels = read_labels(places["labels"])
    sampling = Sampling(seed=0, batch_size=4, caption_dropout=1.0)
    batch = TrainingData(labels, Encoded(places["encoded"], shards), sampling).batch(0)
    pipeline = load_pipeline(params.model)
    empty = policy_class(pipeline).encoder(pipeline, (None, None)).prompts([""])
    assert batch.conditions.keys() == empty.keys() == {"states", "pooled"}
    for name, rows in batch.conditions.items():
        torch.testing.assert_close(rows, empty[name].expand_as(rows))


def test_a_model_that_is_an_adapter_is_fused_before_it_is_tuned(
    places: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_amused_pipeline(tmp_path / "model")
    adapted = places | {
        name: tmp_path / "adapted" / name for name in ("checkpoints", "model", "training", "encoded")
    }
    stage.run(world.params(base, method="lora", steps=2, learning_rate=0.05), world.workspace(adapted))
    with pytest.raises(TgoError, match="is an adapter itself"):
        stage.run(world.params(adapted["model"], method="lora", steps=1), world.workspace(places))
    stage.run(world.params(adapted["model"], steps=1, learning_rate=1e-30), world.workspace(places))
    before: Any = load_pipeline(str(adapted["model"]))
    after: Any = load_pipeline(str(places["model"]))
    given = (
        torch.zeros(1, 8, 8, dtype=torch.long),
        torch.randn(1, 24, 16),
        torch.randn(1, 16),
        torch.zeros(1, 5),
    )
    with torch.no_grad():
        torch.testing.assert_close(after.transformer(*given), before.transformer(*given))
    assert not any("lora" in name for name in after.transformer.state_dict())
