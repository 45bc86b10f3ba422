"""Adapters (LoRA) beside a pipeline: find their file, attach them to the network under a name, write them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.generators.networks.adapter_files import AdapterContent, read_adapter_file
from tgo_pipeline.generators.networks.notes import without_notes
from tgo_pipeline.storage.stores.inputs import local_path

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("tgo")
WEIGHTS = "pytorch_lora_weights.safetensors"
"""The name that `diffusers` gives an adapter's file."""
PEFT_WEIGHTS = "adapter_model.safetensors"
"""The name that `peft` gives it."""


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
    path = local_path(source)
    if path.is_file():
        return path if path.suffix == ".safetensors" else None
    if not path.is_dir() or (path / "model_index.json").exists():
        return None
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if (path / PEFT_WEIGHTS).is_file():
        return path / PEFT_WEIGHTS
    files = sorted(path.glob("*.safetensors"))
    return files[0] if len(files) == 1 else None


def attach(pipeline: Any, file: Path, name: str) -> None:
    """Load the adapter in `file` onto the pipeline's network as `name`; the adapters that were active stay so.

    The network without it answers as before, to the bit: the library's mark that its weights are not trained is undone.
    A part of it for a text encoder is left out, which is announced. Raises `TgoError` if it does not fit, and leaves
    the network as it was.
    """
    network = getattr(pipeline, network_name(pipeline))
    active = _active_adapters(network)
    weights = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        content = load_adapter(pipeline, file, name)
        network.set_adapter(active)
    finally:
        # torch computes products with weights that want gradients in another way
        for parameter, wanted in weights:
            parameter.requires_grad_(wanted)
    for part in content.text_encoders():
        log.warning("%s: its part for %s is not used: all networks get the same prompt", file, part)


def load_adapter(pipeline: Any, file: Path, name: str) -> AdapterContent:
    """Load the adapter in `file` onto the pipeline's network as `name`, active, and say what else the file holds.

    Raises `TgoError` if any of it does not fit, and takes it off again.
    """
    component = network_name(pipeline)
    network = getattr(pipeline, component)
    try:
        with fitting(file, network), without_notes():
            content = read_adapter_file(pipeline, component, file)
            if not content.names():
                raise TgoError(f"{file} holds no adapter for the {component} of this pipeline.")
            _require_numbers(file, content)
            content.load(network, name)
            _require_all(file, network, name, content)
    except TgoError:
        detach(network, name)
        raise
    return content


@contextlib.contextmanager
def fitting(file: Path, network: Any) -> Iterator[None]:
    """Turn whatever the libraries raise for an adapter into a `TgoError` that names its file and the network."""
    try:
        yield
    except TgoError:
        raise
    except Exception as error:  # a damaged file, or one of another network, makes them fail anywhere
        reason = in_one_line(error) or type(error).__name__
        raise TgoError(f"the adapter {file} does not fit {type(network).__name__} ({reason}).") from error


def _require_all(file: Path, network: Any, name: str, content: AdapterContent) -> None:
    """Raise `TgoError` unless the network holds all of the adapter: the library drops what it has no place for."""
    from peft import get_peft_model_state_dict

    from tgo_pipeline.hub.checkpoint import some

    wanted = content.names()
    lokr = any(".lokr_" in key for key in wanted)  # which the library splits for some networks
    held = wanted if lokr else get_peft_model_state_dict(network, adapter_name=name).keys()
    unknown = sorted((wanted - held) | set(content.strangers()))
    lacking = sorted(held - wanted)
    if unknown or lacking:
        reason = f"it has no place for {some(unknown)}" if unknown else f"the file lacks {some(lacking)}"
        raise TgoError(
            f"the adapter {file} does not fit {type(network).__name__} ({reason}): name a whole adapter of this model."
        )


def _require_numbers(file: Path, content: AdapterContent) -> None:
    """Raise `TgoError` for an adapter that would make every answer, or a merged model, NaN."""
    for name, tensor in content.state.items():
        if not tensor.isfinite().all():
            raise TgoError(
                f"the adapter {file} holds NaN or infinity ({name}): its training has diverged; name one of an earlier "
                "step."
            )


def detach(network: Any, name: str) -> None:
    """Take an adapter off: names and tensors of the network are then what they were before it."""
    active = [each for each in _active_adapters(network) if each != name]
    if name in getattr(network, "peft_config", {}):
        network.set_adapter(active)  # or deleting it would make another one active
        (getattr(network, "delete_adapters", None) or network.delete_adapter)(name)
    _unwrap(network, getattr(network, "peft_config", {}))


def fuse(network: Any) -> None:
    """Make the active adapters of a network a part of its weights, and take all off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    _unwrap(network, ())


def _unwrap(network: Any, kept: Collection[str]) -> None:
    """Put back the modules that the library has wrapped, but for those that hold one of the adapters `kept`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = [(name, part) for name, part in network.named_modules() if isinstance(part, BaseTunerLayer)]
    for name, layer in wrapped:
        if not layer._get_available_adapters() & set(kept):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, layer.get_base_layer())
    if not kept:
        network.__dict__.pop("peft_config", None)
        network.__dict__.pop("_hf_peft_config_loaded", None)


def _active_adapters(network: Any) -> list[str]:
    if not getattr(network, "_hf_peft_config_loaded", False):
        return []
    active = network.active_adapters()
    return [active] if isinstance(active, str) else list(active)


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
