"""Every network of every family is loaded whole or not at all, and wrapped ones by rules that are said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.generators.guided import BUILDERS, Family
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline, model_fingerprint

TEXT = ["text_encoder", "text_encoder_2", "text_encoder_3"]
PARTS = {
    "sd": ["unet", "vae", *TEXT[:1]],
    "sdxl": ["unet", "vae", *TEXT[:2]],
    "sd3": ["transformer", "vae", *TEXT],
    "flux": ["transformer", "vae", *TEXT[:2]],
    "amused": ["transformer", "vqvae", *TEXT[:1]],
    "meissonic": ["transformer", "vqvae", *TEXT[:1]],
}
ALL = [(family, part) for family, parts in PARTS.items() for part in parts]
Tensors = dict[str, torch.Tensor]


def copy_of(family: Family, folder: Path) -> Path:
    return Path(shutil.copytree(family.base, folder))


def weights(model: Path, part: str) -> Path:
    """The one weight file of a part."""
    (file,) = (model / part).glob("*.safetensors")
    return file


def rewrite(file: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(file)), file, {"format": "pt"})


def same(one: Any, other: Any) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def wrapped(tensors: Tensors) -> Tensors:
    """As if a part of the network had been compiled and another trained by peft, all of it by several processes."""
    names = {name: f"module._orig_mod.{name}" for name in tensors}
    for name in names:
        if name.endswith(("proj.weight", "proj.bias", "to_q.weight")):
            names[name] = names[name].replace(f".{name.split('.')[-1]}", f".base_layer.{name.split('.')[-1]}")
    return {names[name]: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(("family", "part"), ALL)
def test_what_does_not_fit_is_refused_by_name(
    family: str, part: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    model = copy_of(families(family), tmp_path / "model")
    file = weights(model, part)
    whole = load_file(file)
    name = next(each for each in whole if "norm" in each)
    changes: dict[str, Tensors] = {
        f"it lacks {name}": {key: tensor for key, tensor in whole.items() if key != name},
        "it has unknown stranger": {**whole, "stranger": torch.zeros(2)},
        f"another shape for {name} ": {**whole, name: torch.cat([whole[name], whole[name]])},
        f"no numbers of the kind of {name}": {**whole, name: whole[name].long()},
    }
    for reason, tensors in changes.items():
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(TgoError) as refused:
            load_pipeline(str(model))
        assert f"model/{part} does not fit the network" in str(refused.value)
        assert reason in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("family", "part"), [(family, part) for family, part in ALL if part in TEXT])
def test_the_names_of_a_wrapped_text_encoder_are_read(
    family: str,
    part: str,
    families: Callable[[str], Family],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = copy_of(families(family), tmp_path / "model")
    rewrite(weights(model, part), wrapped)
    loaded = load_pipeline(str(model))
    assert same(getattr(loaded, part), getattr(load_pipeline(str(families(family).base)), part))
    said = [record.getMessage() for record in caplog.records if "wrapped network" in record.getMessage()]
    assert len(said) == 1
    assert "read without module., _orig_mod." in said[0]


@pytest.mark.parametrize(("family", "part"), [(family, part) for family, part in ALL if part not in TEXT])
def test_the_names_of_another_wrapped_network_are_refused(
    family: str, part: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    model = copy_of(families(family), tmp_path / "model")
    rewrite(weights(model, part), wrapped)
    with pytest.raises(
        TgoError, match=rf"{part} was saved from a wrapped network: its names have module\., _orig_"
    ):
        load_pipeline(str(model))


@pytest.mark.parametrize(("family", "part"), [("sd", "unet"), ("sd3", "text_encoder_3"), ("amused", "vqvae")])
def test_shards_pickles_and_half_precision_are_read(
    family: str,
    part: str,
    families: Callable[[str], Family],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = load_pipeline(str(families(family).base))
    network = getattr(base, part)
    sharded, pickled, halved = (copy_of(families(family), tmp_path / name) for name in ("a", "b", "c"))
    weights(sharded, part).unlink()
    network.save_pretrained(sharded / part, max_shard_size="20KB")
    assert len(list((sharded / part).glob("*.safetensors"))) > 1
    file = weights(pickled, part)
    torch.save(load_file(file), file.with_name(_pickle(file)))
    file.unlink()
    for each in (sharded, pickled):
        assert same(getattr(load_pipeline(str(each)), part), network)
    file = weights(halved, part)
    rewrite(file, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    loaded = getattr(load_pipeline(str(halved)), part)
    assert f"c/{part}: there is only the variant fp16 of its weights" in caplog.text
    assert all(
        torch.equal(ours, theirs.half().float())
        for ours, theirs in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True)
    )
    assert len({model_fingerprint(str(each)) for each in (sharded, pickled, halved)}) == 3


def _pickle(file: Path) -> str:
    return "pytorch_model.bin" if file.name == "model.safetensors" else f"{file.stem}.bin"


def test_a_network_with_an_adapter_inside_its_file_is_refused(sd: Family, tmp_path: Path) -> None:
    model = copy_of(sd, tmp_path / "model")
    more = {"down_blocks.1.attentions.0.proj_in.lora_A.weight": torch.zeros(2, 2)}
    rewrite(weights(model, "unet"), lambda tensors: {**tensors, **more})
    with pytest.raises(TgoError, match=r"unet does not fit the network"):
        load_pipeline(str(model))


def test_a_name_that_is_there_twice_is_refused(sd: Family, tmp_path: Path) -> None:
    model = copy_of(sd, tmp_path / "model")
    rewrite(
        weights(model, "text_encoder"),
        lambda tensors: tensors | {f"_orig_mod.{n}": t + 1 for n, t in tensors.items()},
    )
    with pytest.raises(TgoError, match=r"twice, with and without _orig_mod\."):
        load_pipeline(str(model))


def test_names_of_older_releases_are_read_as_the_library_reads_them(sd: Family, tmp_path: Path) -> None:
    model = copy_of(sd, tmp_path / "model")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(tensors: Tensors) -> Tensors:
        return {_replaced(name, old) if ".attentions." in name else name: t for name, t in tensors.items()}

    rewrite(weights(model, "vae"), older)
    ids = {"text_model.embeddings.position_ids": torch.arange(24)[None]}
    rewrite(
        weights(model, "text_encoder"),
        lambda t: {f"text_model.{name}": each for name, each in t.items()} | ids,
    )
    loaded, base = load_pipeline(str(model)), load_pipeline(str(sd.base))
    assert same(loaded.vae, base.vae)
    assert same(loaded.text_encoder, base.text_encoder)


def _replaced(name: str, words: dict[str, str]) -> str:
    for new, old in words.items():
        name = name.replace(new, old)
    return name


@pytest.mark.parametrize("family", list(BUILDERS))
def test_parts_that_are_not_wanted_are_not_read(
    family: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    model = copy_of(families(family), tmp_path / "model")
    left_out = [part for part in PARTS[family] if part not in ("unet", "transformer")]
    for part in left_out:
        weights(model, part).write_bytes(b"junk")
    loaded = load_pipeline(str(model), without=left_out)
    assert all(getattr(loaded, part) is None for part in left_out)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "index is a list": (
        "model_index.json",
        lambda f: f.write_text("[1]"),
        "model_index.json holds a JSON list",
    ),
    "index is null": ("model_index.json", lambda f: f.write_text("null"), "holds a JSON NoneType"),
    "index is deep": ("model_index.json", lambda f: f.write_text("[" * 99_999), "cannot be read as JSON"),
    "index without class": ("model_index.json", lambda f: edit(f, _class_name=3), "_class_name is 3"),
    "index of another class": ("model_index.json", lambda f: edit(f, _class_name="Nix"), "as a pipeline"),
    "index of a larger family": (
        "model_index.json",
        lambda f: edit(f, _class_name="StableDiffusionXLPipeline"),
        "model_index.json names no text_encoder_2 and no tokenizer_2",
    ),
    "part is a number": ("model_index.json", lambda f: edit(f, vae=7), "vae is 7, not a library and a class"),
    "part of numbers": ("model_index.json", lambda f: edit(f, vae=["diffusers", 1]), "vae is"),
    "part of an unknown class": (
        "model_index.json",
        lambda f: edit(f, vae=["diffusers", "NoSuchThing"]),
        "cannot be loaded as a pipeline",
    ),
    "config is a list": (
        "unet/config.json",
        lambda f: f.write_text("[]"),
        "unet/config.json holds a JSON list",
    ),
    "config of other types": (
        "unet/config.json",
        lambda f: edit(f, block_out_channels={"a": 1}),
        "unet/config.json describes no network",
    ),
    "config of text": (
        "text_encoder/config.json",
        lambda f: edit(f, hidden_size="wide"),
        "text_encoder/config.json describes no network",
    ),
    "config with no heads": (
        "text_encoder/config.json",
        lambda f: edit(f, num_attention_heads=0),
        "text_encoder/config.json describes no network",
    ),
    "scheduler of other types": (
        "scheduler/scheduler_config.json",
        lambda f: edit(f, num_train_timesteps="many"),
        "cannot be loaded as a pipeline",
    ),
    "no tokenizer": (
        "tokenizer/tokenizer.json",
        lambda f: f.write_text("[]"),
        "cannot be loaded as a pipeline",
    ),
    "weights cut": (
        "vae/diffusion_pytorch_model.safetensors",
        lambda f: f.write_bytes(f.read_bytes()[:-9]),
        "cannot be read as weights",
    ),
}


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("what", list(DAMAGE))
def test_a_damaged_folder_is_one_line_that_names_the_file(what: str, sd: Family, tmp_path: Path) -> None:
    file, damage, reason = DAMAGE[what]
    model = copy_of(sd, tmp_path / "model")
    damage(model / file)
    with pytest.raises(TgoError) as refused:
        load_pipeline(str(model))
    assert reason in str(refused.value)
    assert str(model) in str(refused.value)
    assert "\n" not in str(refused.value)


def _without(*files: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / file).unlink() for file in files] and None


def _edited(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / file, **changes)


DISAGREEMENTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no vocabulary": (
        lambda folder: (
            [
                (folder / "tokenizer" / name).unlink(missing_ok=True)
                for name in ("tokenizer.json", "vocab.json", "merges.txt")
            ]
            and None
        ),
        "tokenizer: it knows . words and its text encoder .*: its vocabulary lacks",
    ),
    "no length": (
        _without("tokenizer/tokenizer_config.json"),
        "tokenizer: it has no model_max_length of at most",
    ),
    "no decoder": (
        _edited("model_index.json", vae=[None, None]),
        "model_index.json: it leaves out vae, which a",
    ),
    "a scale that is text": (_edited("vae/config.json", scaling_factor="0.18"), "scaling_factor is '0.18'"),
    "a scale of nought": (
        _edited("vae/config.json", scaling_factor=0),
        "scaling_factor is 0, not a number that",
    ),
    "no size": (_edited("unet/config.json", sample_size=None), "unet/config.json: sample_size is None"),
    "another prediction": (
        _edited("scheduler/scheduler_config.json", prediction_type="noise"),
        "prediction_type is 'noise', and must be one of epsilon",
    ),
}


@pytest.mark.parametrize("what", list(DISAGREEMENTS))
def test_parts_that_load_and_do_not_agree_are_refused(what: str, sd: Family, tmp_path: Path) -> None:
    change, reason = DISAGREEMENTS[what]
    folder = Path(shutil.copytree(sd.base, tmp_path / "model"))
    change(folder)
    with pytest.raises(TgoError, match=reason):
        load_pipeline(str(folder))
