"""What rewards cost, as the benchmark writes it, against closed forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.parity.networks import NETWORKS
from benchmarks.rewards import costs
from benchmarks.rewards.flops import blip_flops, closed_form
from tgo_pipeline.planning.vision_language import INSTRUCTION, QWEN2_VL_2B
from tgo_pipeline.rewards.files.layouts import LAYOUTS

GIGA = 1e9


def test_the_table_has_a_row_for_each_reward_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {name: LAYOUTS[name] for name in ("imagereward", "aesthetic", "jpeg_kb")}
    monkeypatch.setattr(costs, "LAYOUTS", chosen)
    monkeypatch.setattr(costs, "RESULTS", tmp_path / "RESULTS.md")
    costs.main()
    rows = [line for line in (tmp_path / "RESULTS.md").read_text().splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[0] for row in rows] == ["| `imagereward`", "| `aesthetic`"]
    assert rows[0].startswith("| `imagereward` | 446 M |  | 0.94 GB | 1.78 GB | ")
    assert rows[1].startswith("| `aesthetic` | 305 M | 1.71 GB | 0.62 GB | 1.22 GB | ")


def test_operations_are_those_of_the_closed_form() -> None:
    """Of an image network the last block computes one token alone, which saves up to 4 %; prompts are cut."""
    aesthetic = costs.costs("aesthetic", "fp32")
    whole = closed_form(NETWORKS["full"])["ViT-L image tower"]
    assert 0.95 * whole < aesthetic.flops_per_image / GIGA < whole
    image, text = (value / GIGA for value in blip_flops(NETWORKS["full"].blip))
    blip = costs.costs("imagereward", "fp32")
    assert image + 0.5 * text < (blip.flops_per_image + blip.flops_per_prompt) / GIGA < image + text


def test_videoreward_costs_what_its_two_networks_multiply() -> None:
    """By hand, of 16 frames of 448 pixels: 8 pairs of 32 x 32 patches, of which four make a token."""
    text, vision = QWEN2_VL_2B, QWEN2_VL_2B["vision_config"]
    patches, width = 8 * 32 * 32, vision["embed_dim"]
    seen = 2 * patches * 1176 * width
    block = 2 * patches * width * (4 * width + 2 * vision["mlp_ratio"] * width)
    block += 2 * 2 * patches * 32 * 32 * width  # each frame looks at itself
    tokens = patches // 4
    merged = 2 * tokens * (4 * width) * (4 * width + text["hidden_size"])
    read = tokens + INSTRUCTION["videoreward"] + round(len(costs.PROMPT) / 4.5)
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    narrow = hidden * text["num_key_value_heads"] // heads
    layer = 2 * read * hidden * (2 * hidden + 2 * narrow + 3 * text["intermediate_size"])
    layer += 2 * 2 * read * read * hidden
    expected = seen + vision["depth"] * block + merged + text["num_hidden_layers"] * layer
    found = costs.costs("videoreward", "fp32")
    assert found.flops_per_image == pytest.approx(expected, rel=0.02)
    assert found.weight_bytes / 4e9 == pytest.approx(2.2, abs=0.1)
