"""Values of `fine_tune` that were published or tuned here, by name; anyone can check them in presets.yaml."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.parsing import parse, read_data
from tgo_pipeline.plugins.folder import NotChecked
from tgo_pipeline.plugins.kinds import OBJECTIVE

if TYPE_CHECKING:
    from rich.table import Table

AUTO, NONE = "auto", "none"
FILE = Path(__file__).with_name("presets.yaml")


@dataclass(frozen=True)
class Preset:
    """Values of `fine_tune`, and the paper or code that they are from."""

    values: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class _Entry:
    """A preset in the file: its own values, or those that it is lent from another one."""

    source: str | None = None
    values: dict[str, Any] | None = None
    lent_from: str | None = None

    def __post_init__(self) -> None:
        if (self.lent_from is None) == (self.source is None or self.values is None):
            raise TgoError("a preset has either both source and values, or lent_from.")

    def own(self) -> Preset | None:
        """The preset, if its values are its own."""
        if self.source is None or self.values is None:
            return None
        return Preset(self.values, self.source)


@dataclass(frozen=True)
class _File:
    models: dict[str, str]
    presets: dict[str, _Entry]


@functools.cache
def _file() -> _File:
    return read_data(FILE, _File)


def models() -> Mapping[str, str]:
    """What presets call a model, by its hub id or embedded name."""
    return _file().models


@functools.cache
def presets() -> Mapping[str, Preset]:
    """Every preset by name. Raises `TgoError` if one is lent the values of a preset that has none."""
    entries = _file().presets
    return {name: entry.own() or _lent(name, entry.lent_from, entries) for name, entry in entries.items()}


def _lent(name: str, lender: str | None, entries: Mapping[str, _Entry]) -> Preset:
    found = entries[lender].own() if lender is not None and lender in entries else None
    if found is None:
        raise TgoError(
            f"{FILE}: presets.{name}.lent_from is {lender!r}, which is not a preset with values of its own."
        )
    return Preset(found.values, f"not tuned: lent from {lender}")


def apply(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a `params.yaml` with the preset's values wherever `fine_tune` gives none, or null.

    `fine_tune.preset`: `auto` is "<objective>/<model>" if there is one for a known model, else none. A name sets the
    objective too, if none is given. Raises `TgoError` for an unknown name and for one of another objective.
    """
    tuning = raw.get("fine_tune")
    if not isinstance(tuning, Mapping):
        return raw
    raw = {**raw, "fine_tune": given(tuning)}
    name = chosen(tuning, raw.get("model", "demo"))
    if name is None:
        return raw
    objective = name.split("/")[0]
    wanted = tuning.get("objective", objective)
    if wanted != objective:
        raise TgoError(
            f"fine_tune.preset is {name}, but fine_tune.objective is {wanted}: name a preset of {wanted} "
            "(see `tgo presets`), or set the objective to match."
        )
    return {**raw, "fine_tune": _merge({"objective": objective, **_values(name)}, raw["fine_tune"])}


def given(tuning: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section without keys that are null where null is no value: they stand there to be found by `dvc exp run -S`.

    Keys that there are not stay, so that a misspelt one is refused.
    """
    from tgo_pipeline.params.fine_tune import FineTuneParams

    not_null = {each.name for each in dataclasses.fields(FineTuneParams) if each.default is not None}
    return {key: value for key, value in tuning.items() if value is not None or key not in not_null}


def _values(name: str) -> Mapping[str, Any]:
    """The values of a preset. Raises `TgoError` that names the file if `fine_tune` would not take them."""
    from tgo_pipeline.params.fine_tune import FineTuneParams

    values = presets()[name].values
    parse(FineTuneParams, {"objective": name.split("/")[0], **values}, f"{FILE}: presets.{name}.values.")
    return values


def chosen(tuning: Mapping[str, Any], model: Any) -> str | None:
    """The name of the preset that a section `fine_tune` gets its values from; None if it has none."""
    wanted = tuning.get("preset", NONE)
    if wanted == AUTO:
        known = models().get(model) if isinstance(model, str) else None
        name = f"{tuning.get('objective', 'tgo')}/{known}"
        return name if name in presets() else None
    if wanted == NONE or not isinstance(wanted, str):
        return None
    if wanted not in presets():
        # lower than the usual cutoff of 0.6: half of a name may be another model's
        close = difflib.get_close_matches(wanted, presets(), n=3, cutoff=0.4)
        hint = f" Close: {', '.join(close)}." if close else ""
        raise TgoError(f"fine_tune.preset is {wanted!r}, which there is none of.{hint} All: `tgo presets`.")
    return wanted


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key down into mappings; `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def table() -> Table:
    """All presets: name, values, source."""
    from rich import box
    from rich.table import Table

    shown = Table("preset", "fine_tune", "source", box=box.SIMPLE_HEAD, show_lines=False)
    for name, preset in presets().items():
        values = ", ".join(f"{key} {value}" for key, value in _flat(preset.values))
        shown.add_row(name, values, preset.source)
    for name, entry in OBJECTIVE.installed().items():
        shown.add_row(name, _options(name), f"options of {entry.value}, by {entry.dist and entry.dist.name}")
    return shown


def _options(objective: str) -> str:
    """The options of an installed objective with their defaults, for the table."""
    try:
        kind = getattr(OBJECTIVE.find(objective), "Options", None)
    except NotChecked as error:
        return str(error)
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return ", ".join(f"options.{each.name} {_default(each)}" for each in fields)


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return "(required)" if field.default is dataclasses.MISSING else str(field.default)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", repr(value) if value == "" else f"{value}"
