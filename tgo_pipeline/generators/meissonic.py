"""Meissonic's sampling: text to image by filling in masked tokens.

    pipeline = MeissonicPipeline.from_pretrained(folder_or_hub_id)
    image = pipeline("a red boat").images[0]

The folder is the published one (MeissonFlow/Meissonic, Collov-Labs/Monetico) or what `save_pretrained` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_amused import AmusedScheduler
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.masked import ImageScheduler
from tgo_pipeline.generators.meissonic_network import MeissonicTransformer2DModel
from tgo_pipeline.generators.networks.clip_tokenizer import PublishedCLIPTokenizer
from tgo_pipeline.generators.networks.finite import require_numbers

PARTS: dict[str, Any] = {
    "vqvae": VQModel,
    "tokenizer": PublishedCLIPTokenizer,
    "text_encoder": CLIPTextModelWithProjection,
    "transformer": MeissonicTransformer2DModel,
    "scheduler": AmusedScheduler,
}
NETWORKS = {name: PARTS[name] for name in ("vqvae", "text_encoder", "transformer")}
SCORE = 6
"""The aesthetic score that images are asked to have, the last of the micro-conditions; the published default."""


class MeissonicPipeline(DiffusionPipeline):
    """Fill a grid of masked tokens in `num_inference_steps` steps, the least certain ones again (MaskGIT).

    `sample_size` is the number of tokens along a side of an image whose size is not given: 64 for models that halve
    the grid (1024 pixels), 32 for others (512 pixels).
    """

    model_cpu_offload_seq = "text_encoder->transformer->vqvae"

    def __init__(
        self,
        vqvae: Any,
        tokenizer: Any,
        text_encoder: Any,
        transformer: Any,
        scheduler: Any,
        sample_size: int | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vqvae=vqvae,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            scheduler=scheduler,
        )
        if sample_size is None and transformer is not None:
            sample_size = 64 if transformer.config["downsample"] else 32
        self.register_to_config(sample_size=sample_size)
        self.vae_scale_factor: int = 2 ** (len(vqvae.config["block_out_channels"]) - 1) if vqvae else 16
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> MeissonicPipeline:
        """Load part by part, since the published index names modules of a repository.

        A part given by its name (`text_encoder=...`, or None) is not loaded; other options (`revision`, `torch_dtype`,
        `variant`) go to every part. Raises `TgoError` for a transformer whose weights do not fit.
        """
        parts = {name: options.pop(name) for name in PARTS if name in options}
        place = {
            name: options[name] for name in ("revision", "cache_dir", "local_files_only") if name in options
        }
        index: Any = cls.load_config(pretrained_model_name_or_path, **place)
        for name, kind in PARTS.items():
            if name in parts:
                continue
            load = _transformer if name == "transformer" else kind.from_pretrained
            parts[name] = load(
                pretrained_model_name_or_path, subfolder=name, **(options if name in NETWORKS else place)
            )
        pipeline = cls(**parts, sample_size=index.get("sample_size"))
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    def encode_prompt(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The text encoder's last but one hidden states (B, L, D) and the pooled embeddings (B, P)."""
        return encode_prompt(self, prompts, self.text_encoder.config.max_position_embeddings)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 48,
        guidance_scale: float = 9.0,
        negative_prompt: str | Sequence[str] = "",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        temperature: int | tuple[int, int] = (2, 0),
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """One image per prompt: PIL images, or tokens (B, H, W) with `output_type="latent"`.

        `generator` may be one for each image. `latents` are tokens to start from, some of them masked. Raises
        ValueError for a size that is not a whole number of tokens.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        scale = self.vae_scale_factor
        side = int(self.config["sample_size"]) * scale
        height, width = height or side, width or side
        if height % scale or width % scale:
            raise ValueError(
                f"`height` and `width` have to be divisible by {scale} but are {height} and {width}."
            )
        tokens = latents
        if tokens is None:
            shape = (len(prompts), height // scale, width // scale)
            tokens = torch.full(shape, self.scheduler.config["mask_token_id"], device=self._execution_device)
        conditions = self._conditions(prompts, negative_prompt if guidance_scale > 1 else None, width, height)
        scheduler: Any = ImageScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(num_inference_steps, temperature, self._execution_device)
        for timestep in self.progress_bar(scheduler.timesteps):  # type: ignore[operator]
            logits = self._logits(tokens, timestep, conditions, guidance_scale)
            require_numbers(logits, "transformer", self.transformer, "filling in tokens")
            tokens = scheduler.step(logits, timestep, tokens, generator=generator).prev_sample
        images: Any = tokens if output_type == "latent" else self._decode(tokens, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images) if return_dict else (images,)

    def _conditions(
        self, prompts: Sequence[str], negative: str | Sequence[str] | None, width: int, height: int
    ) -> dict[str, Tensor]:
        """What the transformer is told besides tokens and timestep; the negative prompts come first, if any."""
        if negative is not None:
            prompts = [*([negative] * len(prompts) if isinstance(negative, str) else negative), *prompts]
        states, pooled = self.encode_prompt(prompts)
        for said in (states, pooled):
            require_numbers(said, "text_encoder", self.text_encoder, "reading the prompts")
        micro = micro_conditions(len(states), width, height, states.device)
        return {"encoder_hidden_states": states, "pooled_projections": pooled, "micro_conds": micro}

    def _logits(
        self, tokens: Tensor, timestep: Tensor, conditions: dict[str, Tensor], scale: float
    ) -> Tensor:
        """(B, V, H, W), classifier-free guidance applied to them: without + scale (with - without)."""
        if scale <= 1:
            return self.transformer(tokens, timestep=timestep[None], **conditions)
        both = self.transformer(torch.cat([tokens, tokens]), timestep=timestep[None], **conditions)
        without, with_prompt = both.chunk(2)
        return without + scale * (with_prompt - without)

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        halved = self.vqvae.dtype == torch.float16 and self.vqvae.config["force_upcast"]
        if halved:
            self.vqvae.float()
        shape = (*tokens.shape, self.vqvae.config["latent_channels"])
        pixels = self.vqvae.decode(tokens, force_not_quantize=True, shape=shape).sample.clip(0, 1)
        if halved:
            self.vqvae.half()
        return self.image_processor.postprocess(pixels, output_type)


def micro_conditions(count: int, width: int, height: int, device: Any) -> Tensor:
    """(count, 5): width, height, crop, score, as aMUSEd and Meissonic are sampled with."""
    return torch.tensor([[width, height, 0, 0, SCORE]], dtype=torch.float32, device=device).expand(count, -1)


def encode_prompt(pipeline: Any, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Last but one hidden states (B, length, D) and projected pooled embeddings (B, P) of a CLIP text encoder."""
    tokens = pipeline.tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    ids = tokens.input_ids.to(pipeline.text_encoder.device)
    output = pipeline.text_encoder(ids, return_dict=True, output_hidden_states=True)
    return output.hidden_states[-2], output.text_embeds


def _transformer(source: Any, **options: Any) -> MeissonicTransformer2DModel:
    loaded: Any = MeissonicTransformer2DModel.from_pretrained(source, output_loading_info=True, **options)
    model, report = loaded
    wrong = [name for kind in ("missing_keys", "unexpected_keys") for name in report[kind]]
    if wrong:
        raise TgoError(
            f"the transformer of {source} is no Meissonic transformer: {len(wrong)} of its weights are missing or "
            f"unknown, {', '.join(sorted(wrong)[:3])} among them."
        )
    return model
