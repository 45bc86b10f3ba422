"""What a model family is to a plan: text to conditions, conditions to an image, an image to what is trained on.

Each family's file in `fine_tune/policies/` has a subclass of `Family` beside its policy, and the policy calls the
network. Text encoders are called here in imagination: a policy's encoder leaves them to the library's pipeline, which
needs tokenizers and weights.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tgo_pipeline.params import FineTuneParams, GenerateParams
from tgo_pipeline.planning.blueprint import Blueprint
from tgo_pipeline.planning.disk import Tensors

Parts = Mapping[str, Any]
"""Networks by their names in the pipeline."""
Conditions = dict[str, Tensor]
CLIP_TOKENS = 77
"""Of a tokenizer that does not say how many."""


class Family(abc.ABC):
    """One family, for one model and one size of images; as it stands here, one that samples the latents of a VAE."""

    vae = "vae"
    encodes_negative = True
    """Whether a guided batch runs the text encoders on the negative prompts too."""
    guides_together = True
    """Whether a guided step is one call of the network with twice the rows, or else two calls."""
    frames: int | None = None
    """Of a clip; None where images are drawn."""

    def __init__(
        self, policy: Any, blueprint: Blueprint, generate: GenerateParams, tuning: FineTuneParams
    ) -> None:
        """`policy` is the class of `fine_tune.policies` that trains the family."""
        self.blueprint = blueprint
        self.component: str = policy.component
        self.config = blueprint.configs[self.component]
        self.scale = self.scale_of(blueprint.configs[self.vae])
        own_width, own_height = self.own_size()
        self.width, self.height = generate.width or own_width, generate.height or own_height
        self._policy = policy
        self._tuning = dataclasses.replace(tuning, method="full")

    def scale_of(self, vae: Mapping[str, Any]) -> int:
        """How many pixels a latent one has on each side, by the configuration of the VAE."""
        return 2 ** (len(vae["block_out_channels"]) - 1)

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

    def policy(
        self, network: Any, tuning: FineTuneParams | None = None, *, with_reference: bool = False
    ) -> Any:
        """The policy around an imagined float32 network; without `tuning` the one that sampling is imagined with.

        Raises `TgoError` for a network that does not fit, or parameters that do not.
        """
        pipeline = SimpleNamespace(**{self.component: network}, scheduler=self.blueprint.scheduler())
        return self._policy.build(pipeline, tuning or self._tuning, seed=0, with_reference=with_reference)

    @abc.abstractmethod
    def conditions(self, parts: Parts, rows: int) -> Conditions:
        """What the text encoders make of `rows` prompts: the tensors that the cache of encoded prompts holds."""

    @abc.abstractmethod
    def feed(self, x: Tensor, conditions: Conditions) -> Any:
        """What the policy's `forward` takes in one step of sampling; `x` and the conditions have as many rows."""

    @abc.abstractmethod
    def corrupt(self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Any) -> Any:
        """What the policy's `corrupt` makes of tensors without content."""

    def start(self, rows: int) -> Tensor:
        """What sampling starts from."""
        return torch.randn(rows, self.blueprint.configs[self.vae]["latent_channels"], *self.grid)

    def step(self, prediction: Tensor, x: Tensor) -> Tensor:
        """What the scheduler makes of a prediction."""
        return x + prediction

    def decode(self, parts: Parts, x: Tensor) -> Tensor:
        """Latents to images in [0, 1]."""
        images = parts[self.vae].decode(x / 1.0, return_dict=False)[0]
        return (images * 0.5 + 0.5).clamp(0, 1)

    def encode(self, parts: Parts, rows: int) -> Conditions:
        """What the cache of encoded images holds for `rows` of them."""
        return {
            "latents": parts[self.vae].encode(self._bytes(rows).float() / 127.5 - 1.0).latent_dist.mode()
            * 1.0
        }

    def cached(self, prompt: Tensors, texts: Sequence[str]) -> Tensors:
        """What the cache holds of prompts that lie in one file; `prompt` is what their encoders give."""
        return prompt

    def _bytes(self, rows: int) -> Tensor:
        return torch.zeros(rows, 3, self.height, self.width, dtype=torch.uint8)

    def _ids(self, name: str, rows: int) -> Tensor:
        return torch.zeros(rows, self.blueprint.tokens(name, CLIP_TOKENS), dtype=torch.long)


class TokenFamily(Family):
    """A family whose images are the tokens of a VQ model, and each step draws all masked ones."""

    vae = "vqvae"

    def start(self, rows: int) -> Tensor:
        return torch.zeros(rows, *self.grid, dtype=torch.long)

    def step(self, prediction: Tensor, x: Tensor) -> Tensor:
        """By the sampler's own scheduler: it sorts and sums over the whole vocabulary."""
        from tgo_pipeline.generators.masked import ImageScheduler

        scheduler: Any = ImageScheduler.from_config(dict(self.blueprint.configs["scheduler"]))
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
        latents = vq.encode(self._bytes(rows).float() / 255).latents
        indices = vq.quantize(latents)[2][2].view(rows, *latents.shape[-2:])
        return {"tokens": indices.int(), "size": torch.zeros(rows, 2, dtype=torch.long)}
