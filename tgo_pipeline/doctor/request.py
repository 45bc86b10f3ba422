"""What is examined: a parameter file, as far as it can be read, and the folder that it is run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.formats.files import read_text
from tgo_pipeline.params import Params, RuntimeParams, load_params, parse


@dataclass(frozen=True)
class Needs:
    """What a run takes at the most: memory on one device by stage, and disk, in bytes."""

    memory_bytes: Mapping[str, int]
    disk_bytes: int


@dataclass(frozen=True)
class Request:
    """`params` is None and `error` says why where the file cannot be used; `runtime` is its own section or the default.

    `plan` computes what the run takes; without it lower bounds from the weight files alone are compared.
    """

    path: Path
    params: Params | None
    runtime: RuntimeParams
    error: str | None = None
    plan: Callable[[Params], Needs] | None = None

    @classmethod
    def of(cls, path: Path, plan: Callable[[Params], Needs] | None = None) -> Request:
        """Read a parameter file; never raises for what is in it."""
        try:
            params = load_params(path)
        except (TgoError, OSError, UnicodeDecodeError) as error:
            return cls(path, None, _runtime(path), str(error))
        return cls(path, params, params.runtime, plan=plan)


def _runtime(path: Path) -> RuntimeParams:
    """The section `runtime` of a file whose other sections are broken, if that one can be used."""
    try:
        raw = yaml_text.loads(read_text(path))
        section = raw.get("runtime", {}) if isinstance(raw, Mapping) else {}
        return parse(RuntimeParams, section)
    except (TgoError, OSError, ValueError, AttributeError, TypeError):
        return RuntimeParams()
