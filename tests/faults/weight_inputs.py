"""Weight files that lie about themselves, and pickles that would run code."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tarfile
from pathlib import Path

import torch

from tests.faults.table_inputs import mangle


def safetensors_lies(numbers: random.Random, data: bytes) -> tuple[str, bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    names = [k for k in header if k != "__metadata__"]
    name = numbers.choice(names)
    what = numbers.choice(
        [
            "length",
            "offsets",
            "shape",
            "dtype",
            "drop",
            "json",
            "huge",
            "overlap",
            "metadata",
            "mangle",
            "name",
            "nan",
        ]
    )
    body = data[8 + size :]
    if what == "length":
        return what, struct.pack("<Q", numbers.choice([0, 1, 2**63, 2**40, size + 1, size - 1])) + data[8:]
    if what == "mangle":
        return what, mangle(numbers, data)
    if what == "nan":
        place = numbers.randrange(len(body) // 4) * 4
        return what, data[: 8 + size] + body[:place] + struct.pack(
            "<f", numbers.choice([float("nan"), float("inf"), 1e38])
        ) + body[place + 4 :]
    if what == "offsets":
        header[name]["data_offsets"] = numbers.choice(
            [[0, 2**50], [-1, 4], [8, 0], [0, 0], ["a", "b"], [], None]
        )
    elif what == "shape":
        header[name]["shape"] = numbers.choice(
            [
                [2**40, 2**40],
                [-1],
                [0],
                [],
                ["x"],
                None,
                header[name]["shape"][::-1],
                [*header[name]["shape"], 1],
            ]
        )
    elif what == "dtype":
        header[name]["dtype"] = numbers.choice(["F64", "I64", "BOOL", "F8_E4M3", "X", None, 1])
    elif what == "drop":
        del header[name]
    elif what == "huge":
        header["x" * 1_000_000] = header[name]
    elif what == "overlap":
        header[name]["data_offsets"] = header[numbers.choice(names)]["data_offsets"]
    elif what == "metadata":
        header["__metadata__"] = numbers.choice([None, [], 1, {"a": 1}, {"fingerprint": "x" * 100_000}])
    elif what == "name":
        header["../../x\x1b[2J"] = header.pop(name)
    text = json.dumps(header).encode() if what != "json" else b'{"a":' * 50_000
    return what, struct.pack("<Q", len(text)) + text + body


class Evil:
    """What a pickle may hold: its reading would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def pickles(flag: Path, escape: Path) -> dict[str, bytes]:
    """Weight files by kind; reading one would touch `flag`, unpacking one would write `escape`."""
    evil = Evil(str(flag))
    stream = io.BytesIO()
    torch.save({"a": evil}, stream)
    files = {
        "zip": stream.getvalue(),
        "plain pickle": pickle.dumps(evil),
        "pickle in a dict": pickle.dumps({"state_dict": evil}),
    }
    old = io.BytesIO()
    torch.save({"a": evil}, old, _use_new_zipfile_serialization=False)
    files["legacy"] = old.getvalue()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(1) + pickle.dumps(evil)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("../../../../../.." + str(escape))
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    files["tar"] = tar.getvalue()
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    files["torchscript"] = script.getvalue()
    files["empty"], files["junk"] = b"", b"PK\x03\x04" + b"\x00" * 50
    return files
