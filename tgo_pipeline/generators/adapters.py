"""Adapters (LoRA) beside a pipeline: find their file, attach them to the network under a name, write them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.generators.networks.notes import without_notes

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("tgo")
WEIGHTS = "pytorch_lora_weights.safetensors"
"""The name that `diffusers` gives an adapter's file."""


def network_name(pipeline: Any) -> str:
    """The pipeline's attribute that samples: `unet` or `transformer`. Raises `TgoError` if it has neither."""
    for name in ("unet", "transformer"):
        if getattr(pipeline, name, None) is not None:
            return name
    raise TgoError(
        f"{type(pipeline).__name__} has neither a unet nor a transformer, so there is no network to guide or merge."
    )


def adapter_file(source: str | Path) -> Path | None:
    """The safetensors file that `source` (a file, or a folder without a pipeline in it) is or holds; None if none."""
    path = Path(source).expanduser()
    if path.is_file():
        return path if path.suffix == ".safetensors" else None
    if not path.is_dir() or (path / "model_index.json").exists():
        return None
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    files = sorted(path.glob("*.safetensors"))
    return files[0] if len(files) == 1 else None


def attach(pipeline: Any, file: Path, name: str) -> None:
    """Load the adapter in `file` onto the pipeline's network as `name`; the adapters that were active stay so.

    The network without it answers as before, to the bit: the library's mark that its weights are not trained is undone.
    A part of it for a text encoder is left out, which is announced. Raises `TgoError` if it does not fit.
    """
    from safetensors import SafetensorError

    network = getattr(pipeline, network_name(pipeline))
    active = _active_adapters(network)
    weights = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        with without_notes():
            _load(pipeline, file, name)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, AttributeError) as error:
        reason = in_one_line(error)
        raise TgoError(f"the adapter {file} does not fit {type(network).__name__} ({reason}).") from error
    if name not in getattr(network, "peft_config", {}):
        raise TgoError(f"{file} holds no adapter for the {network_name(pipeline)} of this pipeline.")
    network.set_adapter(active)
    for (
        parameter,
        wanted,
    ) in weights:  # torch computes products with weights that want gradients in another way
        parameter.requires_grad_(wanted)
    _drop_from_text_encoders(pipeline, file, name)


def _active_adapters(network: Any) -> list[str]:
    if not getattr(network, "_hf_peft_config_loaded", False):
        return []
    active = network.active_adapters()
    return [active] if isinstance(active, str) else list(active)


def _load(pipeline: Any, file: Path, name: str) -> None:
    """By the pipeline's own reader where it has one and the file names the pipeline's parts, else by the network's."""
    component = network_name(pipeline)
    network = getattr(pipeline, component)
    first = _first_key(file).split(".")[0]
    bare = first in dict(network.named_children())
    if hasattr(pipeline, "load_lora_weights") and not bare:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
        return
    prefix = None if bare else component
    network.load_lora_adapter(str(file.parent), weight_name=file.name, adapter_name=name, prefix=prefix)


def _first_key(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(file, "pt") as stream:
        return next(iter(stream.keys()), "")


def _drop_from_text_encoders(pipeline: Any, file: Path, name: str) -> None:
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        encoder: Any = getattr(pipeline, part, None)
        if name in getattr(encoder, "peft_config", {}):
            encoder.delete_adapter(name)
            log.warning("%s: its part for %s is not used: all networks get the same prompt", file, part)


def read_adapter(network: Any, name: str) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Any]]:
    """An attached adapter's tensors by `<module>.lora_A.weight`, its scale by `<module>`, and its configuration."""
    from peft import get_peft_model_state_dict
    from peft.tuners.lora.layer import LoraLayer

    config = network.peft_config[name].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    scales = {
        module: layer.scaling[name]
        for module, layer in network.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.scaling
    }
    return get_peft_model_state_dict(network, adapter_name=name), scales, plain


def write_adapter(
    folder: Path, pipeline: Any, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None
) -> None:
    """Write tensors named as peft names them for two lines of `diffusers` to load.

    These are `pipeline.load_lora_weights(folder)`, or `network.load_lora_adapter(folder, prefix=None)` for a pipeline
    without that. Without `config` a reader takes the product of the matrices as it is (alpha = rank).
    """
    from safetensors.torch import save_file

    component = network_name(pipeline)
    if hasattr(pipeline, "save_lora_weights"):
        layers = {f"{component}_lora_layers": dict(tensors)}
        metadata = {f"{component}_lora_adapter_metadata": dict(config)} if config else {}
        pipeline.save_lora_weights(folder, **layers, **metadata)
        return
    metadata = {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(dict(config))} if config else {})
    save_file(dict(tensors), folder / WEIGHTS, metadata=metadata)
