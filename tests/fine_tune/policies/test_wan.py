"""Wan against the published formulas in float64, its pipeline's own calls, and the library's readers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler, WanPipeline

from fine_tune.objectives import make_objective
from fine_tune.objectives.base import Batch
from fine_tune.policies import policy_class
from fine_tune.policies.base import ENCODING_PARTS
from fine_tune.policies.wan import TEXT_TOKENS, WanPolicy
from tests.fine_tune import world
from tests.fine_tune.policies.test_families import recorded, train
from tests.rounding import NETWORK, assert_same_numbers
from tests.tiny_families import tiny_wan_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.guidance import guided_pipeline

SIZE, FRAMES = 16, 9
PROMPTS = ["a cat", "two dogs on a sofa", "rain"]
SEEDS = [11, 12, 13]
BOTH = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_pipeline(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def encoded(model: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    encoder = WanPolicy.encoder(load_pipeline(str(model)), (SIZE, SIZE))
    return encoder.images([clip(seed) for seed in SEEDS]), encoder.prompts(PROMPTS)


def clip(seed: int, frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, SIZE, SIZE, 3), dtype=np.uint8)


def build(model: Path, **fine_tune: Any) -> WanPolicy:
    pipeline = load_pipeline(str(model), without=ENCODING_PARTS)
    tuning = world.params(model, **fine_tune).fine_tune
    return policy_class(pipeline).build(pipeline, tuning, seed=0, with_reference=True)  # type: ignore[return-value]


def draw(pipeline: Any, prompts: list[str] = PROMPTS, **options: Any) -> np.ndarray:
    """Clips (N, frames, height, width, 3) of the pipeline as the library calls it."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS[: len(prompts)]]
    size = {"width": SIZE, "height": SIZE, "num_frames": FRAMES}
    return pipeline(
        list(prompts), generator=generators, num_inference_steps=3, guidance_scale=3.0, **size, **options
    ).frames


def test_the_network_is_fed_what_the_pipeline_feeds_it(model: Path, encoded: Any) -> None:
    pipeline = load_pipeline(str(model))
    policy = WanPolicy.build(pipeline, world.params(model).fine_tune, seed=0, with_reference=False)
    first = recorded(policy.network, lambda: draw(pipeline))[0]
    noised = policy.corrupt(*encoded, SEEDS)
    given = dataclasses.replace(noised, latents=first["hidden_states"], timesteps=first["timestep"])
    mine = recorded(policy.network, lambda: policy.predict(given))[0]
    assert first["encoder_hidden_states"].shape[1] == TEXT_TOKENS > encoded[1]["embeddings"].shape[1]
    for name in ("hidden_states", "timestep", "encoder_hidden_states"):
        assert_same_numbers(mine[name], first[name])
    assert first["attention_kwargs"] is None and first.keys() - mine.keys() == {"attention_kwargs"}


def test_the_prompt_is_cut_to_exact_zeros(model: Path, encoded: Any) -> None:
    """What the pipeline itself encodes, at its full length, is the cut condition with zeros behind it."""
    pipeline: Any = load_pipeline(str(model))
    with torch.no_grad():
        whole, _ = pipeline.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
        )
    cut = encoded[1]["embeddings"]
    tokens = [len(pipeline.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    assert cut.shape[1] == max(tokens)
    assert_same_numbers(cut, whole[:, : cut.shape[1]])
    assert not whole[:, cut.shape[1] :].any()
    for row, length in zip(cut, tokens, strict=True):
        assert row[:length].any(1).all() and not row[length:].any()
    policy = build(model)
    noised = policy.corrupt(*encoded, SEEDS)
    longer = dataclasses.replace(noised, conditions={"embeddings": whole})
    with torch.no_grad():
        assert_same_numbers(policy.predict(noised), policy.predict(longer))


def test_latents_are_normalised_per_channel(model: Path, encoded: Any) -> None:
    """In float64 from the mode of the VAE's posterior, by the numbers of the published configuration."""
    vae: Any = load_pipeline(str(model)).vae
    pixels = torch.from_numpy(np.stack([clip(seed) for seed in SEEDS])).permute(0, 4, 1, 2, 3) / 127.5 - 1
    with torch.no_grad():
        mode = vae.encode(pixels).latent_dist.mode().double().numpy()
    mean, std = (np.array(vae.config[name])[:, None, None, None] for name in ("latents_mean", "latents_std"))
    assert mean[0] == -0.7571 and std[15] == 1.916
    np.testing.assert_allclose(encoded[0]["latents"], (mode - mean) / std, rtol=1e-5, atol=1e-5)
    assert encoded[0]["latents"].shape == (3, 16, 3, 2, 2)


@pytest.mark.parametrize("euler", [False, True])
def test_the_schedule_is_shifted_whatever_the_scheduler_calls_it(euler: bool, tmp_path: Path) -> None:
    policy = build(tiny_wan_pipeline(tmp_path, euler=euler))
    u = np.arange(1000, 0, -1) / 1000
    np.testing.assert_allclose(policy._schedule(torch.Size((1, 16, 3, 2, 2))), 3 * u / (1 + 2 * u), rtol=1e-6)


def test_one_loss_in_float64(model: Path, encoded: Any) -> None:
    """TGO's loss of each clip from the network's answers alone: sigma, mixture, velocity, likelihood, margin."""
    policy = build(model, method="lora", temperature=0.02, beta=0.1, lora={"rank": 2, "alpha": 2})
    noised = policy.corrupt(*encoded, SEEDS)
    train(policy, noised, steps=3)
    prediction, corruption = policy.predict(noised), noised
    with policy.reference():
        reference = policy.predict(noised)
    z = encoded[0]["latents"].double().numpy()
    sigma = (noised.timesteps.double().numpy() / 1000)[:, None, None, None, None]
    assert not np.array_equal(np.round(noised.timesteps), noised.timesteps)  # no whole numbers, as UniPC has
    noise = np.stack([_noise(seed, z.shape[1:]) for seed in SEEDS])
    np.testing.assert_allclose(noised.latents, (1 - sigma) * z + sigma * noise, atol=2e-6)
    velocity = noise - z

    def likelihood(answer: torch.Tensor) -> np.ndarray:
        return -np.square(answer.detach().double().numpy() - velocity).mean((1, 2, 3, 4)) / 0.02

    label, weight = np.array([1.0, 0.0, 1.0]), np.array([1.0, 2.5, 4.0])
    margin = 0.1 * (likelihood(prediction) - likelihood(reference))
    log_sigmoid = -np.logaddexp(0, -margin), -np.logaddexp(0, margin)
    expected = -weight * (label * log_sigmoid[0] + (1 - label) * log_sigmoid[1])
    given = Batch(torch.tensor(label).float(), torch.tensor(weight).float(), torch.zeros(3), 0.1, 0.02)
    loss, _ = make_objective(policy.params)(
        policy.log_likelihood(prediction, corruption), policy.log_likelihood(reference, corruption), given
    )
    np.testing.assert_allclose(loss.detach(), expected, rtol=1e-4)
    assert np.abs(margin).min() > 1e-3  # the adapter has learned something


def _noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """What a seed gives after its draw of sigma."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn((), generator=generator)
    return torch.randn(shape, generator=generator).double().numpy()


def test_a_clip_alone_is_what_it_is_in_a_batch(model: Path, encoded: Any) -> None:
    policy = build(model)
    images, conditions = encoded
    encoder = WanPolicy.encoder(load_pipeline(str(model)), (SIZE, SIZE))
    assert_same_numbers(encoder.images([clip(SEEDS[1])])["latents"][0], images["latents"][1])
    with torch.no_grad():
        whole = policy.predict(policy.corrupt(images, conditions, SEEDS))
        alone = policy.predict(
            policy.corrupt(
                {"latents": images["latents"][1:2]}, {"embeddings": conditions["embeddings"][1:2]}, SEEDS[1:2]
            )
        )
    assert_same_numbers(alone[0], whole[1])
    drawn = draw(load_pipeline(str(model)))
    single = draw(load_pipeline(str(model)), PROMPTS[:1])
    np.testing.assert_allclose(single[0], drawn[0], atol=1e-3)


@pytest.mark.parametrize("targets", [(), BOTH])
def test_adapters_reach_both_attentions_and_the_feed_forward_if_asked(model: Path, targets: Any) -> None:
    names = build(model, method="lora", lora={"target_modules": list(targets)}).trainable()
    modules = {name.split(".lora_")[0].split(".", 2)[2] for name in names}
    attention = {f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    assert modules == attention | set(targets) & {"ffn.net.0.proj", "ffn.net.2"}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_lines_of_the_library_load_the_result(
    model: Path, encoded: Any, method: str, tmp_path: Path
) -> None:
    policy = build(model, method=method, lora={"rank": 4, "alpha": 2.0})
    noised = policy.corrupt(*encoded, SEEDS)
    with torch.no_grad():
        before = policy.predict(noised)
    losses = train(policy, noised, steps=3)
    assert losses[-1] < losses[0]
    with policy.reference():
        assert torch.equal(policy.predict(noised), before)
    policy.save(tmp_path / "tuned", load_pipeline(str(model)))
    if method == "full":
        pipeline = WanPipeline.from_pretrained(tmp_path / "tuned")
    else:
        pipeline = WanPipeline.from_pretrained(model)
        pipeline.load_lora_weights(tmp_path / "tuned")
    with torch.no_grad():
        assert_same_numbers(policy.forward(pipeline.transformer, noised), policy.predict(noised))


def test_guidance_by_two_adapters_is_their_weighted_sum(model: Path, encoded: Any, tmp_path: Path) -> None:
    """cPGD around the pipeline's network: v + w (v_plus - v_minus); with strength 0 the base's clips, to the bit."""
    policies = []
    for number, sign in enumerate((1.0, -1.0)):
        policy = build(model, method="lora", lora={"rank": 2, "alpha": 2})
        noised = policy.corrupt(*encoded, SEEDS)
        moved = dataclasses.replace(noised, target=sign * noised.target)
        train(policy, moved, steps=3)
        policy.save(tmp_path / str(number), None)
        (tmp_path / str(number) / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(model)}))
        policies.append(policy)
    base = load_pipeline(str(model))
    plain = draw(base)
    guided = guided_pipeline(base, tmp_path / "0", tmp_path / "1", strength=0.7)
    noised = policies[0].corrupt(*encoded, SEEDS)
    with torch.no_grad():
        plus, minus = (policy.predict(noised) for policy in policies)
        with policies[0].reference():
            reference = policies[0].predict(noised)
        answer = policies[0].forward(guided.transformer, noised)
    assert_same_numbers(answer, reference + 0.7 * (plus - minus), 4 * NETWORK)
    assert not np.allclose(draw(guided), plain, atol=1e-3)
    guided.guidance.strength = 0.0
    assert np.array_equal(draw(guided), plain)


def test_half_precision_leaves_the_vae_and_the_norms_in_float32(model: Path) -> None:
    pipeline: Any = load_pipeline(str(model), precision="bf16")
    network = pipeline.transformer
    assert {p.dtype for p in pipeline.vae.parameters()} == {torch.float32}
    wide = {name for name, p in network.named_parameters() if p.dtype == torch.float32}
    assert {
        "scale_shift_table",
        "blocks.0.norm2.weight",
        "condition_embedder.time_embedder.linear_1.weight",
    } <= wide
    assert (
        network.blocks[0].attn1.to_q.weight.dtype
        == network.blocks[0].attn1.norm_q.weight.dtype
        == torch.bfloat16
    )
    assert np.isfinite(draw(pipeline)).all()
    with pytest.raises(TgoError, match="T5, which overflows"):
        load_pipeline(str(model), precision="fp16")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"_class_name": "WanImageToVideoPipeline"}, "videos of images"),
        ({"boundary_ratio": 0.875}, "two experts"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "two experts"),
        ({"expand_timesteps": True}, "timestep for each token"),
    ],
)
def test_other_models_of_wan_are_refused_with_a_reason(
    index: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    model = tiny_wan_pipeline(tmp_path)
    (model / "transformer_2").mkdir()
    path = model / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    with pytest.raises(TgoError, match=rf"{reason}.*only the text-to-video models of 2\.1"):
        load_pipeline(str(model))


def test_what_cannot_be_tuned_is_refused(model: Path) -> None:
    pipeline: Any = load_pipeline(str(model))
    encoder = WanPolicy.encoder(pipeline, (SIZE, SIZE))
    with pytest.raises(TgoError, match=r"8 frames: .*multiple of 4 and one more, such as 5"):
        encoder.images([clip(1, 8)])
    with pytest.raises(TgoError, match="clips of 5 and of 9 frames"):
        encoder.images([clip(1, 5), clip(1, 9)])
    with pytest.raises(TgoError, match="24 and 16: WanPipeline needs multiples of 16"):
        WanPolicy.encoder(pipeline, (24, 16))
    tuning = world.params(model).fine_tune
    with pytest.raises(TgoError, match="sample images, and the model draws clips"):
        build(model).denoising(torch.Size((1, 16, 3, 2, 2)), 2, 0.0)
    pipeline.transformer.register_to_config(image_dim=32)
    with pytest.raises(TgoError, match="takes an image besides the prompt"):
        WanPolicy.build(pipeline, tuning, seed=0, with_reference=False)
    pipeline.transformer.register_to_config(image_dim=None)
    for scheduler in (DDIMScheduler(), UniPCMultistepScheduler(flow_shift=3.0)):
        pipeline.scheduler = scheduler
        with pytest.raises(TgoError, match=r"without the shifted schedule of a flow"):
            WanPolicy.build(pipeline, tuning, seed=0, with_reference=False)


def test_the_published_sizes_are_those_of_the_classes() -> None:
    """14B is what the class describes by default, 1.3B has 12 heads and 30 layers; on torch's meta device."""
    small = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "text_dim": 4096}
    with torch.device("meta"):
        networks = [diffusers.WanTransformer3DModel(**sizes) for sizes in (small, {"text_dim": 4096})]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts[0] == 1_418_996_800 and math.isclose(counts[1], 14.3e9, rel_tol=0.01)
