"""The training benchmark: both sides have one loss, operations are the published ones, and the section says it all."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training import check, flops, ours, plain
from benchmarks.training.speed import joined
from benchmarks.training.tables import VARIANTS, section
from benchmarks.training.task import RESULT, Task, run

SD15_GMACS = 338.7
"""Of the U-Net at 64 x 64 latents, attention's products not counted (BK-SDM, arXiv 2305.15798, table 1: 339 G)."""


def task(out: Path, side: str = "ours", architecture: str = "sd15", **changes: Any) -> Task:
    fields: dict[str, Any] = {"batch": 4, "micro": 2, "steps": 2} | changes
    return Task(out=str(out), side=side, architecture=architecture, size="toy", **fields)


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_both_sides_have_the_same_losses_on_the_same_draws(tmp_path: Path, architecture: str) -> None:
    losses = check.losses(task(tmp_path, architecture=architecture))
    assert losses["ours"] == pytest.approx(losses["plain"], rel=1e-3)
    assert losses["ours"][1] != pytest.approx(losses["ours"][0], rel=1e-2)  # they have learned something


@pytest.mark.parametrize(
    ("side", "settings"),
    [
        ("ours", {"method": "lora"}),
        ("mixed", {"method": "lora"}),
        ("plain", {"checkpointing": True, "pairs": True}),
        ("plain", {"method": "lora"}),
    ],
)
def test_every_side_steps_and_leaves_its_times(tmp_path: Path, side: str, settings: dict[str, Any]) -> None:
    loads = {"ours": ours.load, "mixed": ours.load_mixed, "plain": plain.load}
    asked = task(tmp_path, side, **settings)
    asked.write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == asked
    run(asked, loads[side])
    result = json.loads((tmp_path / RESULT).read_text())
    assert len(result["steps"]) == len(result["losses"]) == 2
    assert min(result["peak_bytes"], result["bare_bytes"]) > 100 << 20
    assert ("encode" in result) == (side != "plain")


def test_policy_and_reference_in_one_call_have_the_loss_of_two(tmp_path: Path) -> None:
    engine = ours.load(task(tmp_path, method="lora"))
    mixed = ours.load_mixed(task(tmp_path, method="lora"))
    for work in (engine, mixed):
        assert work.encode is not None
        work.encode()
    assert mixed.step() == pytest.approx(engine.step(), rel=1e-4)


def test_operations_of_stable_diffusion_are_those_published() -> None:
    full, lora = (flops.useful_flops("sd15", "full", method) for method in ("full", "lora"))
    forward = full / 4  # policy and reference forward, and twice that backward
    layers = ((4096, 320, 5), (1024, 640, 5), (256, 1280, 5), (64, 1280, 1))
    attention = sum(count * 2 * 2 * pixels * (pixels + 77) * width for pixels, width, count in layers)
    assert (forward - attention) / 2e9 == pytest.approx(SD15_GMACS, rel=3e-3)
    assert 3 * forward < lora < full  # the gradient of the frozen weights is left out


def _side(seconds: float, ratio: float, **more: Any) -> dict[str, Any]:
    base = {"s_per_sample": seconds, "ratio": ratio, "method": "full", "micro": 8}
    return base | {"bare_bytes": 1 << 30, "peak_bytes": 3 << 30, "peak_device_bytes": 5 << 30} | more


def _measured(sides: dict[str, Any], size: str = "small") -> dict[str, Any]:
    return {
        "workload": {"size": size, "batch": 8, "threads": 2, "rounds": 2},
        "hardware": {
            "date": "2026-01-02",
            "processor": "some processor, 2 cores",
            "features": ["avx2"],
            "memory_bytes": 8 << 30,
            "accelerator": "none",
            "python": "3.11",
            "versions": {"torch": "2"},
            "commit": "abc",
        },
        "architectures": {
            "sd15": {
                "check": {"ours": [1.0, 2.0], "plain": [1.0, 2.0002]},
                "useful_flops": {"full": 4e9, "lora": 3e9},
                "peak_flops_per_s": 1e11,
                "sides": sides,
            }
        },
    }


def test_the_section_shows_ratios_utilisation_and_memory() -> None:
    sides = {"ours": _side(0.1, 1.0, encode_s_per_sample=0.05), "kto": _side(0.3, 3.0, micro=2)}
    sides["plain"] = _side(0.12, 1.2)
    text = section({"cpu": _measured(sides)})
    assert "| this project | 8 | 100 | 10 |  | 40.0% | 2,048 |" in text
    assert "VAE in fp32 | 2 | 300 | 3.33 | **3.00** | 13.3% | 2,048 |" in text
    assert "to 1.0e-04" in text
    assert "**At equal batches a plain loop takes 1.20 times as long**" in text
    assert "Diffusion-KTO's settings (batches, what is computed twice) add a factor of 2.50." in text
    assert "over a single epoch the plain loop takes 0.80 times as long" in text
    assert text.split("### GPU")[1].count("not measured yet") == len(VARIANTS)


def test_sides_that_were_measured_before_stay() -> None:
    before = _measured({"ours": _side(0.1, 1.0), "kto": _side(0.3, 3.0)})
    now = _measured({"ours": _side(0.2, 1.0), "ours, compiled": _side(0.15, 0.75)})
    sides = joined(before, now)["architectures"]["sd15"]["sides"]
    assert list(sides) == ["ours", "kto", "ours, compiled"]
    assert sides["ours"]["s_per_sample"] == 0.2
    assert joined(_measured({"kto": _side(1.0, 1.0)}, "toy"), now) == now
