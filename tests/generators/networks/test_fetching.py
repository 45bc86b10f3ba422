"""Pipelines of the hub: only what they are loaded from is downloaded, in half precision where there is nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.generators.guided import Family
from tests.generators.networks.test_parts import copy_of, same, weights
from tests.generators.test_masked_meissonic import published
from tests.hub_server import HubServer
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline

SHA = "0123456789abcdef0123456789abcdef01234567"
MODEL = "org/model"


def publish(hub: HubServer, folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            hub.files[f"{MODEL}/{SHA}/{file.relative_to(folder)}"] = file.read_bytes()


@pytest.mark.parametrize("name", ["sd", "amused", "meissonic"])
def test_a_pipeline_of_the_hub_is_that_of_its_folder(
    name: str, families: Callable[[str], Family], hub: HubServer, tmp_path: Path
) -> None:
    family = families(name)
    folder = copy_of(family, tmp_path / "model")
    if name == "meissonic":
        published(folder)
    (folder / "large.safetensors").write_bytes(b"x" * 5000)
    publish(hub, folder)
    loaded = load_pipeline(MODEL, SHA)
    part = "vqvae" if family.draws_tokens else "vae"
    for each in (family.component, part, "text_encoder"):
        assert same(getattr(loaded, each), getattr(load_pipeline(str(family.base)), each))
    assert "large.safetensors" not in hub.downloaded()


@pytest.mark.parametrize("name", ["sd", "meissonic"])
def test_a_repository_in_half_precision_alone(
    name: str,
    families: Callable[[str], Family],
    hub: HubServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    family = families(name)
    folder = copy_of(family, tmp_path / "model")
    if name == "meissonic":
        published(folder)
    file = weights(folder, family.component)
    file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    publish(hub, folder)
    loaded = load_pipeline(MODEL, SHA)
    assert same(family.network(loaded), family.network(load_pipeline(str(family.base))))
    assert "there is only the variant fp16" in caplog.text


def test_parts_that_are_not_wanted_are_not_downloaded(sd: Family, hub: HubServer) -> None:
    publish(hub, sd.base)
    assert load_pipeline(MODEL, SHA, without=["vae", "text_encoder"]).vae is None
    assert "model.safetensors" not in hub.downloaded()


def test_weights_of_the_hub_that_do_not_fit_are_refused(sd: Family, hub: HubServer, tmp_path: Path) -> None:
    folder = copy_of(sd, tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 16', '"cross_attention_dim": 24'))
    publish(hub, folder)
    with pytest.raises(TgoError, match="unet does not fit the network that its configuration describes"):
        load_pipeline(MODEL, SHA)


def test_a_cache_that_is_not_complete(sd: Family, hub: HubServer) -> None:
    publish(hub, sd.base)
    load_pipeline(MODEL, SHA, without=["vae"])
    hub.files = {name: content for name, content in hub.files.items() if "/vae/" not in name}
    with pytest.raises(
        TgoError, match=f"{MODEL}: neither the model hub nor its cache here .* weights of vae"
    ):
        load_pipeline(MODEL, SHA)
