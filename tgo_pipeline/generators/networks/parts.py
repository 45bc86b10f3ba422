"""The networks of a pipeline folder, each loaded as strictly as a reward: nothing is missing, nothing is left over.

The libraries fill what a file lacks with random numbers and drop what they do not know. Here names and shapes have to
be those of the network, after the conversions that the libraries themselves make for files of older releases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.generators.location import components, is_meissonic
from tgo_pipeline.hub import weight_files
from tgo_pipeline.hub.json_files import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from tgo_pipeline.generators.networks.held import Held
    from tgo_pipeline.params.checks import Precision

    Types = tuple[Held, Precision]

DENOISERS = ("unet", "transformer")
WIDE = ("AutoencoderKLWan",)
"""Classes that compute in float32 whatever the precision, as their publishers ask; the pipeline converts latents."""
CONFIG = "config.json"
CHECKER = "safety_checker"
IDS = "position_ids"
"""Whole numbers that text encoders of older releases stored, which the library computes itself."""


def network_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a pipeline that have weights, and their classes, by its index; without the safety checker.

    A class that neither library has (of a pipeline of one's own) is left to the pipeline.
    """
    found = {name: _network_class(kind) for name, kind in components(index).items() if name != CHECKER}
    if is_meissonic(index):  # its published index names modules of a repository
        from tgo_pipeline.generators.meissonic import NETWORKS

        found |= {name: kind for name, kind in NETWORKS.items() if name in found}
    return {name: kind for name, kind in found.items() if kind is not None}


def _network_class(name: str) -> Any:
    import diffusers
    import transformers
    from diffusers.models.modeling_utils import ModelMixin

    for library, base in ((diffusers, ModelMixin), (transformers, transformers.PreTrainedModel)):
        kind = getattr(library, name, None)
        if isinstance(kind, type) and issubclass(kind, base):
            return kind
    return None


def load_networks(
    folder: Path,
    index: Mapping[str, Any],
    without: Collection[str],
    precision: Precision,
    held: Held | None = None,
    described: Collection[str] = (),
) -> dict[str, Any]:
    """The networks of a pipeline folder on the CPU, those of `diffusers` in `precision`, but for those in `without`.

    With `held` the denoiser's weights that autocast rounds are in that and its others in float32 (`networks.held`);
    `stored` leaves all of them what their file has.
    What a file has in the wanted type stays mapped to the file. Those in `described` are without weights (meta device).
    Raises `TgoError` that names the part for weights that do not fit its configuration.
    """
    wanted = {name: kind for name, kind in network_classes(index).items() if name not in without}
    imagined = {
        name: describe_network(folder / name, wanted.pop(name)) for name in described if name in wanted
    }
    return imagined | {
        name: load_network(folder / name, kind, *types_of(name, kind, precision, held))
        for name, kind in wanted.items()
        if "quantization_config" not in read_json(folder / name / CONFIG)  # the library's own names
    }


def describe_network(folder: Path, kind: Any) -> Any:
    """One network of `diffusers` as its configuration describes it, on torch's meta device."""
    from accelerate import init_empty_weights

    from tgo_pipeline.hub.checkpoint import described_by

    with described_by(folder / CONFIG), init_empty_weights():
        return kind.from_config(read_json(folder / CONFIG)).eval()


def types_of(name: str, kind: Any, precision: Precision, held: Held | None) -> Types:
    """What a part's weights are held in: those that autocast rounds, and its others."""
    if kind.__name__ in WIDE:
        return "fp32", "fp32"
    return (held, "fp32") if held and name in DENOISERS else (precision, precision)


def load_network(folder: Path, kind: Any, precision: Held, others: Precision) -> Any:
    """One network with the weights of its folder."""
    from tgo_pipeline.hub.checkpoint import read_tensors

    state: dict[str, Tensor] = {}
    for file in _files(folder):
        state |= read_tensors(file)
    return _network(folder, kind, state, (precision, others), "cpu")


def check_network(folder: Path, kind: Any) -> None:
    """Raise `TgoError` unless names and shapes in the headers are those of the network; of a pickle, its own."""
    from tgo_pipeline.generators.networks.notes import quiet

    if "quantization_config" in read_json(folder / CONFIG):
        return
    state = {name: weight for file in _files(folder) for name, weight in _imagined(file)}
    with quiet():
        _network(folder, kind, state, ("fp32", "fp32"), "meta")


def _files(folder: Path) -> list[Path]:
    found = weight_files.find(folder)
    weight_files.say_variant(folder, found.variant)
    return found.files


def _imagined(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a weight file without their numbers."""
    import torch

    from tgo_pipeline.hub.checkpoint import read_tensors

    if file.suffix != ".safetensors":
        yield from ((name, weight.to("meta")) for name, weight in read_tensors(file).items())
        return
    for name, (shape, kind) in weight_files.header(file).items():
        dtype = torch.float32 if kind.startswith(("F", "BF")) else torch.int64
        yield name, torch.empty(shape, dtype=dtype, device="meta")


def _network(folder: Path, kind: Any, state: dict[str, Tensor], types: Types, device: str) -> Any:
    from diffusers.models.modeling_utils import ModelMixin

    from tgo_pipeline.hub.checkpoint import described_by

    with described_by(folder / CONFIG):
        if issubclass(kind, ModelMixin):
            return _of_diffusers(folder, kind, state, types)
        return _of_transformers(folder, kind, state, device)


def _of_diffusers(folder: Path, kind: Any, state: dict[str, Tensor], types: Types) -> Any:
    import re

    from tgo_pipeline.generators.networks.held import hold, hold_as
    from tgo_pipeline.hub.checkpoint import load_weights, refuse_wrapped

    refuse_wrapped(state, folder)
    network = describe_network(folder, kind)
    network._fix_state_dict_keys_on_load(state)
    ignored = kind._keys_to_ignore_on_load_unexpected or ()
    known = {n: w for n, w in state.items() if not any(re.search(pattern, n) for pattern in ignored)}
    held, others = types
    if held == "stored":
        hold_as(network, known)
    else:
        hold(network, held, others)
    load_weights(network, known, folder)
    network.register_to_config(_name_or_path=str(folder))
    return network


def _of_transformers(folder: Path, kind: Any, state: dict[str, Tensor], device: str) -> Any:
    """With the library's report, which has left out the names that it declares tied, or to be ignored."""
    from tgo_pipeline.hub.checkpoint import refuse_misfit, unwrapped

    state = unwrapped(state, folder)
    config = kind.config_class.from_pretrained(folder)
    network, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        device_map={"": "meta"} if device == "meta" else None,
        ignore_mismatched_sizes=True,  # they are in the report, and refused below
        output_loading_info=True,
    )
    refuse_misfit(
        folder,
        lacks=report["missing_keys"],
        unknown=report["unexpected_keys"],
        misshapen={name: (found, wanted) for name, found, wanted in report["mismatched_keys"]},
        other_kind=[n for n, w in state.items() if not w.is_floating_point() and not n.endswith(IDS)],
    )
    network.config._name_or_path = str(folder)
    return network
