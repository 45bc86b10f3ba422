"""Masked-token models, aMUSEd and Meissonic: a transformer that fills in the masked tokens of an image."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import ImageOps
from PIL.Image import Image, Resampling
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.transforms.functional import pil_to_tensor

from fine_tune.policies.base import Policy, prepare_network
from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.meissonic import SCORE, MeissonicPipeline, encode_prompt, micro_conditions
from tgo_pipeline.params import FineTuneParams
from tgo_pipeline.params.fine_tune import ALL_LEVELS
from tgo_pipeline.planning.families import CLIP_TOKENS, Conditions, Parts, TokenFamily

TOKENS, SIZE, STATES, POOLED = "tokens", "size", "states", "pooled"
INFERENCE_STEPS = 64
"""Of Meissonic's published sampling: its timesteps are 63, ..., 0."""


@dataclass(frozen=True)
class MaskedImages:
    """Images with masked tokens, and what the network should fill in."""

    tokens: Tensor
    """(B, H, W) token ids, the mask token where masked."""
    mask: Tensor
    """(B, H, W) true where masked; at least once in each image."""
    target: Tensor
    """(B, H, W) token ids of the whole image."""
    progress: Tensor
    """(B,) u in [0, 1), how far sampling has come: the share cos(pi u / 2) of the tokens is masked."""
    states: Tensor
    """(B, L, D) hidden states of the prompts."""
    pooled: Tensor
    """(B, P) pooled embeddings of the prompts."""
    micro_conditions: Tensor
    """(B, 5) width, height, crop, score: the same as in sampling, whatever the score of the image."""


class MaskedEncoder:
    """The pipeline's VQ model and text encoder, used as in sampling."""

    def __init__(self, pipeline: Any, size: tuple[int | None, int | None]) -> None:
        """`size` is (width, height) in pixels. Raises `TgoError` for one that is not a whole number of tokens."""
        self._pipeline = pipeline
        scale = pipeline.vae_scale_factor
        side = scale * _side_tokens(pipeline)
        self._size = (size[0] or side, size[1] or side)
        multiple = scale * (2 if pipeline.transformer.config.get("downsample") else 1)
        if any(each % multiple for each in self._size):
            raise TgoError(
                f"generate.width and height are {self._size[0]} and {self._size[1]}: {type(pipeline).__name__} needs "
                f"multiples of {multiple}."
            )

    @torch.no_grad()
    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """`tokens` (N, H, W) int32 and `size` (N, 2) pixels; other sizes are resized and cropped first.

        The VQ models of this family take images in [0, 1].
        """
        vq = self._pipeline.vqvae
        pixels = torch.stack([pil_to_tensor(self._fit(image)) for image in images])
        latents = vq.encode((to_device(pixels, vq.device).float() / 255).to(vq.dtype)).latents
        indices = vq.quantize(latents)[2][2].view(len(images), *latents.shape[-2:])
        return {TOKENS: indices.int().cpu(), SIZE: torch.tensor([self._size] * len(images))}

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`states` (N, L, D) and `pooled` (N, P), computed as the pipeline does when it samples."""
        if isinstance(self._pipeline, MeissonicPipeline):
            states, pooled = self._pipeline.encode_prompt(prompts)
        else:
            states, pooled = encode_prompt(self._pipeline, prompts, self._pipeline.tokenizer.model_max_length)
        return {STATES: states.float().cpu(), POOLED: pooled.float().cpu()}

    def _fit(self, image: Image) -> Image:
        image = image.convert("RGB")
        return image if image.size == self._size else ImageOps.fit(image, self._size, Resampling.LANCZOS)


class MaskedFamily(TokenFamily):
    """aMUSEd and what the others share with it, imagined."""

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        output = parts["text_encoder"](self._text_ids(rows), return_dict=True, output_hidden_states=True)
        return {STATES: output.hidden_states[-2], POOLED: output.text_embeds}

    def _text_ids(self, rows: int) -> Tensor:
        return self._ids("tokenizer", rows)

    def feed(self, x: Tensor, conditions: Mapping[str, Tensor]) -> MaskedImages:
        """What the network gets in sampling: tokens (rows, h, w) at one level."""
        pooled = conditions[POOLED]
        level = pooled[:1, 0]  # one for all rows, as in sampling: any numbers will do
        return MaskedImages(x, x, x, level, conditions[STATES], pooled, torch.zeros(len(x), 5))

    def corrupt(
        self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Any
    ) -> MaskedImages:
        """A corruption in the shapes of training; its numbers are of no account."""
        target = images[TOKENS].long()
        mask = torch.zeros_like(target, dtype=torch.bool)
        tokens, level = target.masked_fill(mask, 0), torch.rand(len(target))
        micro = micro_conditions(len(target), 0, 0, target.device)
        return MaskedImages(tokens, mask, target, level, conditions[STATES], conditions[POOLED], micro)


class MeissonicFamily(MaskedFamily):
    """Meissonic and Monetico, imagined."""

    def own_size(self) -> tuple[int, int]:
        side = self.blueprint.index.get("sample_size") or (64 if self.config["downsample"] else 32)
        return side * self.scale, side * self.scale

    def _text_ids(self, rows: int) -> Tensor:
        length = self.blueprint.configs["text_encoder"].get("max_position_embeddings", CLIP_TOKENS)
        return torch.zeros(rows, length, dtype=torch.long)


class MaskedPolicy(Policy[MaskedImages]):
    """log pi(tokens | prompt) ~ L / T, L the mean or sum over masked tokens of their log-probabilities.

    The mask is MaskGIT's (Chang et al. 2022): u uniform, the share cos(pi u / 2) of the tokens, at random places. No
    label smoothing: it would be no log-ratio any more.
    """

    component = "transformer"
    family = MaskedFamily

    def __init__(
        self, network: nn.Module, params: FineTuneParams, *, mask_token: int, frozen: nn.Module | None = None
    ) -> None:
        super().__init__(network, params, frozen=frozen)
        self._mask_token = mask_token

    @classmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> MaskedEncoder:
        return MaskedEncoder(pipeline, size)

    @classmethod
    def build(cls, pipeline: Any, params: FineTuneParams, *, seed: int, with_reference: bool) -> MaskedPolicy:
        """As all policies; raises `TgoError` for a mask token that the network lacks or that an image may have."""
        mask_token = pipeline.scheduler.config["mask_token_id"]
        known = pipeline.transformer.config["vocab_size"]
        if not pipeline.transformer.config["codebook_size"] <= mask_token < known:
            raise TgoError(
                f"the model's scheduler masks with token {mask_token}, which must be one of the transformer's {known} "
                "tokens and none of the images': the files of two models are mixed, copy the model again."
            )
        network, frozen = prepare_network(pipeline, cls, params, seed=seed, with_reference=with_reference)
        return cls(network, params, mask_token=mask_token, frozen=frozen)

    def corrupt(
        self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Sequence[int]
    ) -> MaskedImages:
        """Mask each image's tokens; the level and the places of row i come from `seeds[i]` alone."""
        target = images[TOKENS].long()
        draws = [draw_mask(seed, target[0].numel(), self.params.levels) for seed in seeds]
        mask = to_device(torch.stack([mask for _, mask in draws]), target.device).view_as(target)
        return MaskedImages(
            tokens=target.masked_fill(mask, self._mask_token),
            mask=mask,
            target=target,
            progress=to_device(torch.stack([progress for progress, _ in draws]), target.device),
            states=conditions[STATES],
            pooled=conditions[POOLED],
            micro_conditions=_micro_conditions(images[SIZE]),
        )

    def noise_level(self, corruption: MaskedImages) -> Tensor:
        """(B,) masked shares cos(pi u / 2), before they are rounded to whole tokens."""
        return masked_share(corruption.progress)

    def log_likelihood(self, prediction: Tensor, corruption: MaskedImages) -> Tensor:
        """(B,) mean or sum (`logp_reduction`) over masked tokens of log p(token), divided by T."""
        log_p = -functional.cross_entropy(prediction.float(), corruption.target, reduction="none")
        return self._over_masked(log_p, corruption, self.params.logp_reduction) / self.params.temperature

    def distance(self, prediction: Tensor, other: Tensor, corruption: MaskedImages) -> Tensor:
        """(B,) mean over masked tokens of KL(other || prediction), in nats."""
        log_p, log_q = prediction.float().log_softmax(1), other.float().log_softmax(1)
        return self._over_masked((log_q.exp() * (log_q - log_p)).sum(1), corruption, "mean")

    @staticmethod
    def _over_masked(values: Tensor, corruption: MaskedImages, reduction: str) -> Tensor:
        total = values.masked_fill(~corruption.mask, 0.0).sum((1, 2))
        return total if reduction == "sum" else total / corruption.mask.sum((1, 2))


class AmusedPolicy(MaskedPolicy):
    """aMUSEd (Patil et al. 2024, arXiv 2401.01808): no timestep, it sees how much is masked."""

    def forward(self, network: Any, corruption: MaskedImages) -> Tensor:
        """(B, codes, h, w) logits of masked tokens."""
        return network(
            corruption.tokens,
            encoder_hidden_states=corruption.states,
            pooled_text_emb=corruption.pooled,
            micro_conds=corruption.micro_conditions,
        )

    def save_memory(self) -> None:
        """Recompute the transformer's layers; the library's own switch calls them with arguments it cannot pass on."""
        for layer in self.network.transformer_layers:  # type: ignore[union-attr]
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


class MeissonicPolicy(MaskedPolicy):
    """Meissonic (Bai et al. 2024, arXiv 2410.08261), which is told a timestep.

    `fine_tune.timestep_mode`: `inference_index` gives what sampling gives at this level, `train_script` what the
    published training script gives (1000 times the masked share, far outside of the sampling's range).
    """

    family = MeissonicFamily

    lora_targets: ClassVar[tuple[str, ...]] = (
        *MaskedPolicy.lora_targets,
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )

    def forward(self, network: Any, corruption: MaskedImages) -> Tensor:
        """(B, codes, h, w) logits of masked tokens, at the step of sampling that masks as many."""
        return network(
            corruption.tokens,
            encoder_hidden_states=corruption.states,
            pooled_projections=corruption.pooled,
            timestep=self.timestep(corruption.progress),
            micro_conds=corruption.micro_conditions,
        )

    def timestep(self, progress: Tensor) -> Tensor:
        """(B,) what the network is told of a progress u: 0 to 63, or 1000 cos(pi u / 2)."""
        if self.params.timestep_mode == "train_script":
            return 1000 * masked_share(progress)
        return (INFERENCE_STEPS * (1 - progress) - 1).floor().clamp(min=0)


def _micro_conditions(sizes: Tensor) -> Tensor:
    """(B, 5) what `micro_conditions` says of sizes (B, 2), made where they are: reading them waits for the device."""
    conditions = functional.pad(sizes.float(), (0, 3))
    conditions[:, -1] = SCORE
    return conditions


def draw_mask(seed: int, count: int, noise_levels: Sequence[float] = ALL_LEVELS) -> tuple[Tensor, Tensor]:
    """A progress u, uniform in [0, 1) cut to these levels, and which of `count` tokens are masked, at least one."""
    generator = torch.Generator().manual_seed(seed)
    last, first = (math.acos(level) * 2 / math.pi for level in noise_levels)
    progress = first + (last - first) * torch.rand((), generator=generator)
    masked = max(1, int((count * masked_share(progress)).round()))
    return progress, torch.randperm(count, generator=generator) < masked


def masked_share(progress: Tensor) -> Tensor:
    """cos(pi u / 2)."""
    return torch.cos(progress * math.pi / 2)


def _side_tokens(pipeline: Any) -> int:
    """How many tokens an image of the pipeline's own size has along each side."""
    home = pipeline if isinstance(pipeline, MeissonicPipeline) else pipeline.transformer
    return home.config["sample_size"]
