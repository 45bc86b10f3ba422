"""Open a model as a `diffusers` pipeline: a shipped one, a pipeline folder, an adapter of `fine_tune`, a hub id."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.generators.location import LAYOUT, MEISSONIC, Location, locate
from tgo_pipeline.hub.errors import refusal
from tgo_pipeline.params.checks import Precision

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

log = logging.getLogger("tgo")


def open_pipeline(
    model: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    without: Sequence[str] = (),
    precision: Precision = "fp32",
) -> DiffusionPipeline:
    """Load `model` onto `device`, all networks in `precision`, with progress bars and the safety checker off.

    The components named in `without` (`vae`, `text_encoder`) are neither read nor held; a model may lack them anyway.

    The safety checker paints suspected images black; they would then be scored and trained on as black images.
    Raises `TgoError` if a folder or a part of it is missing or broken, if the hub cannot be reached, or if the model
    has T5, whose numbers are too large for fp16.
    """
    location = locate(model, revision)
    if location.hub_id is not None:
        log.info("%s is not a folder here: taking it from the model hub or its local cache", location)
    with quiet():
        pipeline = _open(location, without)
        if location.adapter is not None:
            _add_adapter(pipeline, location.adapter)
    _cast(pipeline, precision)
    if hasattr(pipeline, "watermark"):
        pipeline.watermark = None  # what SDXL writes into its images would be scored, and learned
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _open(location: Location, without: Sequence[str]) -> DiffusionPipeline:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from safetensors import SafetensorError

    try:
        index: Any = DiffusionPipeline.load_config(str(location), revision=location.revision)
        return _pipeline_class(index).from_pretrained(
            str(location),
            revision=location.revision,
            **(dict.fromkeys(_left_out(index, without)) | _without_safety_checker(index)),  # type: ignore[arg-type]
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise TgoError(_explain(location, error)) from error


def _left_out(index: Any, without: Sequence[str]) -> list[str]:
    """Parts to pass as None: those of `without` that the pipeline has, and those that its folder was saved without."""
    return [name for name, part in index.items() if name in without or part in ([None, None], (None, None))]


def _pipeline_class(index: dict[str, Any]) -> type[DiffusionPipeline]:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    if index["_class_name"] in MEISSONIC and "vqvae" in index:
        from tgo_pipeline.generators.meissonic import MeissonicPipeline

        return MeissonicPipeline
    return DiffusionPipeline


def _without_safety_checker(index: Any) -> dict[str, Any]:
    if "safety_checker" not in index:
        return {}
    return {"safety_checker": None, "requires_safety_checker": False}


def _explain(location: Location, error: Exception) -> str:
    if location.folder is not None:
        reason = in_one_line(error).rstrip(".") or type(error).__name__
        return f"{location} cannot be loaded as a pipeline ({reason}): copy it again, complete. {LAYOUT}"
    at = f" at revision {location.revision}" if location.revision else ""
    reason = refusal(error, str(location.hub_id), revision=location.revision)
    return (
        f"model is {location.hub_id!r}: there is no such folder here, and the model hub did not give it{at} "
        f"({reason}). On a machine without network put the pipeline's files into a folder and name that. {LAYOUT}"
    )


def _cast(pipeline: Any, precision: Precision) -> None:
    """Part by part: a library may keep the precision of the file, and weights are shipped in half precision."""
    import torch
    from transformers import T5EncoderModel

    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    if precision == "fp16" and any(isinstance(network, T5EncoderModel) for network in networks):
        raise TgoError(
            f"precision is fp16, but {type(pipeline).__name__} has T5, which overflows in it: use bf16 or fp32."
        )
    for network in networks:
        {"fp32": network.float, "bf16": network.bfloat16, "fp16": network.half}[precision]()


def _add_adapter(pipeline: Any, folder: Path) -> None:
    from safetensors import SafetensorError

    from tgo_pipeline.generators.adapters import without_notes

    try:
        with without_notes():
            if hasattr(pipeline, "load_lora_weights"):
                pipeline.load_lora_weights(str(folder))
            else:
                pipeline.transformer.load_lora_adapter(str(folder), prefix=None, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, AttributeError) as error:
        raise TgoError(
            f"the adapter in {folder} does not fit {type(pipeline).__name__} ({error}): run fine_tune again."
        ) from error


def has_adapter(pipeline: Any) -> bool:
    """Whether an adapter lies on top of the pipeline's weights."""
    if hasattr(pipeline, "get_list_adapters"):
        return bool(pipeline.get_list_adapters())
    return hasattr(pipeline.transformer, "peft_config")


def fuse_adapter(pipeline: Any) -> None:
    """Make the adapter on top of the pipeline's weights a part of them."""
    if hasattr(pipeline, "fuse_lora"):
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    else:
        pipeline.transformer.fuse_lora()
        pipeline.transformer.unload_lora()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars of loading and saving, and notes that a user can do nothing about."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    bars = [each for each in (diffusers_log, transformers_log) if each.is_progress_bar_enabled()]
    loggers = [
        logging.getLogger(f"diffusers.{name}")
        for name in ("pipelines.pipeline_utils", "models.modeling_utils")
    ]
    for each in bars:
        each.disable_progress_bar()
    for logger in loggers:
        logger.addFilter(_is_of_use)
    try:
        yield
    finally:
        for each in bars:
            each.enable_progress_bar()
        for logger in loggers:
            logger.removeFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    """aMUSEd's pipeline is called deprecated at every load, its network warns of an empty list of modules."""
    message = record.getMessage()
    return "has been deprecated" not in message and "kept in float32: []" not in message
