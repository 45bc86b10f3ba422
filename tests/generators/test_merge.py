"""Merged guidance: an ordinary adapter or pipeline with the weights that the formula says, loaded by the library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.generators.guided import BUILDERS, Family, draw, with_adapter, write_lora
from tests.rounding import assert_same_images
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.guidance import guided_pipeline
from tgo_pipeline.generators.merge import merge


def _weights(pipeline: Any, component: str = "unet") -> dict[str, Any]:
    """The network's weights in float64, adapters made part of them by peft."""
    network = getattr(pipeline, component)
    if getattr(network, "peft_config", None):
        network.double().fuse_lora()
        network.unload_lora()
    return {name: weight.double() for name, weight in network.state_dict().items()}


def _close(actual: dict[str, Any], expected: dict[str, Any], atol: float = 1e-6) -> None:
    import torch

    assert actual.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, atol=atol, rtol=1e-6)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_strength_1_of_an_adapter_is_that_adapter(
    name: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    family = families(name)
    merged = merge(str(family.base), family.positive, strength=1.0, output=tmp_path / "merged")
    tensors, original = (
        load_file(folder / "pytorch_lora_weights.safetensors") for folder in (merged, family.positive)
    )
    prefix = "" if next(iter(tensors)) in original else f"{family.component}."
    assert {key.removeprefix(prefix) for key in tensors} == original.keys()
    assert all(bool((tensors[prefix + key] == value).all()) for key, value in original.items())

    pipeline = load_pipeline(str(family.base))  # the two lines of the library
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(merged)
    else:
        pipeline.transformer.load_lora_adapter(merged, prefix=None, use_safetensors=True)
    expected = draw(with_adapter(family, family.positive))
    tokens = name in ("amused", "meissonic")
    assert_same_images(draw(pipeline), expected, tokens=tokens)
    assert_same_images(draw(load_pipeline(str(merged))), expected, tokens=tokens)


def test_adapters_of_different_ranks_become_one(sd: Family, tmp_path: Path) -> None:
    merged = merge(str(sd.base), sd.positive, sd.negative, strength=1.5, output=tmp_path / "merged")
    base = _weights(load_pipeline(str(sd.base)))
    plus, minus = (_weights(with_adapter(sd, side)) for side in (sd.positive, sd.negative))
    expected = {name: base[name] + 1.5 * (plus[name] - minus[name]) for name in base}
    _close(_weights(load_pipeline(str(merged))), expected)
    ranks = {
        value.shape[0]
        for key, value in load_file(merged / "pytorch_lora_weights.safetensors").items()
        if "_A" in key
    }
    assert ranks == {5}
    described = json.loads((merged / "tgo.json").read_text())
    assert (described["method"], described["objective"], described["strength"]) == ("lora", "cpgd-merge", 1.5)


def test_adapters_on_different_layers_become_one(sd: Family, tmp_path: Path) -> None:
    write_lora(sd.base, "unet", tmp_path / "queries", seed=3, targets=["to_q"])
    write_lora(sd.base, "unet", tmp_path / "both", seed=4, rank=4, targets=["to_q", "conv2"])
    merged = merge(
        str(sd.base), tmp_path / "queries", tmp_path / "both", strength=-0.5, output=tmp_path / "merged"
    )
    base = _weights(load_pipeline(str(sd.base)))
    plus, minus = (_weights(with_adapter(sd, tmp_path / side)) for side in ("queries", "both"))
    _close(
        _weights(load_pipeline(str(merged))),
        {name: base[name] - 0.5 * (plus[name] - minus[name]) for name in base},
    )


def test_the_error_of_a_merge_falls_with_the_square_of_the_modules_distance(
    sd: Family, tmp_path: Path
) -> None:
    """e(theta + w d) = e(theta) + w J d + O(w^2 d^2), and guidance differs from w J d by the same order."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).double() for shape in ((2, 4, 16, 16), (2, 24, 16))]

    def answer(pipeline: Any) -> torch.Tensor:
        with torch.no_grad():
            return pipeline.to(torch.float64).unet(
                inputs[0], torch.tensor(400), inputs[1], return_dict=False
            )[0]

    def effect_and_error(scale: float) -> tuple[float, float]:
        near = [
            merge(str(sd.base), side, strength=scale, output=tmp_path / f"{side.name}-{scale}")
            for side in (sd.positive, sd.negative)
        ]
        guided = answer(guided_pipeline(str(sd.base), *near, strength=2.0))
        merged = merge(str(sd.base), *near, strength=2.0, output=tmp_path / f"merged-{scale}")
        return float((guided - base).norm()), float((answer(load_pipeline(str(merged))) - guided).norm())

    base = answer(load_pipeline(str(sd.base)))
    effect, error = effect_and_error(2e-3)
    half_effect, half_error = effect_and_error(1e-3)
    assert effect / half_effect == pytest.approx(2, rel=0.05)
    assert error / half_error == pytest.approx(4, rel=0.15)
    assert error < 0.2 * effect


def test_whole_models_become_one_pipeline_folder(sd: Family, tmp_path: Path) -> None:
    base, plus, minus = (
        _weights(load_pipeline(str(f))) for f in (sd.base, sd.full_positive, sd.full_negative)
    )
    both = merge(str(sd.base), sd.full_positive, sd.full_negative, strength=0.3, output=tmp_path / "both")
    _close(_weights(load_pipeline(str(both))), {n: base[n] + 0.3 * (plus[n] - minus[n]) for n in base})
    one = merge(str(sd.base), sd.full_positive, strength=0.3, output=tmp_path / "one")
    _close(_weights(load_pipeline(str(one))), {n: 0.7 * base[n] + 0.3 * plus[n] for n in base})
    whole = merge(str(sd.base), sd.full_positive, strength=1.0, output=tmp_path / "whole")
    loaded = load_pipeline(str(whole))
    assert all(bool((weight == plus[name]).all()) for name, weight in _weights(loaded).items())
    text = load_pipeline(str(sd.base)).text_encoder.state_dict()
    assert all(bool((value == text[name]).all()) for name, value in loaded.text_encoder.state_dict().items())

    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    assert (
        StableDiffusionPipeline.from_pretrained(whole).unet.num_parameters() == loaded.unet.num_parameters()
    )


def test_an_adapter_and_a_whole_model_become_a_pipeline_folder(sd: Family, tmp_path: Path) -> None:
    base = load_pipeline(str(sd.base))
    before = draw(base)
    merged = merge(base, sd.positive, sd.full_negative, strength=0.5, output=tmp_path / "merged")
    assert np.array_equal(draw(base), before)
    assert not getattr(base.unet, "peft_config", {})
    start, plus, minus = (
        _weights(p)
        for p in (
            load_pipeline(str(sd.base)),
            with_adapter(sd, sd.positive),
            load_pipeline(str(sd.full_negative)),
        )
    )
    _close(_weights(load_pipeline(str(merged))), {n: start[n] + 0.5 * (plus[n] - minus[n]) for n in start})


def test_wrong_inputs_write_nothing(sd: Family, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(TgoError, match="exists: name a folder that does not"):
        merge(str(sd.base), sd.positive, strength=1.0, output=tmp_path / "taken")
    write_lora(sd.base, "unet", tmp_path / "dora", seed=3, use_dora=True)
    with pytest.raises(TgoError, match="is not a plain LoRA"):
        merge(str(sd.base), tmp_path / "dora", strength=1.0, output=tmp_path / "out")
    other = Path(shutil.copytree(sd.positive, tmp_path / "other"))
    (other / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(sd.full_positive)}))
    with pytest.raises(TgoError, match="is an adapter of"):
        merge(str(sd.base), other, strength=1.0, output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dora", "other", "taken"]
