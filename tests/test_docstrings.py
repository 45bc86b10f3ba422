"""Every public module, class, function and method says what it is: in its own words, or in its base's."""

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tests.test_layers import ROOT, modules


def described(owner: type, name: str) -> bool:
    """Whether the method, or one that it overrides, has a docstring."""
    return any(getattr(vars(base).get(name), "__doc__", None) for base in owner.__mro__)


def is_method(value: Any) -> bool:
    return (
        inspect.isfunction(value)
        or isinstance(value, (property, classmethod, staticmethod))
        or hasattr(value, "func")
    )


def undescribed(module: ModuleType) -> Iterator[str]:
    """The public names that a module defines and does not describe."""
    if not module.__doc__:
        yield module.__name__
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) and not value.__doc__:
            yield f"{module.__name__}.{name}"
        if inspect.isclass(value):
            # a dataclass or a named tuple without a docstring is given its signature
            if not value.__doc__ or value.__doc__.startswith(f"{name}("):
                yield f"{module.__name__}.{name}"
            methods = [each for each, held in vars(value).items() if each[0] != "_" and is_method(held)]
            yield from (f"{module.__name__}.{name}.{each}" for each in methods if not described(value, each))


def test_public_names_are_described() -> None:
    # `python -m` runs these
    found = [name for name in modules(ROOT) if not name.endswith("__main__")]
    assert [each for name in found for each in undescribed(importlib.import_module(name))] == []


def test_a_name_without_a_docstring_is_found() -> None:
    module = ModuleType("made", "A module.")
    source = (
        "class A:\n  'An A.'\n  def f(self): ...\nclass B(A):\n  @property\n  def g(self): ...\ndef h(): ..."
    )
    exec(source, vars(module))
    assert list(undescribed(module)) == ["made.A.f", "made.B", "made.B.g", "made.h"]
