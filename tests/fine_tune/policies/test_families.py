"""Every family that noises latents, from pipelines as the library writes them: fed as the pipeline feeds its network,
trained, saved, and read back by the library's own two lines."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from fine_tune.policies import policy_class
from fine_tune.policies.base import ENCODING_PARTS
from fine_tune.policies.latent import LatentPolicy, Noised
from tests.fine_tune import world
from tests.rounding import ELEMENTWISE, assert_same_images, assert_same_numbers
from tests.tiny import IMAGE_SIZE, tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.plugins.kinds import POLICY

PROMPTS = ["a cat", "two dogs on a sofa", "a cat and a house", "rain"]
SEEDS = [11, 12, 13, 14]
GUIDANCE = 3.0
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd": tiny_diffusion_pipeline,
    "sdxl": tiny_sdxl_pipeline,
    "sd3": tiny_sd3_pipeline,
    "flux-dev": tiny_flux_pipeline,
}
VARIANTS: dict[str, Callable[[Path], Path]] = {
    "sd-v": lambda folder: tiny_diffusion_pipeline(folder, "v_prediction"),
    "sdxl-empty-text": lambda folder: tiny_sdxl_pipeline(folder, force_zeros_for_empty_prompt=False),
    "sd3-without-t5": lambda folder: tiny_sd3_pipeline(folder, with_t5=False),
    "sd3-dynamic": lambda folder: tiny_sd3_pipeline(folder, use_dynamic_shifting=True),
    "flux-schnell": lambda folder: tiny_flux_pipeline(folder, guidance_embeds=False, dynamic=False),
}


@dataclass(frozen=True)
class Family:
    """A model on disk and its encoded data."""

    folder: Path
    images: dict[str, torch.Tensor]
    conditions: dict[str, torch.Tensor]
    empty: dict[str, torch.Tensor]
    """Conditions of the empty prompt, one row."""

    def build(self, without: Any = ENCODING_PARTS, **fine_tune: Any) -> LatentPolicy:
        """A policy on a pipeline loaded as training loads it."""
        return self.on(load_pipeline(str(self.folder), without=without), **fine_tune)

    def on(self, pipeline: Any, **fine_tune: Any) -> LatentPolicy:
        tuning = params(self.folder, **fine_tune).fine_tune
        return policy_class(pipeline).build(pipeline, tuning, seed=0, with_reference=True)  # type: ignore[return-value]

    def corrupted(self, policy: LatentPolicy) -> Noised:
        return policy.corrupt(self.images, self.conditions, SEEDS)

    def library(self, folder: Path) -> Any:
        """The saved pipeline read by its own class; SD3 saved without T5 has to be told so."""
        cls = getattr(diffusers, type(load_pipeline(str(self.folder))).__name__)
        without = {"text_encoder_3": None, "tokenizer_3": None} if "without-t5" in self.folder.name else {}
        return cls.from_pretrained(folder, **without)


def params(folder: Path, **fine_tune: Any) -> Any:
    size = {"width": IMAGE_SIZE, "height": IMAGE_SIZE, "guidance_scale": GUIDANCE}
    return world.params(folder, generate=size, **({"embedded_guidance": GUIDANCE} | fine_tune))


def make(folder: Path, write: Callable[[Path], Path]) -> Family:
    pipeline = load_pipeline(str(write(folder)))
    encoder = policy_class(pipeline).encoder(pipeline, (IMAGE_SIZE, IMAGE_SIZE))
    images = encoder.images([world.random_image(seed) for seed in SEEDS])
    encoded = encoder.prompts([*PROMPTS, ""])
    conditions = {name: rows[:-1] for name, rows in encoded.items()}
    return Family(folder, images, conditions, {name: rows[-1:] for name, rows in encoded.items()})


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make(tmp_path_factory.mktemp("families") / request.param, FAMILIES[request.param])


@pytest.fixture(params=FAMILIES | VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> Family:
    """The families, and what differs within them."""
    return make(tmp_path / request.param, (FAMILIES | VARIANTS)[request.param])


def recorded(network: Any, act: Callable[[], Any]) -> list[dict[str, Any]]:
    """What `network` was called with while `act` ran, by the names of its parameters."""
    signature, calls = inspect.signature(network.forward), []

    def record(_: Any, args: Any, kwargs: Any) -> None:
        calls.append(dict(signature.bind(*args, **kwargs).arguments))

    hook = network.register_forward_pre_hook(record, with_kwargs=True)
    act()
    hook.remove()
    return calls


def sample(pipeline: Any, prompts: list[str]) -> list[np.ndarray]:
    sampler = Sampler(pipeline, params(Path("unused")).generate, batch_size=len(prompts))
    return [np.asarray(image) for image in sampler.images(prompts, SEEDS[: len(prompts)])]


def test_the_network_is_fed_what_the_pipeline_feeds_it(variant: Family) -> None:
    pipeline: Any = load_pipeline(str(variant.folder))
    policy = variant.on(pipeline)
    first = recorded(policy.network, lambda: sample(pipeline, PROMPTS))[0]
    noised = variant.corrupted(policy)
    latents = unpacked(first["hidden_states" if "hidden_states" in first else "sample"], noised.latents)
    step = first["timestep"] * (1000 if "img_ids" in first else 1)
    given = dataclasses.replace(
        noised, latents=latents, timesteps=step.expand(8)[-4:] if step.ndim == 0 else step[-4:]
    )
    mine = recorded(policy.network, lambda: policy.predict(given))[0]
    compared = compare(mine, first, batch=len(PROMPTS))
    assert {"encoder_hidden_states", "timestep"} <= compared
    guided = len(first["encoder_hidden_states"]) == 2 * len(PROMPTS)
    assert guided == (type(pipeline).__name__ != "FluxPipeline")
    if guided:  # the empty prompt is what guidance subtracts
        added = first.get("added_cond_kwargs") or {}
        theirs = {"pooled": added.get("text_embeds", first.get("pooled_projections"))}
        theirs["embeddings"] = first["encoder_hidden_states"]
        for name, row in variant.empty.items():
            torch.testing.assert_close(row, theirs[name][:1])


def unpacked(latents: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) of the conditional half; the squares of FLUX's tokens one by one."""
    latents = latents[-len(like) :]
    if latents.ndim == 4:
        return latents
    out = torch.empty_like(like)
    channels, width = like.shape[1], like.shape[-1]
    for token in range(latents.shape[1]):
        row, column = divmod(token, width // 2)
        square = latents[:, token].reshape(-1, channels, 2, 2)
        out[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = square
    return out


def compare(mine: dict[str, Any], theirs: dict[str, Any], batch: int) -> set[str]:
    """Assert that two calls agree, the conditional half of theirs, and name what was compared."""
    compared: set[str] = set()
    for name, value in mine.items():
        other = theirs[name]
        if isinstance(value, dict):
            compared |= compare(value, other, batch)
        elif isinstance(value, torch.Tensor):
            shared = other.shape == value.shape or other.ndim == 0
            expected = other if shared else other[-batch:]
            assert_same_numbers(value, expected.expand_as(value).to(value.dtype))
            compared.add(name)
        elif name != "return_dict":
            assert value == other, name
    left = {name for name, value in theirs.items() if isinstance(value, torch.Tensor)} - mine.keys()
    assert not left
    return compared


def test_sdxl_drops_captions_to_its_own_unconditional_input(tmp_path: Path) -> None:
    zeros = make(tmp_path / "zeros", tiny_sdxl_pipeline).empty
    text = make(tmp_path / "text", VARIANTS["sdxl-empty-text"]).empty
    assert not zeros["embeddings"].any() and not zeros["pooled"].any()
    assert text["embeddings"].any() and text["pooled"].any()


def test_prompts_and_images_are_told_apart(family: Family) -> None:
    policy = family.build()
    noised = family.corrupted(policy)
    swapped = {name: rows.flip(0) for name, rows in family.conditions.items()}
    other = policy.corrupt(family.images, swapped, SEEDS)
    with torch.no_grad():
        assert not torch.allclose(policy.predict(noised), policy.predict(other))
    for name in family.conditions:
        one = {**noised.conditions, name: swapped[name]}
        with torch.no_grad():
            changed = policy.predict(dataclasses.replace(noised, conditions=one))
            assert not torch.allclose(policy.predict(noised), changed), name


def test_encoded_images_are_those_that_the_pipeline_decodes(family: Family) -> None:
    """The pipeline's own decoding of a latent, undone by hand, is the input of the VAE's decoder."""
    pipeline: Any = load_pipeline(str(family.folder))
    vae = pipeline.vae
    pixels = np.stack([np.asarray(world.random_image(seed)) for seed in SEEDS])
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        mode = vae.encode(pixels).latent_dist.mode()
    shift = vae.config.shift_factor or 0.0
    torch.testing.assert_close(family.images["latents"] / vae.config.scaling_factor + shift, mode)


def test_policies_do_without_the_encoding_parts(family: Family) -> None:
    whole, bare = family.build(without=()), family.build()
    noised = family.corrupted(bare)
    assert torch.equal(noised.latents, family.corrupted(whole).latents)
    with torch.no_grad():
        assert torch.equal(whole.predict(noised), bare.predict(noised))


def test_a_draw_depends_on_its_own_seed_alone(family: Family) -> None:
    policy = family.build()
    whole = family.corrupted(policy)
    part = policy.corrupt(
        {name: rows[2:] for name, rows in family.images.items()},
        {name: rows[2:] for name, rows in family.conditions.items()},
        SEEDS[2:],
    )
    for name in ("latents", "target", "timesteps", "weight"):
        assert_same_numbers(getattr(whole, name)[2:], getattr(part, name), ELEMENTWISE)
    twice = policy.corrupt(
        {name: rows[:1].expand(2, *rows.shape[1:]) for name, rows in family.images.items()},
        {name: rows[:2] for name, rows in family.conditions.items()},
        [7, 7],
    )
    assert_same_numbers(twice.latents[0], twice.latents[1], ELEMENTWISE)
    assert twice.timesteps[0] == twice.timesteps[1]


def test_log_likelihood_is_minus_the_mean_error_over_t(family: Family) -> None:
    policy = family.build(temperature=0.02)
    noised = family.corrupted(policy)
    with torch.no_grad():
        prediction = policy.predict(noised)
        likelihood = policy.log_likelihood(prediction, noised)
        distance = policy.distance(prediction, noised.target + 1, noised)
    error = np.square(prediction.double().numpy() - noised.target.double().numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(likelihood, -error / 0.02, rtol=1e-5)
    shifted = np.square(prediction.double().numpy() - noised.target.double().numpy() - 1).mean((1, 2, 3))
    np.testing.assert_allclose(distance, shifted, rtol=1e-5)
    assert likelihood.dtype == prediction.dtype == torch.float32


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_lowers_the_loss_and_leaves_the_reference(family: Family, method: str) -> None:
    policy = family.build(method=method)
    noised = family.corrupted(policy)
    with torch.no_grad():
        before = policy.predict(noised)
    losses = train(policy, noised, steps=8)
    with policy.reference():
        assert torch.equal(policy.predict(noised), before)
    with torch.no_grad():
        assert not torch.equal(policy.predict(noised), before)
    assert losses[-1] < 0.98 * losses[0]
    if method == "lora":
        assert all("lora_" in name for name in policy.trainable())


def train(policy: LatentPolicy, noised: Noised, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(policy.trainable().values(), lr=3e-2)
    losses = []
    for _ in range(steps):
        loss = -policy.log_likelihood(policy.predict(noised), noised).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in policy.trainable().values() if policy.params.method == "lora")
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_lines_of_the_library_load_the_result(family: Family, method: str, tmp_path: Path) -> None:
    policy = family.build(method=method, lora={"rank": 4, "alpha": 2.0})
    noised = family.corrupted(policy)
    train(policy, noised, steps=2)
    policy.save(tmp_path / "tuned", load_pipeline(str(family.folder)))
    if method == "full":
        pipeline = family.library(tmp_path / "tuned")
    else:
        pipeline = family.library(family.folder)
        pipeline.load_lora_weights(tmp_path / "tuned")
    network = getattr(pipeline, policy.component)
    with torch.no_grad():
        torch.testing.assert_close(policy.forward(network, noised), policy.predict(noised))
    if method == "lora":
        network.disable_adapters()
        with torch.no_grad(), policy.reference():
            assert_same_numbers(policy.forward(network, noised), policy.predict(noised))


def test_an_adapter_is_loaded_onto_its_base_without_a_word(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = family.build(method="lora")
    noised = family.corrupted(policy)
    train(policy, noised, steps=1)
    policy.save(tmp_path, None)
    (tmp_path / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(family.folder)}))
    logging.getLogger("diffusers").addHandler(caplog.handler)
    network = getattr(load_pipeline(str(tmp_path), without=ENCODING_PARTS), policy.component)
    logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert caplog.messages == []
    with torch.no_grad():
        torch.testing.assert_close(policy.forward(network, noised), policy.predict(noised))


def test_sd3_saved_without_t5_is_loaded_again(tmp_path: Path) -> None:
    family = make(tmp_path / "sd3-without-t5", VARIANTS["sd3-without-t5"])
    policy = family.build()
    policy.save(tmp_path / "tuned", load_pipeline(str(family.folder)))
    assert load_pipeline(str(tmp_path / "tuned")).text_encoder_3 is None
    pipeline = family.library(tmp_path / "tuned")
    assert_same_images(sample(pipeline, ["a cat"]), sample(load_pipeline(str(family.folder)), ["a cat"]))


def test_the_network_in_training_draws_images(family: Family) -> None:
    pipeline = load_pipeline(str(family.folder))
    before = sample(pipeline, ["a cat"])
    policy = family.on(pipeline, method="lora")
    noised = family.corrupted(policy)
    train(policy, noised, steps=3)
    assert not np.array_equal(sample(pipeline, ["a cat"]), before)
    after = policy.corrupt(family.images, family.conditions, SEEDS)
    assert torch.equal(noised.latents, after.latents)  # sampling left the training's schedule alone
    with policy.reference():
        assert np.array_equal(sample(pipeline, ["a cat"]), before)


def test_likelihoods_are_float32_under_autocast(family: Family) -> None:
    """And embeddings may be rounded beforehand: the first layer that sees them does it anyway."""
    policy = family.build()
    noised = family.corrupted(policy)
    embeddings = noised.conditions["embeddings"].bfloat16()
    rounded = dataclasses.replace(noised, conditions={**noised.conditions, "embeddings": embeddings})
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        prediction = policy.predict(noised)
        assert policy.log_likelihood(prediction, noised).dtype == prediction.dtype == torch.float32
        assert torch.equal(prediction, policy.predict(rounded))


def test_gradient_checkpointing_changes_no_gradient(family: Family) -> None:
    def gradients(save_memory: bool) -> list[torch.Tensor]:
        policy = family.build()
        if save_memory:
            policy.save_memory()
        noised = family.corrupted(policy)
        policy.log_likelihood(policy.predict(noised), noised).sum().backward()
        return [p.grad for p in policy.trainable().values() if p.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_sizes_that_do_not_divide_are_refused(family: Family) -> None:
    pipeline = load_pipeline(str(family.folder))
    with pytest.raises(TgoError, match=r"33 and 32: .*Pipeline needs multiples of \d"):
        policy_class(pipeline).encoder(pipeline, (33, 32))


def test_other_pipelines_are_refused_with_the_classes_that_fit() -> None:
    class StableDiffusionInpaintPipeline:
        """Only its name matters."""

    with pytest.raises(TgoError, match="a StableDiffusionInpaintPipeline, which cannot") as raised:
        policy_class(StableDiffusionInpaintPipeline())
    assert all(name in str(raised.value) for name in POLICY.builtin)
