"""Training on a GPU: Stable Diffusion 1.5 by method and precision, frozen weights in bf16, and a group of one."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.case import Case
from benchmarks.training import ours
from benchmarks.training.architectures import SD15, build_pipeline
from benchmarks.training.task import Task
from fine_tune.distributed.processes import Group
from fine_tune.objectives import make_objective
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.trainer import Trainer
from tgo_pipeline.params import FineTuneParams, RuntimeParams

CASES: dict[str, dict[str, Any]] = {
    "full, bf16": {},
    "full, bf16, checkpointing": {"checkpointing": True},
    "lora, bf16": {"method": "lora"},
    "lora, bf16, checkpointing": {"method": "lora", "checkpointing": True},
    "full, fp16": {"precision": "fp16"},
    "full, fp32": {"precision": "fp32"},
    "full, bf16, adafactor": {"optimizer": "adafactor"},
}
ON_CPU = 4
"""How many of them a dry run takes: the others need a GPU."""
GROUP = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511",
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
"""What a launcher of one process that shards its weights says."""
UPDATES = 3


def training(case: Case) -> dict[str, Any]:
    """Seconds a sample, peak memory, the first log-ratio (0), and losses before and after resuming."""
    found: dict[str, Any] = {}
    for name, changes in list(CASES.items())[: None if case.full else ON_CPU]:
        if case.left_s < 60:
            found[name] = "no time left"
            continue
        case.forget()
        try:
            found[name] = _one(case, dict(changes))
        except (RuntimeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _one(case: Case, changes: dict[str, Any]) -> dict[str, Any]:
    tuning = {key: changes.pop(key) for key in ("precision", "optimizer") if key in changes}
    batch, micro = (32, 16) if case.full else (4, 2)
    size = "full" if case.full else "toy"
    task = Task(".", "ours", SD15, size, device=str(case.device), batch=batch, micro=micro, **changes)
    with _tuned(**tuning):
        engine = ours.Engine(task)
        encoding_s = case.seconds(engine.encode, 1, 0)
        case.forget()
        engine.build()
    trainer = engine.trainer
    assert trainer is not None
    first = trainer.update().log_ratio
    state = copy.deepcopy(trainer.state())
    case.wait()
    began_s = time.perf_counter()
    losses = [trainer.update().metrics["loss"] for _ in range(UPDATES)]
    case.wait()
    took_s = (time.perf_counter() - began_s) / UPDATES
    trainer.load_state(state)
    again = [trainer.update().metrics["loss"] for _ in range(UPDATES)]
    return {
        "s per sample": took_s / batch,
        "encoding, s per sample": encoding_s / batch,
        "peak_gb": case.peak_gb,
        "log-ratio before the first update": None if first is None else float(abs(first).max()),
        "losses": losses,
        "losses after resuming": again,
    }


@contextmanager
def _tuned(**changes: Any) -> Iterator[None]:
    """The benchmark's parameters with other values."""
    before = ours.tuning

    def tuning(task: Task, learning_rate: float) -> FineTuneParams:
        return dataclasses.replace(before(task, learning_rate), **changes)

    ours.tuning = tuning
    try:
        yield
    finally:
        ours.tuning = before


def frozen(case: Case) -> dict[str, Any]:
    """Whether frozen matrices in bf16 give the bits that autocast gives from float32, and what that saves."""
    unet = build_pipeline(SD15, "full" if case.full else "toy", case.device).unet.eval().requires_grad_(False)
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents = torch.randn(4, 4, side, side, device=case.device)
    timesteps = torch.tensor([1, 300, 600, 999], device=case.device)
    texts = torch.randn(4, 77, width, device=case.device)

    def run() -> torch.Tensor:
        with torch.no_grad(), torch.autocast(case.device.type, torch.bfloat16):
            return unet(latents, timesteps, texts, return_dict=False)[0]

    before, before_s, before_gb = run(), case.seconds(run), _gigabytes(unet)
    for module in unet.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    return {
        "equal to the bit": bool(torch.equal(before, run())),
        "s": {"float32": before_s, "bf16": case.seconds(run)},
        "gb": {"float32": before_gb, "bf16": _gigabytes(unet)},
    }


def _gigabytes(network: nn.Module) -> float:
    return sum(each.numel() * each.element_size() for each in network.parameters()) / 1e9


def one_process(case: Case) -> dict[str, Any]:
    """Sharded weights, optimiser, clipping, average, whole state and resuming in a group of one process."""
    from torch import distributed

    before = {name: os.environ.get(name) for name in GROUP}
    os.environ.update(GROUP)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if case.full else "gloo")
    found: dict[str, Any] = {}
    try:
        for method, precision in (("full", "bf16"), ("lora", "bf16"), ("full", "fp16")):
            if precision == "fp16" and not case.full:
                continue
            case.forget()
            found[f"{method}, {precision}"] = _sharded(case, method, precision if case.full else "fp32")
    finally:
        distributed.destroy_process_group()
        _restore(before)
    return found


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _sharded(case: Case, method: str, precision: Any) -> dict[str, Any]:
    size = "small" if case.full else "toy"
    task = Task(".", "ours", SD15, size, method=method, device=str(case.device), batch=4, micro=2)
    with _tuned(precision=precision, ema=0.9):
        engine = ours.Engine(task)
    engine.encode()
    engine._pipeline.to("cpu")
    params = engine.params
    trainer = Trainer(
        engine.policy(),
        make_objective(params),
        engine.data(),
        params,
        RuntimeParams(micro_batch_size=2),
        Accelerator(params.precision, case.device),
        Group(0, 1, sharded=True),
    )
    losses = [trainer.update().metrics["loss"]]
    state = copy.deepcopy(trainer.state())
    losses += [trainer.update().metrics["loss"] for _ in range(2)]
    trainer.load_state(state)
    again = [trainer.update().metrics["loss"] for _ in range(2)]
    return {
        "losses": losses,
        "losses after resuming": again,
        "tensors of the whole state": len(state.weights),
    }
