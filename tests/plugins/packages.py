"""A package with entry points, really installed into a folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path


def install(
    folder: Path, name: str, modules: Mapping[str, str], groups: Mapping[str, Mapping[str, str]]
) -> Path:
    """Build a wheel of `modules` (path to text) whose entry points are `groups`, and install it into `folder`."""
    points = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in groups.items()
    )
    about = f"{name.replace('-', '_')}-1.dist-info"
    files = {
        **modules,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": points,
    }
    record = f"{about}/RECORD"
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name.replace('-', '_')}-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, record: "".join(f"{path},,\n" for path in (*files, record))}.items():
            archive.writestr(path, text)
    target = folder / "installed"
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    wheel.unlink()
    return target
