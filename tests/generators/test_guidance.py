"""Guided pipelines of every family: strength 0 is the base, the sum is the formula, adapters share one base."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.generators.guided import (
    BUILDERS,
    Family,
    alone,
    draw,
    first_tensor,
    record_call,
    with_adapter,
    write_lora,
)
from tests.rounding import assert_same_images
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline, model_fingerprint
from tgo_pipeline.generators.guidance import guided_pipeline


@pytest.fixture(scope="module", params=list(BUILDERS))
def family(request: pytest.FixtureRequest, families: Callable[[str], Family]) -> Family:
    return families(request.param)


def _modules(family: Family, kind: str) -> tuple[Path, Path]:
    if kind == "adapters":
        return family.positive, family.negative
    return family.full_positive, family.full_negative


@pytest.mark.parametrize("kind", ["adapters", "full"])
def test_strength_0_draws_the_images_of_the_base_bit_for_bit(family: Family, kind: str) -> None:
    base = draw(load_pipeline(str(family.base)))
    guided = guided_pipeline(str(family.base), *_modules(family, kind), strength=2.0)
    assert not np.array_equal(draw(guided), base)
    guided.guidance.strength = 0.0
    assert np.array_equal(draw(guided), base)


def test_adapters_leave_the_base_as_it_was_loaded(family: Family) -> None:
    """Whether a weight wants gradients decides how torch computes with it: that is the base's own affair."""
    base = load_pipeline(str(family.base))
    weights = list(family.network(base).parameters())
    weights[0].requires_grad_(False)
    before = [weight.requires_grad for weight in weights]
    assert any(before)
    guided_pipeline(base, family.positive, family.negative, strength=1.0)
    assert [weight.requires_grad for weight in weights] == before


@pytest.mark.parametrize("kind", ["adapters", "full"])
def test_pgd_of_strength_1_draws_the_images_of_the_positive_model(family: Family, kind: str) -> None:
    positive, _ = _modules(family, kind)
    guided = guided_pipeline(str(family.base), positive, strength=1.0)
    assert guided.guidance.kind == "pgd"
    alone = with_adapter(family, positive) if kind == "adapters" else load_pipeline(str(family.base))
    if kind == "full":
        setattr(alone, family.component, family.network(load_pipeline(str(positive))))
    assert_same_images(draw(guided), draw(alone), tokens=family.draws_tokens)


@pytest.mark.parametrize("kind", ["adapters", "full"])
@pytest.mark.parametrize("cpgd", [False, True], ids=["pgd", "cpgd"])
def test_the_network_answers_by_the_formula_for_every_row(family: Family, kind: str, cpgd: bool) -> None:
    import torch

    positive, negative = _modules(family, kind)
    modules = (positive, negative) if cpgd else (positive,)
    guided = guided_pipeline(str(family.base), *modules, strength=1.7)
    args, kwargs, output = record_call(family.network(guided), guided)

    def answer(folder: Path, adapter: Path | None = None) -> torch.Tensor:
        with torch.no_grad():
            return first_tensor(alone(family, folder, adapter)(*args, **kwargs)).double()

    e_ref = answer(family.base)
    e_sides = [answer(family.base, m) if kind == "adapters" else answer(m) for m in modules]
    expected = e_ref + 1.7 * (e_sides[0] - e_sides[1]) if cpgd else (1 - 1.7) * e_ref + 1.7 * e_sides[0]
    actual = first_tensor(output)
    assert actual.dtype == torch.float32
    assert not torch.allclose(actual.double(), e_ref, atol=1e-3)
    torch.testing.assert_close(actual.double(), expected, atol=2e-5, rtol=1e-4)


def test_adapters_share_one_base_and_one_call(family: Family) -> None:
    base = family.network(load_pipeline(str(family.base)))
    guided = guided_pipeline(str(family.base), family.positive, family.negative, strength=2.0)
    network = family.network(guided)
    sizes = [
        sum(p.numel() for name, p in part.named_parameters() if "lora_" not in name)
        for part in (base, network)
    ]
    assert sizes[0] == sizes[1]

    calls: list[int] = []
    network.base.register_forward_pre_hook(lambda *_: calls.append(1))
    images = {}
    for branches in (3, 2, 1):
        calls.clear()
        guided.guidance.branches_per_call = branches
        images[branches] = (draw(guided), len(calls))
    (together, few), (two, more), (apart, most) = images[3], images[2], images[1]
    assert (more, most) == (2 * few, 3 * few)
    np.testing.assert_allclose(together, apart, atol=1e-4)
    np.testing.assert_allclose(together, two, atol=1e-4)


def test_position_grids_are_shared_even_if_they_have_as_many_rows_as_the_batch(
    families: Callable[[str], Family],
) -> None:
    import torch

    flux = families("flux")
    guided = guided_pipeline(str(flux.base), flux.positive, flux.negative, strength=2.0)
    config = guided.transformer.config
    ids = torch.cartesian_prod(torch.arange(1), torch.arange(2), torch.arange(2)).float()
    inputs = {
        "hidden_states": torch.randn(4, 4, config.in_channels),
        "encoder_hidden_states": torch.randn(4, 4, config.joint_attention_dim),
        "pooled_projections": torch.randn(4, config.pooled_projection_dim),
        "timestep": torch.full((4,), 0.5),
        "guidance": torch.full((4,), 3.5),
        "img_ids": ids,
        "txt_ids": torch.zeros(4, 3),
    }
    with torch.no_grad():
        together = guided.transformer(**inputs, return_dict=False)[0]
        guided.guidance.branches_per_call = 1
        apart = guided.transformer(**inputs, return_dict=False)[0]
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)


def test_the_base_of_the_caller_stays_what_it_was(sd: Family) -> None:
    base = load_pipeline(str(sd.base))
    before = draw(base)
    first = guided_pipeline(base, sd.positive, sd.negative, strength=2.0)
    second = guided_pipeline(base, sd.negative, strength=2.0)
    images = [draw(pipeline) for pipeline in (first, second, base)]
    assert type(base.unet).__name__ == "UNet2DConditionModel"
    assert np.array_equal(images[2], before)
    assert len({image.tobytes() for image in images}) == 3
    assert_same_images(images[1], draw(guided_pipeline(str(sd.base), sd.negative, strength=2.0)))


def test_loaded_pipelines_and_a_mixture_are_modules_too(sd: Family) -> None:
    named = guided_pipeline(str(sd.base), sd.positive, sd.full_negative, strength=1.5)
    loaded = guided_pipeline(
        load_pipeline(str(sd.base)),
        with_adapter(sd, sd.positive),
        load_pipeline(str(sd.full_negative)),
        strength=1.5,
    )
    np.testing.assert_allclose(draw(named), draw(loaded), atol=1e-5)


def test_a_base_that_is_an_adapter_itself(sd: Family, tmp_path: Path) -> None:
    tuned = Path(shutil.copytree(sd.negative, tmp_path / "tuned"))
    _as_unet_result(tuned, sd.base)
    base = load_pipeline(str(tuned))
    guided = guided_pipeline(str(tuned), sd.positive, strength=0.0)
    assert np.array_equal(draw(guided), draw(base))
    guided.guidance.strength = 1.0
    assert_same_images(draw(guided), draw(with_adapter(sd, sd.positive)))
    guided.guidance.strength = 0.5
    args, kwargs, output = record_call(guided.unet, guided)
    sides = [first_tensor(side.unet(*args, **kwargs)) for side in (base, with_adapter(sd, sd.positive))]
    assert (output[0] - (sides[0] + sides[1]) / 2).abs().max() < 1e-5


def _as_unet_result(folder: Path, base: Path, **more: object) -> None:
    """Prefix the keys as the pipeline's own format has them, and describe the folder as fine-tuning does."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    file = folder / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as stream:
        config = json.loads(stream.metadata()["lora_adapter_metadata"])
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
    save_file(
        {f"unet.{key}": value for key, value in load_file(file).items()},
        file,
        metadata={"format": "pt"} | metadata,
    )
    description = {"method": "lora", "base": str(base), "revision": None} | more
    (folder / "tgo.json").write_text(json.dumps(description))


def test_adapters_that_are_not_plain_are_switched_whole(sd: Family, tmp_path: Path) -> None:
    write_lora(sd.base, "unet", tmp_path / "dora", seed=3, use_dora=True)
    guided = guided_pipeline(str(sd.base), tmp_path / "dora", sd.negative, strength=1.5)
    args, kwargs, output = record_call(guided.unet, guided)
    pipelines = [
        load_pipeline(str(sd.base)),
        with_adapter(sd, tmp_path / "dora"),
        with_adapter(sd, sd.negative),
    ]
    e_ref, e_plus, e_minus = (first_tensor(p.unet(*args, **kwargs)) for p in pipelines)
    assert (output[0] - (e_ref + 1.5 * (e_plus - e_minus))).abs().max() < 1e-5


def test_fewer_branches_a_call_when_memory_is_short(sd: Family, caplog: pytest.LogCaptureFixture) -> None:
    guided = guided_pipeline(str(sd.base), sd.positive, sd.negative, strength=1.5)
    expected = draw(guided)

    def refuse(_: object, args: tuple) -> None:
        if len(args[0]) > 4:
            raise RuntimeError("CUDA out of memory (as a test)")

    guided.unet.base.register_forward_pre_hook(refuse)
    with caplog.at_level(logging.WARNING, logger="tgo"):
        np.testing.assert_allclose(draw(guided), expected, atol=1e-5)
    assert guided.guidance.branches_per_call == 1
    assert [record.getMessage()[:13] for record in caplog.records] == ["out of memory"] * 2


def test_the_network_passes_for_the_one_it_replaces(sd: Family) -> None:
    import torch

    guided = guided_pipeline(str(sd.base), sd.positive, sd.full_negative, strength=1.0)
    network = guided.unet
    assert (network.dtype, network.device, network.config.in_channels) == (
        torch.float32,
        torch.device("cpu"),
        4,
    )
    assert guided.to(torch.float64).unet.others[0].dtype == torch.float64
    with pytest.raises(AttributeError, match="no_such"):
        _ = network.no_such
    sample, t, text = torch.randn(1, 4, 16, 16), torch.tensor(5), torch.randn(1, 24, 16)
    as_object = network(sample.double(), t, text.double())
    as_tuple = network(sample.double(), t, text.double(), return_dict=False)
    assert type(as_object).__name__ == "UNet2DConditionOutput"
    assert torch.equal(as_object.sample, as_tuple[0])


def test_results_and_their_fingerprint(sd: Family, tmp_path: Path) -> None:
    shutil.copytree(sd.positive, tmp_path / "positive")
    shutil.copytree(sd.negative, tmp_path / "negative")

    def describe(**changes: object) -> str:
        content = {
            "base": str(sd.base),
            "method": "guidance",
            "kind": "cpgd",
            "strength": 2.0,
            "positive": "positive",
            "negative": "negative",
        }
        (tmp_path / "tgo.json").write_text(json.dumps(content | changes))
        return model_fingerprint(str(tmp_path))

    marks = [
        describe(strength=1.0),
        describe(kind="pgd", negative=None),
        describe(base=str(sd.full_positive)),
        describe(),
        model_fingerprint(str(sd.base)),
    ]
    assert len(set(marks)) == len(marks)
    assert describe() == marks[3]
    loaded = load_pipeline(str(tmp_path))
    guided = guided_pipeline(str(sd.base), sd.positive, sd.negative, strength=2.0)
    assert_same_images(draw(loaded), draw(guided))
    shutil.rmtree(tmp_path / "negative")
    with pytest.raises(TgoError, match=r"lacks .*negative: run fine_tune again"):
        load_pipeline(str(tmp_path))


def test_wrong_inputs_say_what_to_do(sd: Family, tmp_path: Path) -> None:
    base = str(sd.base)
    with pytest.raises(TgoError, match="cpgd is the difference of two modules: give a negative one"):
        guided_pipeline(base, sd.positive, strength=1.0, kind="cpgd")
    with pytest.raises(TgoError, match="leave out the negative one"):
        guided_pipeline(base, sd.positive, sd.negative, strength=1.0, kind="pgd")
    with pytest.raises(TgoError, match="must be pgd or cpgd"):
        guided_pipeline(base, sd.positive, strength=1.0, kind="dpo")  # type: ignore[arg-type]
    with pytest.raises(TgoError, match="must be a finite number"):
        guided_pipeline(base, sd.positive, strength=float("nan"))
    with pytest.raises(TgoError, match="there is no such folder"):
        guided_pipeline(base, "nosuch", strength=1.0)
    with pytest.raises(TgoError, match="does not fit UNet2DConditionModel"):
        guided_pipeline(base, _broken(sd.positive, tmp_path / "broken"), strength=1.0)
    opened = load_pipeline(base)
    with pytest.raises(TgoError, match="is the base itself"):
        guided_pipeline(opened, opened, strength=1.0)
    guided = guided_pipeline(base, sd.positive, strength=1.0)
    with pytest.raises(TgoError, match="guided already"):
        guided_pipeline(guided, sd.negative, strength=1.0)
    with pytest.raises(TgoError, match="merge` makes one"):
        guided.save_pretrained(tmp_path / "saved")
    with pytest.raises(TgoError, match="must be 1 or more"):
        guided.guidance.branches_per_call = 0


def _broken(adapter: Path, folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    file = folder / "pytorch_lora_weights.safetensors"
    save_file({name: tensor[:, :1].contiguous() for name, tensor in load_file(file).items()}, file)
    return folder


def test_modules_of_another_model_are_refused(sd: Family, tmp_path: Path) -> None:
    other = Path(shutil.copytree(sd.positive, tmp_path / "other"))
    _as_unet_result(other, sd.full_positive)
    with pytest.raises(TgoError, match=r"is an adapter of .*full_positive, not of"):
        guided_pipeline(str(sd.base), other, strength=1.0)
    copy = shutil.copytree(sd.base, tmp_path / "copy")  # the same weights elsewhere are the same model
    same = Path(shutil.copytree(sd.positive, tmp_path / "same"))
    _as_unet_result(same, copy)
    assert_same_images(
        draw(guided_pipeline(str(sd.base), same, strength=1.0)),
        draw(guided_pipeline(str(sd.base), sd.positive, strength=1.0)),
    )
    sd3 = BUILDERS["sd3"](tmp_path / "sd3")
    with pytest.raises(TgoError, match="guidance needs models tuned from one base"):
        guided_pipeline(str(sd.base), sd3, strength=1.0)
