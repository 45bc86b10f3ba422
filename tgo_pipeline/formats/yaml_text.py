"""YAML from outside: names are the text that was written, and what could be misread or has no end is refused.

YAML 1.1 reads `no` as false, 012 as ten and 1:30 as ninety. Keys of mappings are names here, so they stay text. A
number written that way is refused, and so is an alias that stands for more than a file holds.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from tgo_pipeline.errors import TgoError, in_one_line

MOST_NODES = 100_000
"""What a document may hold once every alias is replaced by what it stands for; params.yaml has some hundred."""
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_MISREAD = re.compile(r"[-+]?(0_*[0-7][0-7_]*|[\d_]+(:[0-5]?\d)+(\.[\d_]*)?)")
"""Octal and sexagesimal numbers of YAML 1.1."""


def loads(text: str, *, fast: bool = False) -> Any:
    """What a YAML text holds. Raises `TgoError` with the line, but without the name of the file.

    A key that is there twice is refused: the last would win. `fast` takes the parser in C, if there is one, whose
    errors say less.
    """
    try:
        return _document(_loader(fast), text)
    except TgoError:
        raise
    except RecursionError as error:
        raise TgoError("it is not YAML that can be read: its values are nested too deep.") from error
    except Exception as error:
        raise TgoError(f"it is not YAML: {in_one_line(error)}.") from error


def _document(kind: Any, text: str) -> Any:
    loader = kind(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


@functools.cache
def _loader(fast: bool) -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if fast else yaml.SafeLoader

    class Strict(base):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            if isinstance(node, yaml.MappingNode):
                _check_unique(node)
                self.flatten_mapping(node)
                for key, _ in node.value:
                    if isinstance(key, yaml.ScalarNode):
                        key.tag = _TEXT
            return super().construct_mapping(node, deep)

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            """The value of a node; what the constructors raise for `!!int x` or the 99th of May names its line."""
            line = node.start_mark.line + 1
            number = str(node.tag).endswith((":int", ":float"))
            if number and isinstance(node.value, str) and _MISREAD.fullmatch(node.value):
                raise TgoError(
                    f"line {line}: YAML reads {node.value} as another number: quote it if it is text, or write it "
                    "without leading zeros and colons."
                )
            try:
                return super().construct_object(node, deep)
            except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
                kind, reason = str(node.tag).rsplit(":", 1)[-1], in_one_line(error)
                raise TgoError(
                    f"line {line}: {str(node.value)[:80]!r} is no {kind} ({reason}): quote it if it is text."
                ) from error

    return Strict


def _check_unique(node: Any) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key.value, str):
            if key.value in seen:
                raise TgoError(
                    f"line {key.start_mark.line + 1}: {key.value} is there twice; keep one of them."
                )
            seen.add(key.value)


def _check_size(root: Any) -> None:
    """Raise `TgoError` for aliases that stand for more than `MOST_NODES` values, or for what they are part of."""
    sizes: dict[int, int | None] = {}

    def size(node: Any) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            raise TgoError(
                f"line {node.start_mark.line + 1}: an alias stands for what it is part of: write it out."
            )
        if known:
            return known
        sizes[id(node)] = None
        inner = node.value if isinstance(node.value, list) else []
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        sizes[id(node)] = total = 1 + sum(map(size, parts))
        if total > MOST_NODES:
            raise TgoError(
                f"line {node.start_mark.line + 1}: it stands for more than {MOST_NODES:,} values, aliases replaced: "
                "write out what is meant."
            )
        return total

    size(root)
