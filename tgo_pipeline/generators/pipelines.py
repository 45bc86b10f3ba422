"""Open a model as a `diffusers` pipeline: a shipped one, a pipeline folder, an adapter of `fine_tune`, a hub id."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.generators.adapters import adapter_file, fitting, fuse, load_adapter
from tgo_pipeline.generators.location import (
    INDEX,
    LAYOUT,
    Location,
    check_index,
    components,
    is_meissonic,
    locate,
    read_index,
)
from tgo_pipeline.generators.long_prompts import hide_lists
from tgo_pipeline.generators.networks.agreement import require_agreement
from tgo_pipeline.generators.networks.fetching import fetch_pipeline
from tgo_pipeline.generators.networks.notes import quiet, without_notes
from tgo_pipeline.generators.networks.parts import DENOISERS, WIDE, load_networks
from tgo_pipeline.params.checks import Precision
from tgo_pipeline.storage.digests import verify_folder

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from tgo_pipeline.generators.networks.held import Held

log = logging.getLogger("tgo")
TEXT = ("text_encoder", "tokenizer")
ADAPTER = "default_0"
"""What an adapter of fine-tuning is called on its pipeline, as the library would call it."""


def open_pipeline(
    model: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    without: Sequence[str] = (),
    precision: Precision = "fp32",
    held: Held | None = None,
    described: Sequence[str] = (),
) -> DiffusionPipeline:
    """Load `model` onto `device`, all networks in `precision`, with progress bars and the safety checker off.

    With `held`, the denoiser of a pipeline in fp32 has half-held weights (`networks.held`), read as such: it computes
    under autocast alone; or (`stored`) those of its file, in its type. Networks named in `described` have a
    configuration and no weights, on torch's meta device: encoders ask a denoiser for its sizes. The components named in
    `without` (`vae`, `text_encoder`) are neither read nor held; a model may lack them anyway.

    The safety checker paints suspected images black; they would then be scored and trained on as black images.
    Raises `TgoError` if a folder or a part of it is missing or broken, if the hub cannot be reached, or if the model
    has T5, whose numbers are too large for fp16.
    """
    location = locate(model, revision)
    for folder in filter(None, (location.folder, location.adapter)):
        verify_folder(folder)
    if location.hub_id is not None:
        log.info("%s is not a folder here: taking it from the model hub or its local cache", location)
    with quiet():
        if location.adapter is not None:
            described = ()  # an adapter lies on weights
        pipeline = _open(location, without, precision, held, described)
        if location.adapter is not None:
            _add_adapter(pipeline, location.adapter)
        _cast(pipeline, precision, held)
    hide_lists(pipeline)
    if hasattr(pipeline, "watermark"):
        pipeline.watermark = None  # what SDXL writes into its images would be scored, and learned
    pipeline.set_progress_bar_config(disable=True)
    return _moved(pipeline, device, described)


def _moved(pipeline: Any, device: torch.device | str, described: Sequence[str]) -> Any:
    """On its device, but for networks that are only described."""
    import torch

    if not described:
        return pipeline.to(device)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name not in described:
            part.to(device)
    return pipeline


def _open(
    location: Location,
    without: Sequence[str],
    precision: Precision,
    held: Held | None,
    described: Sequence[str],
) -> DiffusionPipeline:
    from tgo_pipeline.generators.networks.clip_tokenizer import load_tokenizers

    folder = location.folder or fetch_pipeline(location, without)
    index = read_index(folder)
    check_index(index, f"{folder / INDEX}")
    left_out = dict.fromkeys(_left_out(index, without)) | _without_safety_checker(index)
    networks = load_networks(folder, index, left_out.keys(), precision, held, described)
    try:
        tokenizers = load_tokenizers(folder, components(index), left_out)
        parts = left_out | networks | tokenizers
        pipeline: Any = _pipeline_class(index).from_pretrained(str(folder), **parts)
    except TgoError:
        raise
    except Exception as error:  # a damaged configuration makes the libraries fail anywhere
        reason = f"{type(error).__name__}: {in_one_line(error).rstrip('.')}"
        raise TgoError(
            f"{location} cannot be loaded as a pipeline ({reason}): copy it again, complete. {LAYOUT}"
        ) from error
    _require_named(pipeline, index, without, folder)
    require_agreement(pipeline, folder, without)
    return pipeline


def _require_named(pipeline: Any, index: Mapping[str, Any], without: Sequence[str], folder: Path) -> None:
    """Raise `TgoError` for a text encoder that the class of the pipeline has and the index does not name at all."""
    absent = [name for name, part in pipeline.components.items() if part is None and name not in index]
    if lacking := [name for name in absent if name.startswith(TEXT) and name not in without]:
        raise TgoError(
            f"{folder / INDEX} names no {' and no '.join(lacking)}, which a {type(pipeline).__name__} has: it is the "
            "index of another model, or the folder is not complete; copy the model again."
        )


def _left_out(index: Mapping[str, Any], without: Sequence[str]) -> list[str]:
    """Parts to pass as None: those of `without` that the pipeline has, and those that its folder was saved without."""
    return [name for name, part in index.items() if name in without or part == [None, None]]


def _pipeline_class(index: Mapping[str, Any]) -> type[DiffusionPipeline]:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    if is_meissonic(index):
        from tgo_pipeline.generators.meissonic import MeissonicPipeline

        return MeissonicPipeline
    return DiffusionPipeline


def _without_safety_checker(index: Mapping[str, Any]) -> dict[str, Any]:
    if "safety_checker" not in index:
        return {}
    return {"safety_checker": None, "requires_safety_checker": False}


def _dtype(precision: Precision) -> torch.dtype:
    from tgo_pipeline.generators.networks.held import DTYPES

    return DTYPES[precision]


def _cast(pipeline: Any, precision: Precision, held: Held | None) -> None:
    """Part by part: a library may keep the precision of the file, and weights are shipped in half precision."""
    import torch
    from transformers import T5EncoderModel, UMT5EncoderModel

    from tgo_pipeline.generators.networks.held import hold

    networks = {name: p for name, p in pipeline.components.items() if isinstance(p, torch.nn.Module)}
    if precision == "fp16" and any(
        isinstance(network, (T5EncoderModel, UMT5EncoderModel)) for network in networks.values()
    ):
        raise TgoError(
            f"precision is fp16, but {type(pipeline).__name__} has T5, which overflows in it: use bf16 or fp32."
        )
    for name, network in networks.items():
        if held and name in DENOISERS:
            if held != "stored":
                hold(network, held)
        else:
            cast(network, precision)


def cast(network: Any, precision: Precision) -> None:
    """Put a network into a precision, but for what stays in float32: some VAEs, and parts that the library names."""
    from tgo_pipeline.generators.networks.held import hold

    if type(network).__name__ in WIDE:
        network.float()
    elif _keeps_parts(network):
        hold(network, precision, precision)
    else:
        network.to(_dtype(precision))


def _keeps_parts(network: object) -> bool:
    from diffusers.models.modeling_utils import ModelMixin

    return isinstance(network, ModelMixin) and bool(network._keep_in_fp32_modules)


def _add_adapter(pipeline: Any, folder: Path) -> None:
    """Put a result of fine-tuning, and its parts for text encoders if it has some, onto the pipeline."""
    file = adapter_file(folder)
    if file is None:
        raise TgoError(f"{folder} holds no adapter, although its tgo.json says so: run fine_tune again.")
    content = load_adapter(pipeline, file, ADAPTER)
    for part in content.text_encoders():
        if part not in pipeline.components:
            raise TgoError(
                f"the adapter {file} has a part for {part}, and the model has no {part}: name an adapter of this model."
            )
        if (encoder := getattr(pipeline, part)) is not None:  # else it is not loaded here
            with fitting(file, encoder), without_notes():
                content.load_text(pipeline, part, ADAPTER)


def has_adapter(pipeline: Any) -> bool:
    """Whether an adapter lies on top of the pipeline's weights."""
    return any(getattr(part, "peft_config", None) for part in pipeline.components.values())


def fuse_adapter(pipeline: Any) -> None:
    """Make the adapter on top of the pipeline's weights a part of them."""
    for part in pipeline.components.values():
        if getattr(part, "peft_config", None):
            fuse(part)
