"""What the file of an adapter (LoRA) holds for the network of a pipeline, in any layout that the libraries read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import weight_files

if TYPE_CHECKING:
    from torch import Tensor

PEFT_CONFIG = "adapter_config.json"
"""What `peft` writes beside an adapter's file: how it is scaled."""
PEFT_PREFIX = "base_model.model."
TEXT_ENCODER = "text_encoder"
PAIRS = {".lora_A.weight": ".lora_B.weight", ".down.weight": ".up.weight"}
"""How the first matrix of a layer ends, and the second, in what the pipelines' readers answer with."""
BASE_KEPT = (True, False, "gaussian", "eva", "orthogonal")
"""First values of an adapter that leave the weights below it as they are; others (PiSSA, OLoRA) subtract from them."""


class AdapterContent(NamedTuple):
    """What a file holds, by the names that the network's reader takes."""

    state: dict[str, Tensor]
    prefix: str | None
    """What stands before the names that are the network's; None if all are."""
    config: dict[str, Any] | None
    """The library's configuration of the adapter, which has the scale."""

    def load(self, network: Any, name: str) -> None:
        """Attach the adapter to the network as `name`."""
        network.load_lora_adapter(
            dict(self.state),
            prefix=self.prefix,
            metadata=self._config_of(self.prefix),
            adapter_name=name,
        )

    def load_text(self, pipeline: Any, part: str, name: str) -> None:
        """Attach the part for the text encoder `part`. Raises ValueError unless the encoder holds all of it."""
        from peft import get_peft_model_state_dict

        encoder = getattr(pipeline, part)
        pipeline.load_lora_into_text_encoder(
            self.state,
            None,
            encoder,
            prefix=part,
            adapter_name=name,
            metadata=self._config_of(part),
            _pipeline=pipeline,
        )
        given = sum(key.startswith(f"{part}.") for key in self.state)
        held = len(get_peft_model_state_dict(encoder, adapter_name=name))
        if given != held:
            raise ValueError(f"{given} tensors are given for {part}, which has places for {held}")

    def _config_of(self, part: str | None) -> dict[str, Any] | None:
        """The configuration for one part: with none of its keys the library would take its defaults."""
        if not self.config or (part and not any(key.startswith(f"{part}.") for key in self.config)):
            return None
        return self.config

    def names(self) -> set[str]:
        """The tensors for the network as `<module>.lora_A.weight`."""
        from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

        start = f"{self.prefix}." if self.prefix else ""
        own = {n.removeprefix(start): t for n, t in self.state.items() if n.startswith(start)}
        first = next(iter(own), "")
        return set(own if "lora_A" in first or ".lokr_" in first else convert_unet_state_dict_to_peft(own))

    def text_encoders(self) -> list[str]:
        """The text encoders that the file has a part for."""
        if self.prefix is None:
            return []
        return sorted({name.split(".")[0] for name in self.state if name.startswith(TEXT_ENCODER)})

    def strangers(self) -> list[str]:
        """Names of no part of a pipeline that an adapter may be for."""
        parts = (f"{self.prefix}.", TEXT_ENCODER)
        return [] if self.prefix is None else [name for name in self.state if not name.startswith(parts)]


def read_adapter_file(pipeline: Any, component: str, file: Path) -> AdapterContent:
    """What `file` holds for the pipeline's `component`, read by the pipeline's own reader where it has one.

    Raises `TgoError` for a file that is damaged, or of a kind that would not be read whole.
    """
    from safetensors.torch import load_file

    names = list(weight_files.shapes(file))
    if scales := [name for name in names if "dora_scale" in name]:
        raise TgoError(
            f"the adapter {file} is a DoRA in a layout that diffusers reads without its scales ({scales[0]}): save it "
            "with peft, or train a plain LoRA."
        )
    if names and all(name.startswith(PEFT_PREFIX) for name in names):
        state = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in load_file(file).items()}
        return AdapterContent(state, None, _peft_config(file))
    children = dict(getattr(pipeline, component).named_children())
    bare = any(name.split(".")[0] in children for name in names)
    if bare or not hasattr(pipeline, "lora_state_dict"):
        return AdapterContent(load_file(file), None if bare else component, _own_config(file))
    return _by_pipeline(pipeline, component, file)


def _by_pipeline(pipeline: Any, component: str, file: Path) -> AdapterContent:
    """The pipelines' readers know the layouts of other programs, and answer with two or three values."""
    from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin

    options: dict[str, Any] = {"return_alphas": True, "return_lora_metadata": True}
    if isinstance(pipeline, StableDiffusionXLLoraLoaderMixin):
        options["unet_config"] = getattr(pipeline, component).config
    state, *alphas, config = pipeline.lora_state_dict(str(file.parent), weight_name=file.name, **options)
    return AdapterContent(scaled(state, alphas[0] or {} if alphas else {}), component, config)


def scaled(state: Mapping[str, Tensor], alphas: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors whose product is the adapter's effect: alpha / rank is multiplied into the second matrix.

    The library's own way gives alphas of attention, and of text encoders, to other layers than theirs where a file has
    several. A layer without one has alpha = rank, as where no layer has one. Raises ValueError for an alpha that is no
    number, or belongs to no layer.
    """
    found, left = dict(state), dict(alphas)
    for down, tensor in state.items():
        ending = next((each for each in PAIRS if down.endswith(each)), None)
        layer = down.removesuffix(ending or "")
        name = next((n for n in (f"{down}.alpha", f"{layer.removesuffix('.lora')}.alpha") if n in left), None)
        if ending is None or name is None:
            continue
        alpha = float(left.pop(name))
        if not math.isfinite(alpha):
            raise ValueError(f"{name} is {alpha}")
        up = layer + PAIRS[ending]
        if up in found:  # one that lacks is refused with the names of all
            found[up] = found[up].float() * (alpha / tensor.shape[0])
    if left:
        raise ValueError(f"{next(iter(left))} belongs to no layer of the file")
    return found


def _own_config(file: Path) -> dict[str, Any] | None:
    """What `diffusers` writes of an adapter into the header of its file."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stream:
        text = (stream.metadata() or {}).get("lora_adapter_metadata")
    return json.loads(text) if text else None


def _peft_config(file: Path) -> dict[str, Any]:
    """What the configuration beside peft's file says. Raises `TgoError` for what cannot be taken off again."""
    from peft import LoraConfig

    from tgo_pipeline.hub.checkpoint import described_by
    from tgo_pipeline.hub.json_files import read_json

    path = file.with_name(PEFT_CONFIG)
    if not path.is_file():
        raise TgoError(f"{file} has no {PEFT_CONFIG} beside it, which says how it is scaled: copy it there.")
    kind = read_json(path).get("peft_type")
    if kind != "LORA":
        raise TgoError(f"{path}: peft_type is {kind!r}: only LORA can be used here.")
    with described_by(path):
        config = LoraConfig.from_pretrained(str(path.parent))
    for key, kept in (("bias", ("none",)), ("modules_to_save", (None, [])), ("init_lora_weights", BASE_KEPT)):
        if (value := getattr(config, key)) not in kept:
            raise TgoError(
                f"{path}: {key} is {value!r}, which changes weights of the model itself: train with "
                f"{key}={kept[0]!r}, or save the whole model."
            )
    return config.to_dict()
