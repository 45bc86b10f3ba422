"""Prompts that are longer than a text encoder takes are counted in one line of a shard, and nowhere listed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from fine_tune.data.cache import EncodingSource, encode_folder, plan
from tests.tiny import IMAGE_SIZE, TOKENS, tiny_diffusion_pipeline
from tests.tiny_families import tiny_sd3_pipeline
from tests.tiny_masked import tiny_amused_pipeline
from tgo_pipeline.generators.stage import generate_folder
from tgo_pipeline.params import GenerateParams, RuntimeParams
from tgo_pipeline.prompts import prompt_id

SHORT, FITS = "a cat", "x" * (TOKENS - 2)
PROMPTS = [SHORT, FITS, FITS + "y", "a dog " * 40]


@pytest.mark.parametrize("make", [tiny_diffusion_pipeline, tiny_sd3_pipeline, tiny_amused_pipeline])
def test_long_prompts_are_counted_and_not_listed(
    make: Callable[[Path], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = str(make(tmp_path / "model"))
    size = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
    generate_folder(
        tmp_path / "generations",
        [(prompt_id(prompt), prompt) for prompt in PROMPTS],
        split="train",
        model=model,
        revision=None,
        params=GenerateParams(steps=1, shard_size=2, **size),
        images_per_prompt=2,
        seed=0,
        purpose="test",
        runtime=RuntimeParams(device="cpu", generate_batch_size=3),
    )
    source = EncodingSource(tmp_path / "generations", model, None, (IMAGE_SIZE, IMAGE_SIZE))
    encode_folder(tmp_path / "encoded", source, plan(source), RuntimeParams(device="cpu"))
    ours = [record for record in caplog.records if record.name == "tgo"]
    said = [record.getMessage() for record in ours if record.levelno == logging.WARNING]
    assert said == [
        f"of {count} prompts 2 have more than {TOKENS} tokens, whose rest a text encoder does not read"
        for count in (4, 5)  # the empty prompt is encoded too
    ]
    printed = capfd.readouterr()
    assert "truncated" not in printed.out + printed.err
    assert "longer than" not in printed.out + printed.err
