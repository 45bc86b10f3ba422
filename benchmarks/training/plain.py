"""A training loop as the official Diffusion-KTO and Diffusion-DPO scripts are built, with this project's loss.

Few samples a forward pass and many of them accumulated; VAE and text encoders run in the loop, on every sample in
every epoch; the reference is a second U-Net that lies beside the trained one. Under autocast that copy, the text
encoders and (but for KTO's) the VAE are in half precision, on a CPU all is float32.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.training.architectures import SDXL, Examples, build_pipeline, examples
from benchmarks.training.task import BETA, LEARNING_RATE, TEMPERATURE, Task, Work

LORA = LoraConfig(
    r=8, lora_alpha=8, init_lora_weights="gaussian", target_modules=["to_q", "to_k", "to_v", "to_out.0"]
)


@dataclass(frozen=True)
class Draw:
    """What makes a step reproducible: which samples, and what is drawn for them."""

    rows: Sequence[int]
    timesteps: Tensor
    noise: Tensor


Draws = Callable[[Sequence[int], torch.Size, torch.device], Draw]


def random_draws(rows: Sequence[int], shape: torch.Size, device: torch.device) -> Draw:
    """New timesteps and noise, drawn where the latents are."""
    timesteps = torch.randint(0, 1000, (len(rows),), device=device)
    return Draw(rows, timesteps, torch.randn(shape, device=device))


class PlainLoop:
    """The loop's networks, optimiser and data; `step()` accumulates one batch and updates."""

    def __init__(
        self, task: Task, pipeline: Any, data: Examples, learning_rate: float = LEARNING_RATE
    ) -> None:
        device = torch.device(task.device)
        cpu = device.type == "cpu"
        self._accelerator = Accelerator(
            mixed_precision="no" if cpu else "bf16",
            gradient_accumulation_steps=task.batch // task.micro,
            cpu=cpu,
        )
        self._task, self._data, self._device = task, data, device
        self._half = torch.float32 if cpu else torch.bfloat16
        self._vae = pipeline.vae.requires_grad_(False)
        self._vae_dtype = torch.float32 if task.vae_fp32 else self._half
        self._vae.to(dtype=self._vae_dtype)
        self._text = _TextEncoders(pipeline, self._half)
        self._scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
        unet, self._reference = pipeline.unet, copy.deepcopy(pipeline.unet)
        self._reference.requires_grad_(False).to(dtype=self._half)
        if task.method == "lora":
            unet.requires_grad_(False).to(dtype=self._half)
            unet.add_adapter(LORA)
            for parameter in _trainable(unet):
                parameter.data = parameter.data.float()
        if task.checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        optimizer = torch.optim.AdamW(_trainable(unet), lr=learning_rate, weight_decay=0.01)
        self._unet, self._optimizer = self._accelerator.prepare(unet, optimizer)
        self._order = itertools.cycle(range(len(data.prompts)))

    def step(self, given: Iterator[Draw] | None = None) -> float:
        """One update on `batch` samples, drawn again or as given in parts; the mean loss before it."""
        total = 0.0
        for _ in range(self._task.batch // self._task.micro):
            with self._accelerator.accumulate(self._unet):
                draw = next(given) if given is not None else None
                loss = self._loss(draw)
                self._accelerator.backward(loss)
                if self._accelerator.sync_gradients:
                    self._accelerator.clip_grad_norm_(_trainable(self._unet), 1.0)
                self._optimizer.step()
                self._optimizer.zero_grad()
                total += loss.item()
        return total / (self._task.batch // self._task.micro)

    def _loss(self, draw: Draw | None) -> Tensor:
        rows = draw.rows if draw else list(itertools.islice(self._order, self._task.micro))
        latents = self._latents(rows, sample=draw is None)
        draw = draw or random_draws(rows, latents.shape, self._device)
        noisy = self._scheduler.add_noise(latents, draw.noise, draw.timesteps)
        conditions = self._conditions(rows)
        prediction = self._unet(noisy, draw.timesteps, **conditions).sample
        with torch.no_grad(), self._accelerator.autocast():
            reference = self._reference(noisy, draw.timesteps, **conditions).sample
        return self._tgo(self._error(prediction, draw), self._error(reference, draw), rows)

    def _latents(self, rows: Sequence[int], sample: bool) -> Tensor:
        pixels = torch.from_numpy(self._data.pixels[list(rows)]).to(self._device)
        pixels = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(self._vae_dtype)
        with torch.no_grad():
            posterior = self._vae.encode(pixels).latent_dist
            latents = posterior.sample() if sample else posterior.mode()
        return latents.float() * self._vae.config["scaling_factor"]

    def _conditions(self, rows: Sequence[int]) -> dict[str, Any]:
        prompts = [self._data.prompts[row] for row in rows]
        if self._task.pairs:  # both images of a pair have the prompt of the first
            encoded = self._text(prompts[::2])
            encoded = {name: tensor.repeat_interleave(2, 0) for name, tensor in encoded.items()}
        else:
            encoded = self._text(prompts)
        if self._task.architecture != SDXL:
            return {"encoder_hidden_states": encoded["embeddings"]}
        size = self._data.pixels.shape[1]
        time_ids = torch.tensor([[size, size, 0, 0, size, size]], device=self._device).expand(len(rows), 6)
        return {
            "encoder_hidden_states": encoded["embeddings"],
            "added_cond_kwargs": {"text_embeds": encoded["pooled"], "time_ids": time_ids},
        }

    @staticmethod
    def _error(prediction: Tensor, draw: Draw) -> Tensor:
        return (prediction.float() - draw.noise).square().mean(dim=(1, 2, 3))

    def _tgo(self, policy: Tensor, reference: Tensor, rows: Sequence[int]) -> Tensor:
        log_ratio = -(policy - reference) / TEMPERATURE
        label = torch.from_numpy(self._data.label[list(rows)]).to(self._device)
        weight = torch.from_numpy(self._data.weight[list(rows)]).to(self._device)
        return -(weight * nn.functional.logsigmoid((2 * label - 1) * BETA * log_ratio)).mean()


class _TextEncoders:
    """Prompts to the conditions of the U-Net, tokenised beforehand as the official data sets do."""

    def __init__(self, pipeline: Any, dtype: torch.dtype) -> None:
        encoders = (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None))
        self._encoders = [e.requires_grad_(False).to(dtype=dtype) for e in encoders if e is not None]
        self._tokenizer = pipeline.tokenizer
        self._tokens: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        tokens = torch.stack([self._ids(prompt) for prompt in prompts]).to(self._encoders[0].device)
        if len(self._encoders) == 1:
            return {"embeddings": self._encoders[0](tokens)[0]}
        answers = [encoder(tokens, output_hidden_states=True) for encoder in self._encoders]
        return {
            "embeddings": torch.cat([answer.hidden_states[-2] for answer in answers], -1),
            "pooled": answers[1][0],
        }

    def _ids(self, prompt: str) -> Tensor:
        if prompt not in self._tokens:
            length = self._tokenizer.model_max_length
            encoded = self._tokenizer(prompt, padding="max_length", truncation=True, max_length=length)
            self._tokens[prompt] = torch.tensor(encoded.input_ids)
        return self._tokens[prompt]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def load(task: Task) -> Work:
    """The loop on the benchmark's images."""
    pipeline = build_pipeline(task.architecture, task.size, torch.device(task.device))
    loop = PlainLoop(task, pipeline, examples(task.architecture, task.size, task.batch))
    return Work(loop.step)
