"""Mappings into dataclasses, strictly: unknown keys, missing keys and values of another type are refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text

T = TypeVar("T")


def read_data(path: Path, kind: type[T]) -> T:
    """A data file of this package as dataclass `kind`. Raises `TgoError` that names the file, and the key in it."""
    try:
        content = yaml_text.loads(path.read_text(encoding="utf-8"), fast=True)
        _expect(isinstance(content, Mapping), "it", content, "a mapping")
        return parse(kind, content)
    except OSError as error:
        raise TgoError(f"{path} cannot be read ({error.strerror}): install the package again.") from error
    except TgoError as error:
        raise TgoError(f"{path}: {error}") from None


def parse(kind: type[T], raw: Mapping[str, Any], where: str = "") -> T:
    """Build dataclass `kind` from a mapping, strictly: no unknown key, no missing key, no value of another type."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise TgoError(unknown_key(f"{where}{key}", str(key), list(fields)))
    values = {key: _convert(hints[key], value, f"{where}{key}") for key, value in raw.items()}
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise TgoError(f"{where}{name} is missing.")
    try:
        return kind(**values)
    except TgoError as error:
        raise TgoError(f"{where}{error}") from None


def unknown_key(full: str, key: str, allowed: list[str]) -> str:
    """What to say of a key that there is not, with its place in full."""
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{full} is not a known key.{hint} Allowed here: {', '.join(allowed)}."


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert_to_one([each for each in args if each is not type(None)], value, where)
    if origin is Literal:
        if value not in args:
            raise TgoError(f"{where} is {value!r}: it must be one of {', '.join(map(str, args))}.")
        return value
    if origin is list:
        _expect(isinstance(value, list), where, value, "a list")
        return [_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        _expect(isinstance(value, Mapping), where, value, "a mapping")
        return {str(key): _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        keys = ", ".join(spec.name for spec in dataclasses.fields(hint))
        _expect(isinstance(value, Mapping), where, value, f"a mapping of keys ({keys})")
        return parse(typing.cast(type, hint), value, f"{where}.")
    return _scalar(hint, value, where)


def _convert_to_one(hints: list[Any], value: Any, where: str) -> Any:
    """Any of some words, or what the one other hint asks for."""
    words = [word for hint in hints if typing.get_origin(hint) is Literal for word in typing.get_args(hint)]
    others = [hint for hint in hints if typing.get_origin(hint) is not Literal]
    if not others or (isinstance(value, str) and value in words):
        return _convert(hints[0] if not others else Literal[tuple(words)], value, where)
    try:
        return _convert(others[0], value, where)
    except TgoError as error:
        either = f", or {' or '.join(words)}." if words else "."
        raise TgoError(f"{str(error).removesuffix('.')}{either}") from None


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
            try:
                value = float(value)
            except ValueError:
                pass
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), where, value, "a number")
        _expect(_is_finite(value), where, value, "a finite number")
        return float(value)
    names = {int: "a whole number", bool: "true or false", str: "text; put it in quotes if it is a name"}
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _expect(right, where, value, names[hint])
    return value


def _is_finite(value: Any) -> bool:
    """Whether a float can hold a number; whole numbers may be larger than any."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _expect(condition: bool, where: str, value: Any, what: str) -> None:
    if not condition:
        raise TgoError(f"{where} is {value!r}: it must be {what}.")
