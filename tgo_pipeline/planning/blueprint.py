"""A pipeline from its configuration files alone: which networks it has, of which sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.location import INDEX, Location, check_index, components, is_meissonic, locate
from tgo_pipeline.hub.checkpoint import described_by
from tgo_pipeline.hub.json_files import read_json

CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
"""What a part's configuration file is called, by the beginning of the part's name; a network's is config.json."""
NETWORKS = ("unet", "transformer", "vae", "vqvae", "text_encoder", "text_encoder_2", "text_encoder_3")
Reader = Any
"""From a file's name inside the model to its content: a mapping, or None if the model has no such file."""


@dataclass(frozen=True)
class Blueprint:
    """The configurations of a pipeline's parts, by the names that its index gives them."""

    model: str
    kind: str
    """The class of the pipeline."""
    classes: Mapping[str, str]
    configs: Mapping[str, Mapping[str, Any]]
    index: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    """Where the files are; None for a model on the hub."""

    @property
    def place(self) -> Path:
        """Where its files are, for errors to name."""
        return self.folder or Path(self.model)

    @property
    def networks(self) -> list[str]:
        """The names of its networks."""
        return [name for name in NETWORKS if name in self.classes]

    def build(self, name: str) -> Any:
        """One of its networks in float32, without weights; call it inside `imagined()`."""
        with described_by(self._file(name)):
            return self._build(name, dict(self.configs[name]), self.classes[name]).to("meta").eval()

    def _build(self, name: str, config: dict[str, Any], kind: str) -> Any:
        if name == "transformer" and self.kind == "MeissonicPipeline":
            from tgo_pipeline.generators.meissonic_network import MeissonicTransformer2DModel

            return MeissonicTransformer2DModel.from_config(config)
        return (_text_encoder if name.startswith("text_encoder") else _of_diffusers)(kind, config)

    def scheduler(self) -> Any:
        """Its scheduler; it holds no weights, and computes with real numbers."""
        with torch.device("cpu"), described_by(self._file("scheduler")):
            return _of_diffusers(self.classes["scheduler"], dict(self.configs["scheduler"]))

    def _file(self, name: str) -> Path:
        """Where the configuration of a part is, in words of the user."""
        return self.place / name / _config_file(name)

    def tokens(self, name: str, default: int) -> int:
        """How many tokens the tokenizer of this name cuts and pads a prompt to."""
        length = self.configs.get(name, {}).get("model_max_length")
        # transformers writes 10^30 for "no limit"
        return length if isinstance(length, int) and length < 100_000 else default


def read_blueprint(model: str, revision: str | None = None) -> Blueprint:
    """The configurations of `model`; of a hub id only those files are fetched, and no weights.

    An adapter's is that of its base. Raises `TgoError` if they cannot be read, or name a class that is not known.
    """
    location = locate(model, revision)
    read = _folder_reader(location.folder) if location.folder else _hub_reader(location)
    index = read(INDEX)
    if index is None:
        raise TgoError(f"{location} has no {INDEX}: it is not a pipeline of diffusers.")
    check_index(index, f"{INDEX} of {location}")
    parts = components(index)
    kind = "MeissonicPipeline" if is_meissonic(index) else index["_class_name"]
    wanted = [name for name in parts if name in NETWORKS or name.startswith(tuple(CONFIGS))]
    configs = {name: read(f"{name}/{_config_file(name)}") or {} for name in wanted}
    classes = {name: parts[name] for name in wanted}
    return Blueprint(model, kind, classes, configs, index, location.folder)


def _config_file(name: str) -> str:
    return next((file for start, file in CONFIGS.items() if name.startswith(start)), "config.json")


def _folder_reader(folder: Path) -> Reader:
    def read(file: str) -> dict[str, Any] | None:
        path = folder / file
        return read_json(path) if path.is_file() else None

    return read


def _hub_reader(location: Location) -> Reader:
    from tgo_pipeline.hub.errors import Unavailable
    from tgo_pipeline.hub.files import ask

    def read(file: str) -> dict[str, Any] | None:
        try:
            path = ask(str(location.hub_id), file, location.revision)
        except Unavailable as error:
            raise TgoError(
                f"{location}: its {file} is not in the model hub's cache here and cannot be had ({error}). Check the "
                "network, or put the pipeline's files into a folder and name that."
            ) from error
        return None if path is None else read_json(path)

    return read


def _of_diffusers(kind: str, config: dict[str, Any]) -> Any:
    import diffusers

    try:
        return getattr(diffusers, kind).from_config(config)
    except AttributeError as error:
        raise TgoError(
            f"the installed diffusers has no class {kind}, which the model names: update it."
        ) from error


def _text_encoder(kind: str, config: dict[str, Any]) -> Any:
    import transformers

    try:
        network = getattr(transformers, kind)
    except AttributeError as error:
        raise TgoError(
            f"the installed transformers has no class {kind}, which the model names: update it."
        ) from error
    return network(network.config_class(**config))
