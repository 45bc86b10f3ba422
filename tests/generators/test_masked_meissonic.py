"""Meissonic images: the published folder's layout, guidance on logits, timesteps, and images of their own seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.rounding import assert_same_tokens
from tests.tiny_masked import CODES, GRID, MASK_TOKEN, tiny_meissonic_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.meissonic import MeissonicPipeline, micro_conditions
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import GenerateParams

PROMPTS = [f"prompt {number}" for number in range(4)]
SEEDS = [2**63 - 1 - number for number in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_meissonic_pipeline(tmp_path_factory.mktemp("meissonic"))


@pytest.fixture
def pipeline(folder: Path) -> Any:
    return load_pipeline(str(folder))


def published(folder: Path) -> Path:
    """Give a folder the index and the class names of the published one."""
    index = json.loads((folder / "model_index.json").read_text())
    del index["sample_size"]
    index |= {
        "_class_name": "Pipeline",
        "transformer": ["src.transformer", "Transformer2DModel"],
        "scheduler": ["src.scheduler", "Scheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "Scheduler"}))
    return folder


def tokens(pipeline: Any, rows: slice = slice(None), **options: Any) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS[rows]]
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"} | options
    return pipeline(PROMPTS[rows], generator=generators, **options).images


def test_the_batch_does_not_change_an_images_tokens(pipeline: Any) -> None:
    together = tokens(pipeline)
    assert together.shape == (4, GRID, GRID) and together.max() < CODES
    assert all((together[i] != together[j]).any() for i in range(4) for j in range(i))
    for row in range(4):
        assert_same_tokens(tokens(pipeline, slice(row, row + 1))[0], together[row])


def test_the_sampler_draws_and_refuses(pipeline: Any) -> None:
    def draw(**options: Any) -> np.ndarray:
        params = GenerateParams(**{"guidance_scale": 3.0, "steps": 4, **options})
        return np.stack([np.asarray(each) for each in Sampler(pipeline, params, 3).images(PROMPTS, SEEDS)])

    assert draw().shape == (4, 32, 32, 3)
    assert draw(width=48, height=16).shape == (4, 16, 48, 3)
    with pytest.raises(TgoError, match="divisible by 4"):
        draw(width=30, height=32)
    with pytest.raises(TgoError, match="cannot be halved"):
        draw(width=20, height=32)


def test_the_published_layout_gives_the_same_images(tmp_path: Path, folder: Path, pipeline: Any) -> None:
    original: Any = load_pipeline(str(published(tiny_meissonic_pipeline(tmp_path))))
    assert type(original) is MeissonicPipeline
    assert_same_tokens(tokens(original, height=32, width=32), tokens(pipeline))
    assert original.config["sample_size"] == 64  # of the models that halve the grid
    lean: Any = load_pipeline(str(tmp_path), without=["vae", "vqvae", "text_encoder"])
    assert lean.vqvae is None and lean.text_encoder is None and lean.transformer is not None


def test_models_that_do_not_halve_the_grid_are_smaller(tmp_path: Path) -> None:
    pipeline: Any = load_pipeline(str(published(tiny_meissonic_pipeline(tmp_path, downsample=False))))
    assert pipeline.config["sample_size"] == 32
    assert tokens(pipeline, slice(1), height=20, width=32).shape == (1, 5, 8)


def test_what_is_saved_loads_in_two_lines(tmp_path: Path, pipeline: Any) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = MeissonicPipeline.from_pretrained(tmp_path)
    assert_same_tokens(tokens(loaded), tokens(pipeline))
    half = MeissonicPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.transformer.dtype == half.text_encoder.dtype == torch.bfloat16
    assert half("one", num_inference_steps=2).images[0].size == (32, 32)


def test_a_transformer_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tiny_meissonic_pipeline(tmp_path)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["x_embedder.weight"] = weights.pop("embed.embeddings.weight")
    save_file(weights, file)
    with pytest.raises(TgoError, match=r"it lacks embed\.embeddings\.weight; it has unknown x_embedder"):
        load_pipeline(str(folder))
    with pytest.raises(
        TgoError, match=r"no Meissonic transformer: 2 of its weights.*embed\.embeddings\.weight"
    ):
        MeissonicPipeline.from_pretrained(folder)


def test_guidance_moves_the_logits_away_from_the_negative_prompt(pipeline: Any) -> None:
    """l_negative + scale (l_prompt - l_negative), both from one call of the network."""
    masked = torch.full((1, GRID, GRID), MASK_TOKEN)
    outputs: list[torch.Tensor] = []
    pipeline.transformer.register_forward_hook(lambda _, __, logits: outputs.append(logits))
    for prompt, scale in (("a", 1.0), ("b", 1.0), ("a", 9.0)):
        pipeline(prompt, negative_prompt="b", guidance_scale=scale, num_inference_steps=1, latents=masked)
    wanted, unwanted, together = outputs
    torch.testing.assert_close(together, torch.cat([unwanted, wanted]))
    with torch.no_grad():
        guided = pipeline._logits(masked, torch.tensor(0), pipeline._conditions(["a"], "b", 32, 32), 9.0)
    expected = unwanted.double() + 9 * (wanted.double() - unwanted.double())
    torch.testing.assert_close(guided.double(), expected, atol=1e-4, rtol=1e-4)


def test_no_negative_prompt_is_the_empty_prompt(pipeline: Any) -> None:
    assert torch.equal(tokens(pipeline), tokens(pipeline, negative_prompt=[""] * 4))
    assert not torch.equal(tokens(pipeline), tokens(pipeline, negative_prompt="low quality"))


def test_the_network_is_told_the_remaining_steps_and_the_size(pipeline: Any) -> None:
    calls: list[dict[str, Any]] = []
    pipeline.transformer.register_forward_pre_hook(lambda _, __, given: calls.append(given), with_kwargs=True)
    tokens(pipeline, num_inference_steps=5, width=48)
    assert [given["timestep"].tolist() for given in calls] == [[4], [3], [2], [1], [0]]
    assert torch.equal(calls[0]["micro_conds"], micro_conditions(8, 48, 32, "cpu"))
    assert calls[0]["micro_conds"][0].tolist() == [48, 32, 0, 0, 6]


def test_given_tokens_stay(pipeline: Any) -> None:
    start = torch.full((4, GRID, GRID), MASK_TOKEN)
    start[:, :4] = 7
    drawn = tokens(pipeline, latents=start)
    assert (drawn[:, :4] == 7).all() and (drawn != MASK_TOKEN).all()
