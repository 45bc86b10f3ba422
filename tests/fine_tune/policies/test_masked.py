"""Masks, log-likelihoods, references and results of the masked families, against closed forms."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.deprecated.amused.pipeline_amused import AmusedPipeline
from PIL import Image

from fine_tune.policies import policy_class
from fine_tune.policies.masked import MaskedPolicy, MeissonicPolicy, draw_mask
from tests.fine_tune import world
from tests.rounding import assert_same_numbers
from tests.tiny_masked import CODES, GRID, MASK_TOKEN, WIDTH, tiny_amused_pipeline, tiny_meissonic_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.meissonic import MeissonicPipeline

COUNT = GRID**2
SEEDS = list(range(100, 106))
FAMILIES = {"amused": tiny_amused_pipeline, "meissonic": tiny_meissonic_pipeline}
LIBRARY = {"amused": AmusedPipeline, "meissonic": MeissonicPipeline}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in FAMILIES.items()}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(family: str, folders: dict[str, Path]) -> Path:
    return folders[family]


def build(folder: Path, **fine_tune: Any) -> Any:
    params = world.params(folder, **fine_tune).fine_tune
    pipeline = load_pipeline(str(folder))
    return policy_class(pipeline).build(pipeline, params, seed=0, with_reference=True)


def inputs(count: int = len(SEEDS)) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(CODES, (count, GRID, GRID), generator=generator, dtype=torch.int32)
    states = torch.randn(count, 24, WIDTH, generator=generator)
    pooled = torch.randn(count, WIDTH, generator=generator)
    return {"tokens": tokens, "size": torch.full((count, 2), 32)}, {"states": states, "pooled": pooled}


def rows(tensors: dict[str, torch.Tensor], part: slice) -> dict[str, torch.Tensor]:
    return {name: tensor[part] for name, tensor in tensors.items()}


def train(policy: MaskedPolicy, steps: int) -> tuple[float, float]:
    """The mean negative log-likelihood of one set of masks before and after a few steps of AdamW on it."""
    masked = policy.corrupt(*inputs(), SEEDS)
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = -policy.log_likelihood(policy.predict(masked), masked).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_the_tokens_of_an_image_decode_to_it(folder: Path) -> None:
    """The decoder of this test gives each code its own flat colour, the encoder finds the code of a colour."""
    pipeline: Any = load_pipeline(str(folder))
    pipeline.vqvae = colour_model()
    encoder = policy_class(pipeline).encoder(pipeline, (None, None))
    pixels = np.random.default_rng(0).integers(0, 2, (2, GRID, GRID, 3)) * 255
    images = [Image.fromarray(grid.repeat(4, 0).repeat(4, 1).astype(np.uint8)) for grid in pixels]
    encoded = encoder.images(images)
    assert encoded["tokens"].shape == (2, GRID, GRID) and encoded["tokens"].dtype == torch.int32
    expected = (pixels // 255) @ np.array([1, 2, 4])
    np.testing.assert_array_equal(encoded["tokens"].numpy(), expected)
    assert encoded["size"].tolist() == [[32, 32], [32, 32]]


class ColourModel(VQModel):
    """Codes are the eight corners of the colour cube [0, 1]^3; a latent is the mean colour of 4x4 pixels."""

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        assert x.min() >= 0 and x.max() <= 1
        return type("Latents", (), {"latents": torch.nn.functional.avg_pool2d(x, 4)})


def colour_model() -> ColourModel:
    model = ColourModel(
        block_out_channels=(4, 4, 4), latent_channels=3, num_vq_embeddings=8, norm_num_groups=2
    )
    corners = torch.tensor([[code & 1, code >> 1 & 1, code >> 2] for code in range(8)])
    model.quantize.embedding.weight.data = corners.float()
    return model


def test_images_of_another_size_are_cropped_and_sizes_checked(folder: Path) -> None:
    pipeline = load_pipeline(str(folder))
    encoder = policy_class(pipeline).encoder(pipeline, (48, 16))
    encoded = encoder.images([world.random_image(0, 40)])
    assert encoded["tokens"].shape == (1, 4, 12)
    assert encoded["size"].tolist() == [[48, 16]]
    with pytest.raises(TgoError, match="multiples of"):
        policy_class(pipeline).encoder(pipeline, (30, 32))


def test_prompts_are_encoded_as_in_sampling(family: str, folder: Path) -> None:
    """The pipeline's own call sees the states that the encoder caches, and the same micro-conditions."""
    pipeline: Any = load_pipeline(str(folder))
    calls: list[dict[str, torch.Tensor]] = []
    pipeline.transformer.register_forward_pre_hook(lambda _, __, given: calls.append(given), with_kwargs=True)
    pipeline(["one", "two"], num_inference_steps=1, guidance_scale=2.0, output_type="latent")
    policy = policy_class(pipeline)
    encoded = policy.encoder(pipeline, (None, None)).prompts(["", "", "one", "two"])
    pooled = {"amused": "pooled_text_emb", "meissonic": "pooled_projections"}[family]
    assert_same_numbers(encoded["states"], calls[0]["encoder_hidden_states"])  # it encodes two and two
    assert_same_numbers(encoded["pooled"], calls[0][pooled])
    masked = build(folder).corrupt(*inputs(4), SEEDS[:4])
    assert torch.equal(masked.micro_conditions, calls[0]["micro_conds"])
    assert masked.micro_conditions[0].tolist() == [32, 32, 0, 0, 6]


def test_as_many_tokens_are_masked_as_the_level_says(folder: Path) -> None:
    images, conditions = inputs(400)
    masked = build(folder).corrupt(images, conditions, range(400))
    share = np.cos(masked.progress.double().numpy() * np.pi / 2)
    np.testing.assert_array_equal(masked.mask.sum((1, 2)).numpy(), np.maximum(1, np.round(COUNT * share)))
    assert (masked.tokens[masked.mask] == MASK_TOKEN).all()
    assert torch.equal(masked.tokens[~masked.mask], images["tokens"].long()[~masked.mask])
    assert torch.equal(masked.target, images["tokens"].long())


def test_levels_are_uniform_and_so_are_places() -> None:
    draws = [draw_mask(seed, COUNT) for seed in range(3000)]
    levels = np.array([level.item() for level, _ in draws])
    counts = np.histogram(levels, 10, (0, 1))[0]
    assert (np.square(counts - 300) / 300).sum() < 27.9  # chi-square, 9 degrees of freedom, p = .001
    masks = torch.stack([mask for _, mask in draws]).double()
    share = masks.mean(1, keepdim=True)
    variance = (share * (1 - share)).sum()  # of the number of times that one place is masked
    spread = (masks - share).sum(0).square().sum() / variance * (COUNT - 1) / COUNT
    assert spread < 103.4  # chi-square, 63 degrees of freedom, p = .001


def test_a_mask_depends_on_its_own_seed_alone(folder: Path) -> None:
    policy = build(folder)
    images, conditions = inputs()
    whole = policy.corrupt(images, conditions, SEEDS)
    part = policy.corrupt(rows(images, slice(4, 6)), rows(conditions, slice(4, 6)), SEEDS[4:])
    assert torch.equal(whole.mask[4:], part.mask) and torch.equal(whole.progress[4:], part.progress)
    twins = policy.corrupt(images, conditions, [7] * 6)
    assert (twins.mask == twins.mask[0]).all() and (twins.progress == twins.progress[0]).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_likelihood_is_that_of_the_masked_tokens(folder: Path, reduction: str) -> None:
    policy = build(folder, temperature=0.02, logp_reduction=reduction)
    masked = policy.corrupt(*inputs(), SEEDS)
    with torch.no_grad():
        logits = policy.predict(masked)
    assert logits.shape == (len(SEEDS), CODES, GRID, GRID) and logits.dtype == torch.float32
    z = logits.double().numpy()
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    chosen = np.take_along_axis(log_p, masked.target.numpy()[:, None], 1)[:, 0]
    mask = masked.mask.numpy()
    expected = (chosen * mask).sum((1, 2)) / (mask.sum((1, 2)) if reduction == "mean" else 1)
    likelihood = policy.log_likelihood(logits, masked)
    np.testing.assert_allclose(likelihood.numpy(), expected / 0.02, rtol=1e-5)
    assert likelihood.dtype == torch.float32


def test_distance_is_the_mean_divergence_over_masked_tokens(folder: Path) -> None:
    policy = build(folder)
    masked = policy.corrupt(*inputs(), SEEDS)
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, len(SEEDS), CODES, GRID, GRID, generator=generator)
    p, q = (
        np.exp(z.double().numpy()) / np.exp(z.double().numpy()).sum(1, keepdims=True) for z in (first, second)
    )
    divergence = (q * np.log(q / p)).sum(1)
    mask = masked.mask.numpy()
    expected = (divergence * mask).sum((1, 2)) / mask.sum((1, 2))
    np.testing.assert_allclose(policy.distance(first, second, masked).numpy(), expected, rtol=1e-5)
    assert policy.distance(first, first, masked).abs().max() < 1e-6


def test_tokens_that_are_not_masked_have_no_say(folder: Path) -> None:
    policy = build(folder)
    masked = policy.corrupt(*inputs(), SEEDS)
    logits = torch.randn(len(SEEDS), CODES, GRID, GRID, requires_grad=True)
    policy.log_likelihood(logits, masked).sum().backward()
    assert logits.grad is not None
    assert not logits.grad.permute(0, 2, 3, 1)[~masked.mask].any()


def test_predictions_are_float32_under_autocast(folder: Path) -> None:
    policy = build(folder)
    masked = policy.corrupt(*inputs(), SEEDS)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = policy.predict(masked)
        assert logits.dtype == torch.float32
        assert policy.log_likelihood(logits, masked).dtype == torch.float32


@pytest.mark.parametrize("method", ["full", "lora"])
def test_reference_is_the_base_exactly_whatever_is_trained(folder: Path, method: str) -> None:
    policy = build(folder, method=method)
    masked = policy.corrupt(*inputs(), SEEDS)
    with torch.no_grad():
        before = policy.predict(masked)
    first, last = train(policy, 4)
    assert last < first
    with policy.reference():
        reference = policy.predict(masked)
    assert torch.equal(before, reference) and not reference.requires_grad
    assert not torch.equal(policy.predict(masked), reference)


def test_an_adapter_needs_no_second_copy_of_the_base(folder: Path) -> None:
    def networks() -> int:
        gc.collect()
        kinds = {"UVit2DModel", "MeissonicTransformer2DModel"}
        return sum(isinstance(x, ModelMixin) and type(x).__name__ in kinds for x in gc.get_objects())

    before = networks()
    adapted = build(folder, method="lora")
    assert networks() == before + 1
    assert all("lora_" in name for name in adapted.trainable())


def test_every_attention_projection_has_an_adapter(folders: dict[str, Path]) -> None:
    trained = {name.split(".lora_")[0] for name in build(folders["meissonic"], method="lora").trainable()}
    ends = {name.split("attn.")[1] for name in trained}
    text = {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
    assert ends == {"to_q", "to_k", "to_v", "to_out.0"} | text


@pytest.mark.parametrize("method", ["full", "lora"])
def test_saving_memory_keeps_the_gradient(folder: Path, method: str) -> None:
    gradients = []
    for saving in (False, True):
        policy = build(folder, method=method)
        if saving:
            policy.save_memory()
        masked = policy.corrupt(*inputs(), SEEDS)
        policy.log_likelihood(policy.predict(masked), masked).sum().backward()
        gradients.append({name: p.grad for name, p in policy.trainable().items()})
        state = policy.network.state_dict()
    assert gradients[0].keys() == gradients[1].keys() <= state.keys()
    for name, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient)


def test_full_result_loads_in_two_lines(family: str, folder: Path, tmp_path: Path) -> None:
    policy = build(folder)
    train(policy, 3)
    policy.save(tmp_path, load_pipeline(str(folder)))
    pipeline = LIBRARY[family].from_pretrained(tmp_path)
    assert type(pipeline) is LIBRARY[family]
    check_same(policy, pipeline)
    check_same(policy, load_pipeline(str(tmp_path)))


def test_adapter_loads_in_two_lines(family: str, folder: Path, tmp_path: Path) -> None:
    policy = build(folder, method="lora", lora={"rank": 2, "alpha": 5.0})
    train(policy, 3)
    policy.save(tmp_path, None)
    pipeline = LIBRARY[family].from_pretrained(folder)
    pipeline.transformer.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    check_same(policy, pipeline)
    (tmp_path / "tgo.json").write_text(f'{{"method": "lora", "base": "{folder}"}}')
    check_same(policy, load_pipeline(str(tmp_path)))


def check_same(policy: Any, pipeline: Any) -> None:
    masked = policy.corrupt(*inputs(), SEEDS)
    params = world.params(Path()).fine_tune
    other = type(policy)(pipeline.transformer, params, mask_token=pipeline.scheduler.config["mask_token_id"])
    with torch.no_grad():
        expected, actual = policy.predict(masked), other.predict(masked)
        with policy.reference():
            assert not torch.equal(policy.predict(masked), expected)
    torch.testing.assert_close(actual, expected)
    image = pipeline("one", num_inference_steps=2, guidance_scale=2.0).images[0]
    assert image.size == (32, 32)


def test_meissonic_timesteps_are_those_of_sampling_at_the_same_level(folders: dict[str, Path]) -> None:
    """Before step k of 64 the share cos(pi k / 128) is masked, and the timestep is 63 - k."""
    policy: MeissonicPolicy = build(folders["meissonic"])
    steps = torch.arange(64)
    assert torch.equal(policy.timestep((steps + 1e-3) / 64), torch.tensor([*range(62, -1, -1), 0]).float())
    assert torch.equal(policy.timestep(steps[:-1] / 64), (63 - steps[:-1]).float())
    assert policy.timestep(torch.tensor([0.0, 0.999])).tolist() == [63, 0]
    script: MeissonicPolicy = build(folders["meissonic"], timestep_mode="train_script")
    levels = torch.tensor([0.0, 0.25, 0.9])
    np.testing.assert_allclose(script.timestep(levels), 1000 * np.cos(levels.numpy() * np.pi / 2), rtol=1e-6)


def test_the_timestep_mode_changes_what_the_network_says(folders: dict[str, Path]) -> None:
    predictions = []
    for mode in ("inference_index", "train_script"):
        policy = build(folders["meissonic"], timestep_mode=mode)
        with torch.no_grad():
            predictions.append(policy.predict(policy.corrupt(*inputs(), SEEDS)))
    assert not torch.allclose(*predictions)


def test_a_mask_token_of_another_model_is_refused(folder: Path) -> None:
    params = world.params(folder).fine_tune
    for wrong in (CODES - 1, CODES + 100):
        pipeline: Any = load_pipeline(str(folder))
        pipeline.scheduler.register_to_config(mask_token_id=wrong)
        with pytest.raises(TgoError, match=f"masks with token {wrong}"):
            policy_class(pipeline).build(pipeline, params, seed=0, with_reference=False)
