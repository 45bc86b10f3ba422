"""This project's engine on the benchmark's images: encoded once, large batches, one base network for an adapter."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.training.architectures import Examples, build_pipeline, examples
from benchmarks.training.task import BETA, LEARNING_RATE, TEMPERATURE, Task, Work
from fine_tune.data.batches import Encoded, Sampling, TrainingData
from fine_tune.data.cache import IMAGES, PROMPTS
from fine_tune.data.labels import Labels
from fine_tune.data.tensors import write_tensors
from fine_tune.data.texts import Texts
from fine_tune.objectives import make_objective
from fine_tune.policies import policy_class
from fine_tune.policies.base import ENCODING_PARTS, Encoder, Policy
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.trainer import Trainer
from tgo_pipeline.params import FineTuneParams, LoraParams, RuntimeParams
from tgo_pipeline.storage.shards import Shard

ENCODED_AT_ONCE = 8
SEED = 0


class Engine:
    """The fine_tune stage without its files: encode, drop the encoders, then one trainer's updates."""

    def __init__(self, task: Task, learning_rate: float = LEARNING_RATE) -> None:
        self.params = tuning(task, learning_rate)
        self._task = task
        self._device = torch.device(task.device)
        self._examples = examples(task.architecture, task.size, task.batch)
        self._pipeline = build_pipeline(task.architecture, task.size, self._device)
        self._encoded: Encoded | None = None
        self.trainer: Trainer | None = None

    def encode(self) -> None:
        """Fill the cache, then let go of VAE and text encoders."""
        encoder = policy_class(self._pipeline).encoder(self._pipeline, (None, None))
        self._encoded = encoded(encoder, self._examples)
        for part in ENCODING_PARTS:
            if hasattr(self._pipeline, part):
                self._pipeline.register_modules(**{part: None})

    def policy(self) -> Policy:
        """The policy with its reference, built again."""
        policy = policy_class(self._pipeline)
        return policy.build(self._pipeline, self.params, seed=SEED, with_reference=True)

    def data(self) -> TrainingData:
        """Batches of the encoded images."""
        assert self._encoded is not None
        return TrainingData(
            labels(self._examples), self._encoded, Sampling(seed=SEED, batch_size=self._task.batch)
        )

    def build(self) -> Policy:
        """Build the trainer; the policy that it trains."""
        task = self._task
        runtime = RuntimeParams(
            micro_batch_size=task.micro, gradient_checkpointing=task.checkpointing, compile=task.compile
        )
        objective = make_objective(self.params)
        accelerator = Accelerator(self.params.precision, self._device)
        policy = self.policy()
        self.trainer = Trainer(policy, objective, self.data(), self.params, runtime, accelerator)
        return policy

    def latents(self) -> Tensor:
        """(N, C, h, w) of all images, as cached."""
        assert self._encoded is not None
        return self._encoded.images(range(len(self._examples.prompts)))["latents"]

    def step(self) -> float:
        """One update; the mean loss before it. The first one builds the trainer."""
        if self.trainer is None:
            self.build()
        assert self.trainer is not None
        return self.trainer.update().metrics["loss"]


def tuning(task: Task, learning_rate: float) -> FineTuneParams:
    """The parameters of both sides' training."""
    return FineTuneParams(
        beta=BETA,
        temperature=TEMPERATURE,
        method="lora" if task.method == "lora" else "full",
        lora=LoraParams(rank=8, alpha=8),
        batch_size=task.batch,
        learning_rate=learning_rate,
        precision="fp32" if task.device == "cpu" else "bf16",
    )


def labels(data: Examples) -> Labels:
    """The benchmark's labels as the label stage gives them."""
    count = len(data.prompts)
    return Labels(
        Texts([sample_id(row) for row in range(count)]),
        Texts([f"p{row // 2}" for row in range(count)]),
        data.label,
        data.weight,
        data.score,
        data.score,
    )


def sample_id(row: int) -> str:
    """Ids in the order of the rows."""
    return f"s{row:06d}"


def encoded(encoder: Encoder, data: Examples) -> Encoded:
    """The cache of the images, written and mapped as the stage does."""
    images = [Image.fromarray(pixels) for pixels in data.pixels]
    prompts = ["", *sorted(set(data.prompts))]
    ids = [sample_id(row) for row in range(len(images))]
    shards = [Shard(IMAGES, 0, 1, "", ".safetensors"), Shard(PROMPTS, 0, 1, "", ".safetensors")]
    with tempfile.TemporaryDirectory() as folder:
        metadata = {"sample_ids": json.dumps(ids), "prompts": json.dumps(data.prompts)}
        write_tensors(_in_parts(encoder.images, images), Path(folder) / shards[0].name, metadata)
        metadata = {"prompts": json.dumps(prompts)}
        write_tensors(_in_parts(encoder.prompts, prompts), Path(folder) / shards[1].name, metadata)
        found = Encoded(Path(folder), shards)
        found.images([0])  # which maps the file, before its folder goes
        found.conditions([""])
        return found


def _in_parts(encode: Callable[[list], dict[str, Tensor]], items: list) -> dict[str, Tensor]:
    starts = range(0, len(items), ENCODED_AT_ONCE)
    parts = [encode(items[start : start + ENCODED_AT_ONCE]) for start in starts]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def load(task: Task) -> Work:
    """The engine on the benchmark's images."""
    engine = Engine(task)
    return Work(engine.step, engine.encode)


class MixedCall:
    """An adapter's step with policy and reference as the two halves of one call: what the engine does not do.

    Every adapter layer is told the half that it leaves alone; the gradient runs through both halves.
    """

    def __init__(self, task: Task) -> None:
        self._engine = Engine(task)
        self._task = task
        self._policy: Any = None
        self.encode = self._engine.encode

    def step(self) -> float:
        """One update on one whole batch."""
        if self._policy is None:
            self._policy, self._data = self._engine.policy(), self._engine.data()
            self._optimizer = torch.optim.AdamW(self._policy.trainable().values(), LEARNING_RATE, fused=True)
            _mix_adapters(self._policy.network, self._task.micro)
        batch = self._data.batch(0)
        total = 0.0
        for part in (part.to(torch.device(self._task.device)) for part in batch.split(self._task.micro)):
            twice = [
                {name: torch.cat([t, t]) for name, t in d.items()} for d in (part.images, part.conditions)
            ]
            corruption = self._policy.corrupt(*twice, [seeds[0] for seeds in part.seeds] * 2)
            with self._precision():
                likelihood = self._policy.log_likelihood(self._policy.predict(corruption), corruption)
            policy, reference = likelihood.chunk(2)
            signed = (2 * part.label - 1) * BETA * (policy - reference.detach())
            loss = -(part.weight * nn.functional.logsigmoid(signed)).sum() / len(batch)
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self._policy.trainable().values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total

    def _precision(self) -> torch.autocast:
        device = torch.device(self._task.device).type
        return torch.autocast(device, torch.bfloat16, enabled=device != "cpu")


def _mix_adapters(network: nn.Module, policy_rows: int) -> None:
    from peft.tuners.lora import LoraLayer

    names = ["default"] * policy_rows + ["__base__"] * policy_rows

    def tell(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | {"adapter_names": names}

    for module in network.modules():
        if isinstance(module, LoraLayer) and isinstance(module, nn.Module):
            module.register_forward_pre_hook(tell, with_kwargs=True)


def load_mixed(task: Task) -> Work:
    """The mixed call on the benchmark's images."""
    mixed = MixedCall(task)
    return Work(mixed.step, mixed.encode)
