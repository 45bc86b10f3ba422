"""Stable Diffusion: a U-Net that predicts the noise, or the velocity, of a latent image."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from PIL import ImageOps
from PIL.Image import Image, Resampling
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from fine_tune.policies.base import Policy
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams, LoraParams
from tgo_pipeline.seeds import derive_seed

LATENTS, EMBEDDINGS = "latents", "embeddings"


@dataclass(frozen=True)
class Noised:
    """Latents on their way to noise, and what the network should say of them."""

    latents: Tensor
    """(B, C, H, W) alpha_t z + sigma_t eps."""
    timesteps: Tensor
    """(B,) integers."""
    target: Tensor
    """(B, C, H, W) eps, or alpha_t eps - sigma_t z for v-prediction."""
    embeddings: Tensor
    """(B, L, D) of the prompts."""


class DiffusionEncoder:
    """The pipeline's VAE and text encoder.

    A latent is the mode of the VAE's posterior: the same in every epoch, with no draw of its own. The posterior's
    deviation is far below the noise of any timestep.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, size: tuple[int | None, int | None]) -> None:
        default = pipeline.unet.config["sample_size"] * pipeline.vae_scale_factor
        self._pipeline = pipeline
        self._size = (size[0] or default, size[1] or default)

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """`latents` (N, C, h, w), scaled as the U-Net expects them; other sizes are resized and cropped first."""
        vae = self._pipeline.vae
        pixels = torch.stack([pil_to_tensor(self._fit(image)) for image in images])
        pixels = (pixels.float() / 127.5 - 1.0).to(vae.device, vae.dtype)
        mode = vae.encode(pixels).latent_dist.mode()
        shift = vae.config.get("shift_factor") or 0.0
        return {LATENTS: ((mode - shift) * vae.config["scaling_factor"]).float().cpu()}

    @torch.inference_mode()
    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`embeddings` (N, L, D), computed as the pipeline does when it samples."""
        device = self._pipeline.text_encoder.device
        embeddings, _ = self._pipeline.encode_prompt(list(prompts), device, 1, False)
        return {EMBEDDINGS: embeddings.float().cpu()}

    def _fit(self, image: Image) -> Image:
        image = image.convert("RGB")
        return image if image.size == self._size else ImageOps.fit(image, self._size, Resampling.LANCZOS)


class DiffusionPolicy(Policy[Noised]):
    """log pi(z | prompt) ~ -MSE / T at one timestep and noise, the mean over all latent dimensions in float32.

    The reference is a frozen copy of the U-Net (`full`) or the U-Net with its adapter off (`lora`, no second copy).
    Dropout stays off: policy and reference are the same function before the first update.
    """

    network: UNet2DConditionModel

    def __init__(
        self,
        network: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        *,
        temperature: float,
        frozen: UNet2DConditionModel | None = None,
        adapter: LoraParams | None = None,
    ) -> None:
        self.network = network
        self.network.eval()
        self._active = network
        self._scheduler = scheduler
        self._temperature = temperature
        self._frozen = frozen
        self._adapter = adapter

    @classmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> DiffusionEncoder:
        return DiffusionEncoder(pipeline, size)

    @classmethod
    def build(
        cls, pipeline: Any, params: FineTuneParams, *, seed: int, with_reference: bool
    ) -> DiffusionPolicy:
        """Train all of `pipeline.unet`, or an adapter on it whose first values are drawn from `seed`."""
        unet = pipeline.unet.float()
        scheduler = _training_scheduler(pipeline)
        _check_network(unet)
        if params.method == "lora":
            _attach(unet.requires_grad_(False), params.lora, seed)
            return cls(unet, scheduler, temperature=params.temperature, adapter=params.lora)
        frozen = copy.deepcopy(unet).requires_grad_(False).eval() if with_reference else None
        return cls(unet.requires_grad_(True), scheduler, temperature=params.temperature, frozen=frozen)

    def corrupt(
        self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Sequence[int]
    ) -> Noised:
        """Draw t ~ U{0, ..., T-1} and eps ~ N(0, 1) of each sample on the CPU, then noise (DDPM, eq. 4)."""
        latents = images[LATENTS]
        last = self._scheduler.config["num_train_timesteps"]
        draws = [_draw(seed, last, latents.shape[1:]) for seed in seeds]
        timesteps = torch.stack([t for t, _ in draws]).to(latents.device)
        noise = torch.stack([eps for _, eps in draws]).to(latents.device)
        noised = self._scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        if self._scheduler.config["prediction_type"] == "v_prediction":
            target = self._scheduler.get_velocity(latents, noise, timesteps)  # type: ignore[arg-type]
        else:
            target = noise
        return Noised(noised, timesteps, target, conditions[EMBEDDINGS])

    def log_likelihood(self, corruption: Noised) -> Tensor:
        """(B,) -MSE / T of the active network's prediction, in float32."""
        prediction = self._active(
            corruption.latents, corruption.timesteps, corruption.embeddings, return_dict=False
        )[0]
        error = (prediction.float() - corruption.target.float()).square().mean(dim=(1, 2, 3))
        return -error / self._temperature

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Answer as the frozen copy, or with the adapter off; raises ValueError if built without a reference."""
        with torch.no_grad():
            if self._adapter is not None:
                self.network.disable_adapters()
                try:
                    yield
                finally:
                    self.network.enable_adapters()
                return
            if self._frozen is None:
                raise ValueError("the policy was built without a reference")
            self._active = self._frozen
            try:
                yield
            finally:
                self._active = self.network

    def save_memory(self) -> None:
        self.network.enable_gradient_checkpointing()

    def save(self, folder: Path, pipeline: Any) -> None:
        """`full`: the whole pipeline with the tuned U-Net; `lora`: what `load_lora_weights(folder)` reads."""
        if self._adapter is None:
            pipeline.unet = self.network
            pipeline.save_pretrained(folder)
            return
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.network))
        StableDiffusionPipeline.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=_adapter_metadata(self.network)
        )


def _draw(seed: int, timesteps: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(timesteps, (), generator=generator), torch.randn(shape, generator=generator)


def _training_scheduler(pipeline: StableDiffusionPipeline) -> DDPMScheduler:
    scheduler = cast(DDPMScheduler, DDPMScheduler.from_config(pipeline.scheduler.config))
    prediction = scheduler.config["prediction_type"]
    if prediction not in ("epsilon", "v_prediction"):
        raise TgoError(
            f"the model's scheduler has prediction_type {prediction!r}: only epsilon and v_prediction can be tuned."
        )
    return scheduler


def _check_network(unet: UNet2DConditionModel) -> None:
    config = unet.config
    if config["addition_embed_type"] is not None or config["class_embed_type"] is not None:
        raise TgoError("the model's U-Net takes further conditions than a prompt, and cannot be tuned here.")
    if config["in_channels"] != config["out_channels"]:
        raise TgoError(
            f"the model's U-Net takes {config['in_channels']} channels and predicts {config['out_channels']} "
            "(an inpainting or editing model, say): only plain text-to-image models can be tuned."
        )


def _attach(unet: UNet2DConditionModel, lora: LoraParams, seed: int) -> None:
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft declares int and takes any number
        init_lora_weights="gaussian",
        target_modules=lora.target_modules,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "lora", "adapter"))
        try:
            unet.add_adapter(config)
        except ValueError as error:
            raise TgoError(
                f"fine_tune.lora.target_modules {lora.target_modules} do not fit the U-Net: {error}"
            ) from error


def _adapter_metadata(unet: Any) -> dict[str, Any]:
    """The adapter's configuration, without which a reader would take alpha for the rank."""
    config = unet.peft_config["default"].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
