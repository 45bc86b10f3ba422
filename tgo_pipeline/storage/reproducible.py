"""Saved models of equal weights as equal bytes, in any folder: what libraries write of the place and by chance goes."""

from __future__ import annotations

import json
from pathlib import Path

PLACE = "_name_or_path"
"""Where `diffusers` and `transformers` note the folder that a configuration was read from."""


def make_reproducible(folder: Path) -> None:
    """Take the folders of this machine out of a saved model's configurations; order its metadata of tensors."""
    for path in sorted(folder.rglob("*.json")):
        _forget_place(path)
    for path in sorted(folder.rglob("*.safetensors")):
        order_metadata(path)


def _forget_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if PLACE not in text:
        return
    content = json.loads(text)
    place = content.get(PLACE) if isinstance(content, dict) else None
    if isinstance(place, str) and (Path(place).is_absolute() or Path(place).expanduser().exists()):
        del content[PLACE]
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def order_metadata(path: Path) -> None:
    """Write the metadata of a safetensors file in the order of its keys; its library draws one for each file."""
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        metadata = header.pop("__metadata__", {})
        if len(metadata) < 2:
            return
        ordered = {"__metadata__": dict(sorted(metadata.items())), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:  # it would not fit before the tensors, which stay where they are
            return
        stream.seek(8)
        stream.write(text.ljust(size))  # the format lets a header end in spaces
