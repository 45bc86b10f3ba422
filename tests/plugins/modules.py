"""A project folder with modules of one's own, for as long as a test runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def project_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> Iterator[Path]:
    """`folder` as the current one, with `modules` (name to text); what is imported from it is forgotten afterwards.

    It is not on the path beforehand: finding it there is the business of what is tested.
    """
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
    known = set(sys.modules)
    yield folder
    for name in set(sys.modules) - known:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
