"""Precision of a training: what is computed in half, and gradients that are scaled, unscaled and skipped."""

from __future__ import annotations

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from fine_tune.training.accelerator import Accelerator
from tgo_pipeline.errors import TgoError

CPU = torch.device("cpu")


def scaled() -> Accelerator:
    """An accelerator that scales as with fp16, on the CPU, where fp16 itself is refused."""
    accelerator = Accelerator("fp32", CPU)
    accelerator.scaler = GradScaler("cpu", init_scale=1024.0)
    return accelerator


def test_trainings_of_one_process_may_differ_in_precision() -> None:
    left, right = torch.ones(3, 4), torch.ones(4, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Accelerator(precision, CPU).autocast():
            assert (left @ right).dtype == dtype
    assert (left @ right).dtype == torch.float32


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(TgoError, match="fp16, which needs a GPU: use bf16 or fp32 on a CPU"):
        Accelerator("fp16", CPU)


def test_a_gpu_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(TgoError, match="bf16, which this GPU does not compute in: use fp16 or fp32"):
        Accelerator("bf16", torch.device("cuda"))


def test_a_scaled_gradient_is_unscaled_before_it_is_clipped_and_gives_the_same_update() -> None:
    updated = []
    for accelerator in (Accelerator("fp32", CPU), scaled()):
        weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = torch.optim.SGD([weight], lr=0.5)
        accelerator.backward((weight * torch.tensor([1.0, 3.0])).sum())
        accelerator.unscale(optimizer)
        assert weight.grad is not None and weight.grad.tolist() == [1, 3]
        accelerator.step(optimizer)
        updated.append(weight.tolist())
    assert updated == [[0.5, 0.5]] * 2


def test_a_gradient_that_overflows_skips_the_update_and_lowers_the_scale() -> None:
    accelerator, weight = scaled(), torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    accelerator.backward((weight * 1e38).sum())
    accelerator.unscale(optimizer)
    accelerator.step(optimizer)
    assert weight.item() == 1
    assert accelerator.scaler is not None and accelerator.scaler.get_scale() == 512


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to compute fp16 on")
def test_fp16_on_a_gpu_computes_in_half_and_scales() -> None:
    accelerator = Accelerator("fp16", torch.device("cuda", 0))
    with accelerator.autocast():
        product = torch.ones(3, 4, device="cuda") @ torch.ones(4, 2, device="cuda")
    assert product.dtype == torch.float16 and accelerator.scaler is not None
