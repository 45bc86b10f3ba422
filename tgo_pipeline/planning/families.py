"""The model families, run in imagination: text to conditions, conditions to an image, an image to what is trained on.

Every method makes tensors of the shapes that the family's pipeline makes, and calls the networks as it calls them.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.planning.blueprint import Blueprint

Parts = Mapping[str, Any]
"""Networks by their names in the pipeline."""
Conditions = dict[str, Tensor]
CLIP_TOKENS, SD3_T5_TOKENS, FLUX_T5_TOKENS = 77, 256, 512
"""The defaults of the pipelines (`max_sequence_length` for T5)."""
FLUX_SIZE = 128
"""`default_sample_size` of the FLUX pipeline: latent pixels of a side, whatever the model's configuration says."""


class Family(abc.ABC):
    """One family, for one model and one size of images."""

    component = "unet"
    """The network that samples, and is trained."""
    vae = "vae"
    encodes_negative = True
    """Whether a guided batch runs the text encoders on the negative prompts too."""

    def __init__(self, blueprint: Blueprint, width: int | None, height: int | None) -> None:
        self.blueprint = blueprint
        self.config = blueprint.configs[self.component]
        self.scale = 2 ** (len(blueprint.configs[self.vae]["block_out_channels"]) - 1)
        own_width, own_height = self.own_size()
        self.width, self.height = width or own_width, height or own_height

    def own_size(self) -> tuple[int, int]:
        """(width, height) in pixels where none is asked for."""
        sample = self.config["sample_size"]
        height, width = (sample, sample) if isinstance(sample, int) else sample
        return width * self.scale, height * self.scale

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of a latent image or of an image's tokens."""
        return self.height // self.scale, self.width // self.scale

    def guided(self, guidance_scale: float) -> bool:
        """Whether a step runs the network with and without the prompt."""
        return guidance_scale > 1

    def calls(self, steps: int) -> int:
        """How often sampling calls the network: the scheduler's own number of timesteps."""
        scheduler = self.blueprint.scheduler()
        dynamic = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(steps, **dynamic)
        return len(scheduler.timesteps)

    @abc.abstractmethod
    def conditions(self, parts: Parts, rows: int) -> Conditions:
        """What the text encoders make of `rows` prompts: the tensors that the cache of encoded prompts holds."""

    def start(self, rows: int) -> Tensor:
        """What sampling starts from."""
        return torch.randn(rows, self._channels(), *self.grid)

    @abc.abstractmethod
    def call(self, network: Any, x: Tensor, conditions: Conditions) -> Tensor:
        """One call of the network, as in sampling; `x` and the conditions have the same number of rows."""

    def step(self, prediction: Tensor, x: Tensor) -> Tensor:
        """What the scheduler makes of a prediction."""
        return x + prediction

    def decode(self, parts: Parts, x: Tensor) -> Tensor:
        """Latents to images in [0, 1]."""
        pictures = parts[self.vae].decode(x / 1.0, return_dict=False)[0]
        return (pictures * 0.5 + 0.5).clamp(0, 1)

    def encode(self, parts: Parts, rows: int) -> Conditions:
        """What the cache of encoded images holds for `rows` of them."""
        return {"latents": parts[self.vae].encode(self._pixels(rows)).latent_dist.mode() * 1.0}

    def _pixels(self, rows: int) -> Tensor:
        return torch.zeros(rows, 3, self.height, self.width, dtype=torch.uint8).float() / 127.5 - 1.0

    def _channels(self) -> int:
        return self.config["in_channels"]

    def _ids(self, name: str, rows: int) -> Tensor:
        return torch.zeros(rows, self.blueprint.tokens(name, CLIP_TOKENS), dtype=torch.long)


class StableDiffusion(Family):
    """SD 1 and 2."""

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        return {"embeddings": parts["text_encoder"](self._ids("tokenizer", rows))[0]}

    def call(self, network: Any, x: Tensor, conditions: Conditions) -> Tensor:
        timestep = torch.zeros(len(x), dtype=torch.long)
        return network(x, timestep, conditions["embeddings"], return_dict=False)[0]


class StableDiffusionXL(Family):
    """SDXL: two text encoders, the sizes as a condition; its unconditional input is zeros where its index says so."""

    @property
    def encodes_negative(self) -> bool:  # type: ignore[override]
        return not self.blueprint.index.get("force_zeros_for_empty_prompt", True)

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        first = parts["text_encoder"](self._ids("tokenizer", rows), output_hidden_states=True)
        second = parts["text_encoder_2"](self._ids("tokenizer_2", rows), output_hidden_states=True)
        embeddings = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return {"embeddings": embeddings, "pooled": second[0]}

    def call(self, network: Any, x: Tensor, conditions: Conditions) -> Tensor:
        added = {"text_embeds": conditions["pooled"], "time_ids": torch.zeros(len(x), 6)}
        timestep = torch.zeros(len(x), dtype=torch.long)
        return network(x, timestep, conditions["embeddings"], added_cond_kwargs=added, return_dict=False)[0]

    def encode(self, parts: Parts, rows: int) -> Conditions:
        return {**super().encode(parts, rows), "time_ids": torch.zeros(rows, 6)}


class StableDiffusion3(Family):
    """SD3 and SD3.5: two encoders of CLIP and T5, or zeros in its place."""

    component = "transformer"

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        pooled, states = [], []
        for name, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
            output = parts[name](self._ids(tokenizer, rows), output_hidden_states=True)
            pooled.append(output[0])
            states.append(output.hidden_states[-2])
        clip = torch.cat(states, dim=-1)
        width = self.config["joint_attention_dim"]
        clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        return {
            "embeddings": torch.cat([clip, self._t5(parts, rows, width)], -2),
            "pooled": torch.cat(pooled, -1),
        }

    def _t5(self, parts: Parts, rows: int, width: int) -> Tensor:
        if "text_encoder_3" not in parts:
            return torch.zeros(rows, SD3_T5_TOKENS, width)
        return parts["text_encoder_3"](torch.zeros(rows, SD3_T5_TOKENS, dtype=torch.long))[0]

    def call(self, network: Any, x: Tensor, conditions: Conditions) -> Tensor:
        return network(
            hidden_states=x,
            timestep=torch.zeros(len(x)),
            encoder_hidden_states=conditions["embeddings"],
            pooled_projections=conditions["pooled"],
            return_dict=False,
        )[0]


class Flux(Family):
    """FLUX.1: tokens of 2x2 latent pixels; guidance is a number that the network is told."""

    component = "transformer"

    def own_size(self) -> tuple[int, int]:
        return FLUX_SIZE * self.scale, FLUX_SIZE * self.scale

    def guided(self, guidance_scale: float) -> bool:
        return False

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        pooled = parts["text_encoder"](self._ids("tokenizer", rows)).pooler_output
        ids = torch.zeros(rows, FLUX_T5_TOKENS, dtype=torch.long)
        return {"embeddings": parts["text_encoder_2"](ids)[0], "pooled": pooled}

    def call(self, network: Any, x: Tensor, conditions: Conditions) -> Tensor:
        rows, channels, height, width = x.shape
        tokens = x.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        tokens = tokens.reshape(rows, (height // 2) * (width // 2), 4 * channels)
        prediction = network(
            hidden_states=tokens,
            timestep=torch.zeros(rows),
            guidance=torch.zeros(rows) if self.config.get("guidance_embeds") else None,
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=conditions["embeddings"],
            txt_ids=torch.zeros(conditions["embeddings"].shape[1], 3),
            img_ids=torch.zeros(tokens.shape[1], 3),
            return_dict=False,
        )[0]
        return prediction.view_as(x)

    def _channels(self) -> int:
        return self.config["in_channels"] // 4


class MaskedFamily(Family):
    """What aMUSEd and Meissonic share: images are tokens, and each step draws all masked ones."""

    component = "transformer"
    vae = "vqvae"

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        output = parts["text_encoder"](self._text_ids(rows), return_dict=True, output_hidden_states=True)
        return {"states": output.hidden_states[-2], "pooled": output.text_embeds}

    def _text_ids(self, rows: int) -> Tensor:
        return self._ids("tokenizer", rows)

    def start(self, rows: int) -> Tensor:
        return torch.zeros(rows, *self.grid, dtype=torch.long)

    def step(self, prediction: Tensor, x: Tensor) -> Tensor:
        """By the sampler's own scheduler: it sorts and sums over the whole vocabulary."""
        from tgo_pipeline.generators.masked import PictureScheduler

        scheduler: Any = PictureScheduler.from_config(dict(self.blueprint.configs["scheduler"]))
        scheduler.timesteps, scheduler.temperatures = torch.zeros(2), [1.0, 0.0]
        scheduler._mask_ratio = lambda _: 0.5
        generators = [torch.Generator() for _ in range(len(x))]
        return scheduler.step(prediction, 1, x, generator=generators, return_dict=False)[0]

    def calls(self, steps: int) -> int:
        return steps

    def decode(self, parts: Parts, x: Tensor) -> Tensor:
        shape = (*x.shape, self.blueprint.configs["vqvae"]["latent_channels"])
        return parts["vqvae"].decode(x, force_not_quantize=True, shape=shape).sample.clip(0, 1)

    def encode(self, parts: Parts, rows: int) -> Conditions:
        vq = parts["vqvae"]
        pixels = torch.zeros(rows, 3, self.height, self.width, dtype=torch.uint8).float() / 255
        latents = vq.encode(pixels).latents
        indices = vq.quantize(latents)[2][2].view(rows, *latents.shape[-2:])
        return {"tokens": indices.int(), "size": torch.zeros(rows, 2, dtype=torch.long)}


class Amused(MaskedFamily):
    """aMUSEd."""

    def call(self, network: Any, x: Tensor, conditions: Conditions) -> Tensor:
        return network(
            x,
            encoder_hidden_states=conditions["states"],
            pooled_text_emb=conditions["pooled"],
            micro_conds=torch.zeros(len(x), 5),
        )


class Meissonic(MaskedFamily):
    """Meissonic and Monetico."""

    def own_size(self) -> tuple[int, int]:
        side = self.blueprint.index.get("sample_size") or (64 if self.config["downsample"] else 32)
        return side * self.scale, side * self.scale

    def _text_ids(self, rows: int) -> Tensor:
        length = self.blueprint.configs["text_encoder"].get("max_position_embeddings", CLIP_TOKENS)
        return torch.zeros(rows, length, dtype=torch.long)

    def call(self, network: Any, x: Tensor, conditions: Conditions) -> Tensor:
        return network(
            x,
            encoder_hidden_states=conditions["states"],
            pooled_projections=conditions["pooled"],
            timestep=torch.zeros(1),
            micro_conds=torch.zeros(len(x), 5),
        )


FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "AmusedPipeline": Amused,
    "MeissonicPipeline": Meissonic,
}


def family_of(blueprint: Blueprint, generate: GenerateParams) -> Family:
    """The family of a pipeline at the size that is asked for. Raises `TgoError` for one that is not known."""
    if blueprint.kind not in FAMILIES:
        raise TgoError(
            f"{blueprint.model} is a {blueprint.kind}: what it takes can be planned for {', '.join(FAMILIES)}."
        )
    return FAMILIES[blueprint.kind](blueprint, generate.width, generate.height)
