"""Official sizes on the meta device: what fits on which card, and what it took before."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training.memory import MODELS, TRAININGS, trainings

PARAMETERS = {"FLUX.1 dev": 11_901, "SDXL": 2_567, "SD3.5 medium": 2_243}
"""Millions, as the models' cards have them."""


@pytest.mark.parametrize("name", MODELS)
def test_the_configurations_are_the_official_ones(name: str) -> None:
    blueprint = MODELS[name]
    component = "unet" if "unet" in blueprint.classes else "transformer"
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in blueprint.build(component).parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=1)


@pytest.mark.parametrize(
    ("name", "frozen_gb", "card_gb"),
    [("FLUX.1 dev, LoRA of rank 16", 23.8, 40), ("SDXL, full, AdamW", 5.1, 80)],
)
def test_it_fits_on_one_card_with_a_tenth_to_spare(name: str, frozen_gb: float, card_gb: int) -> None:
    ((row, found),) = trainings({name: TRAININGS[name]})
    frozen = found.reference_bytes or found.weight_bytes
    assert frozen / 1e9 == pytest.approx(frozen_gb, abs=0.15)
    assert row.now < 0.9 * card_gb * 1e9
    assert row.before - row.now == pytest.approx(frozen_gb * 1e9, rel=0.1)
