"""Reading official checkpoints safely, and writing them in the same layout."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tgo_pipeline.errors import TgoError, first_line, in_one_line
from tgo_pipeline.formats.files import require_regular
from tgo_pipeline.hub import weight_files

log = logging.getLogger("tgo")
WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
"""What torch.compile, FSDP, activation checkpointing and peft put into the name of what they wrap, at any place."""
PREFIXES = ("module.", "base_model.model.")
"""What DistributedDataParallel and peft put before all names."""
_INNER = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(WRAPPED)})\.")


@contextlib.contextmanager
def described_by(path: Path) -> Iterator[None]:
    """Turn what libraries raise for sizes that make no network into a `TgoError` that names the configuration.

    Any error: what a library does with a number in place of a list, or a negative size, is not to be foreseen.
    """
    try:
        yield
    except TgoError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise TgoError(f"{path} describes no network that can be built ({reason}).") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_weights(path: Path) -> dict[str, Tensor]:
    """As `read_tensors`, with the names of a wrapped network read as its own (`unwrapped`)."""
    return unwrapped(read_tensors(path), path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, a pickled state dict (tensors only) or the shards of an index, on the CPU, types kept.

    Files are mapped: a tensor takes no memory until it is used. A dict with `state_dict` inside is taken out of it.
    Raises `TgoError` if a file is damaged or holds anything else.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files.shards(path):
        state |= _read(file)
    return state


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        require_regular(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote another format, which cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file makes a reader fail anywhere
        unsafe = re.search(r"Unsupported (?:global|class|operand).*", str(error))
        if unsafe and isinstance(error, pickle.UnpicklingError):
            raise TgoError(
                f"{path} holds more than tensors, which may run code when it is read ({unsafe[0].strip()}): ask its "
                "authors for a plain state dict."
            ) from error
        raise TgoError(
            f"{path} cannot be read as weights ({first_line(error)}): download it again."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(_is_named_tensor(*item) for item in state.items()):
        raise TgoError(f"{path} is not a state dict: expected names and tensors.")
    return state


def _is_named_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def unwrapped(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a network that was saved inside a wrapper (DDP, FSDP, torch.compile, peft) by its own names.

    One line says what was left out of the names. Raises `TgoError` if two tensors then have one name.
    """
    names, left_out = _own_names(list(state))
    if not left_out:
        return dict(state)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TgoError(
            f"{path} holds {twice} twice, with and without {' and '.join(left_out)}: save it again."
        )
    log.warning(
        "%s was saved from a wrapped network: its names are read without %s", path, ", ".join(left_out)
    )
    return dict(zip(names, state.values(), strict=True))


def refuse_wrapped(names: Collection[str], path: Path) -> None:
    """Raise `TgoError` if names are those of a wrapped network, where only the network's own are read."""
    _, left_out = _own_names(list(names))
    if left_out:
        raise TgoError(
            f"{path} was saved from a wrapped network: its names have {', '.join(left_out)}, and diffusers reads a "
            "network by its own names. Save it from inside its wrapper: accelerate's unwrap_model, or "
            "`network._orig_mod` of a compiled one, and its `save_pretrained`."
        )


def _own_names(names: list[str]) -> tuple[list[str], list[str]]:
    """Names without those of wrappers, which may lie in one another, and what was left out, such as `module.`."""
    left_out: dict[str, None] = {}
    before: list[str] = []
    while names != before:
        before = names
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = [name.removeprefix(prefix) for name in names]
                left_out[prefix] = None
        left_out |= dict.fromkeys(each for name in names for each in _INNER.findall(name))
        names = [_INNER.sub("", name) for name in names]
    return names, list(left_out)


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors with `metadata` in its header."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_separate(state), path, {"format": "pt", **(metadata or {})})


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none of which shares memory with another."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        separate[key] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return separate


def load_weights(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Give `module` exactly the tensors of `state`, each in the type that the module has there.

    Raises `TgoError` naming missing, unknown or misshapen keys.
    """
    own = module.state_dict()
    common = [key for key in own if key in state]
    refuse_misfit(
        path,
        lacks=own.keys() - state.keys(),
        unknown=state.keys() - own.keys(),
        misshapen={
            key: (state[key].shape, own[key].shape) for key in common if state[key].shape != own[key].shape
        },
        other_kind=[
            f"{key} ({own[key].dtype})"
            for key in common
            if state[key].is_floating_point() != own[key].is_floating_point()
        ],
    )
    module.load_state_dict({key: state[key].to(own[key].dtype) for key in own}, assign=True)


def refuse_misfit(
    path: Path,
    *,
    lacks: Collection[str],
    unknown: Collection[str],
    misshapen: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    other_kind: Collection[str],
) -> None:
    """Raise `TgoError` naming the keys of a weight file that do not fit its network, unless there are none.

    `misshapen` has the shapes that were found and wanted; `other_kind` are whole numbers in place of fractions.
    """
    problems = {
        "lacks": sorted(lacks),
        "has unknown": sorted(unknown),
        "has another shape for": [
            f"{key} {tuple(found)} instead of {tuple(wanted)}" for key, (found, wanted) in misshapen.items()
        ],
        "has no numbers of the kind of": list(other_kind),
    }
    found = "; ".join(f"it {what} {some(keys)}" for what, keys in problems.items() if keys)
    if found:
        raise TgoError(f"{path} does not fit the network that its configuration describes: {found}.")


def some(keys: list[str], shown: int = 4) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
