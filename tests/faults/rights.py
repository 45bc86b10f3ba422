"""Folders that may not be written: their bits say so, and the process that runs into them has no right above bits."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DROPPED = (1, 2, 3)
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER: what lets root read and write everything."""


def drop_rights() -> None:
    """For `preexec_fn`: the program that follows has no right beyond the bits of files, even as root."""
    if os.geteuid() == 0:
        for capability in DROPPED:
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in the folder may be written meanwhile."""
    subprocess.run(["chmod", "-R", "a-w", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)


def require_rights_to_drop(folder: Path) -> None:
    """Skip a test where a process cannot lose its rights (in some containers)."""
    place = folder / "read-only"
    place.mkdir()
    with read_only(place):
        code = f"open({str(place / 'x')!r}, 'w')"
        done = subprocess.run(
            [sys.executable, "-S", "-c", code], preexec_fn=drop_rights, capture_output=True, check=False
        )
    if done.returncode == 0:
        pytest.skip("this process cannot give up its right to write everywhere")


def drop_capabilities() -> None:
    """The same for a process that goes on as it is. Raises `OSError` where that is forbidden."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for capability in DROPPED:
        data[0] &= ~(1 << capability)  # effective
        data[1] &= ~(1 << capability)  # permitted
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")
