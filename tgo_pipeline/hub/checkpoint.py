"""Reading official checkpoints safely, and writing them in the same layout."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from tgo_pipeline.errors import TgoError, first_line


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `TgoError` if the file is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TgoError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise TgoError(f"{path} holds {type(value).__name__}, expected an object.")
    return value


@contextlib.contextmanager
def described_by(path: Path) -> Iterator[None]:
    """Turn what libraries raise for sizes that make no network into a `TgoError` that names the configuration."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError, StrictDataclassError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise TgoError(f"{path} describes no network that can be built ({reason}).") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file or a pickled state dict (tensors only), on the CPU, in the file's own types.

    The file is mapped: a tensor takes no memory until it is used. A dict with `state_dict` inside is unwrapped.
    Raises `TgoError` if the file is damaged or holds anything else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote another format, which cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if unsafe := re.search(r"Unsupported (?:global|class|operand).*", str(error)):
            raise TgoError(
                f"{path} holds more than tensors, which may run code when it is read ({unsafe[0].strip()}): ask its "
                "authors for a plain state dict."
            ) from error
        raise TgoError(_damaged(path, error)) from error
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise TgoError(_damaged(path, error)) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TgoError(f"{path} is not a state dict: expected names and tensors.")
    return state


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} cannot be read as weights ({first_line(error)}): download it again."


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
    problems = {
        "lacks": sorted(own.keys() - state.keys()),
        "has unknown": sorted(state.keys() - own.keys()),
        "has another shape for": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
        "has no numbers of the kind of": [
            f"{key} ({own[key].dtype})"
            for key in own
            if key in state and state[key].is_floating_point() != own[key].is_floating_point()
        ],
    }
    found = "; ".join(f"it {what} {_some(keys)}" for what, keys in problems.items() if keys)
    if found:
        raise TgoError(f"{path} does not fit the network that its configuration describes: {found}.")
    module.load_state_dict({key: state[key].to(own[key].dtype) for key in own}, assign=True)


def _some(keys: list[str], shown: int = 4) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
