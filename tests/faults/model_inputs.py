"""Model folders that ask for code, point elsewhere, or lie."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Change = Callable[[Path], object]
"""What is done to a model folder that lies two folders below the project's."""
CODE = "class Evil:\n    @classmethod\n    def from_pretrained(cls, *a, **k): return cls()\n"
PLACES = ("", "unet/", "text_encoder/", "tokenizer/", "scheduler/", "vae/")
CONFIGS = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer/tokenizer.json",
    "tokenizer/special_tokens_map.json",
)
INDICES: dict[str, dict[str, Any]] = {
    "a class of a component's own file": {"unet": ["evil", "Evil"]},
    "a pipeline class of its own file": {"_class_name": ["pipeline", "Evil"]},
    "a pipeline class of a component": {"_class_name": ["evil", "Evil"]},
    "a module of the working folder": {"unet": ["evil_module", "Evil"]},
    "os.system as a component": {"unet": ["os", "system"]},
    "subprocess.Popen as a component": {"unet": ["subprocess", "Popen"]},
    "a component above": {"../../outside": ["diffusers", "UNet2DConditionModel"]},
    "an absolute component": {"/etc": ["diffusers", "UNet2DConditionModel"]},
    "a class that is not there": {"unet": ["diffusers", "Nope"]},
    "class name null": {"_class_name": None},
    "class name a number": {"_class_name": 7},
    "class name a list": {"_class_name": []},
    "class name a private one": {"_class_name": "DiffusionPipeline"},
    "another pipeline": {"_class_name": "FluxPipeline"},
    "version junk": {"_diffusers_version": {"a": 1}},
    "a component of numbers": {"unet": [1, 2]},
    "a component of three": {"unet": ["a", "b", "c"]},
    "a component as text": {"unet": "UNet2DConditionModel"},
    "custom_pipeline": {"custom_pipeline": "evil"},
}
"""Keys of `model_index.json`."""
JUNK = (None, -1, 0, 10**9, 10**30, "x", [], {}, [10**9], 1.5, True, ["../../x"], "../../../etc/passwd")
DESCRIBED: dict[str, dict[str, Any]] = {
    "base above": {"method": "lora", "base": "../../../../etc"},
    "base itself": {"method": "lora", "base": "own/diffusion"},
    "base a number": {"method": "lora", "base": 7},
    "sampling junk": {"method": "full", "sampling": 7},
    "sampling null": {"sampling": None},
    "sampling numbers": {"sampling": {"prompt_prefix": 7}},
    "guidance": {"objective": "cpgd", "guidance": 7},
    "guidance above": {
        "objective": "cpgd",
        "method": "lora",
        "base": "demo",
        "guidance": {"kind": "cpgd", "positive": "../../x", "negative": "/etc", "strength": "x"},
    },
    "method a list": {"method": []},
    "fingerprint a list": {"fingerprint": []},
}
"""What `tgo.json` of a tuned model says."""


def model_changes(numbers: random.Random, flag: Path) -> Iterator[tuple[str, Change]]:
    """Every change with its name; code of the folder that is run would make `flag`."""
    for name, keys in INDICES.items():
        yield name, lambda folder, keys=keys: _with_code(folder, flag, keys)
    for name, text in (("a list", "[]"), ("deep", "[" * 100_000), ("empty", "")):
        yield f"index {name}", lambda folder, text=text: (folder / "model_index.json").write_text(text)
    yield "index a link in a circle", lambda folder: _circle(folder / "model_index.json")
    yield "a component that is a link in a circle", lambda folder: _circle(folder / "unet")
    yield "a component that is a file", lambda folder: _file(folder / "unet")
    for name, content in DESCRIBED.items():
        yield (
            f"tgo.json {name}",
            lambda folder, content=content: (folder / "tgo.json").write_text(json.dumps(content)),
        )
    while True:
        config = numbers.choice(CONFIGS)
        yield f"{config} changed", lambda folder, config=config: _lie(numbers, folder / config, flag)


def _with_code(folder: Path, flag: Path, keys: dict[str, Any]) -> None:
    code = f"open({str(flag)!r}, 'w').close()\n{CODE}"
    for place in PLACES:
        for name in ("evil.py", "pipeline.py"):
            (folder / place / name).write_text(code)
    (folder.parents[1] / "evil_module.py").write_text(code)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **keys}))


def _circle(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(path.name)


def _file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def _lie(numbers: random.Random, path: Path, flag: Path) -> None:
    """One JSON file of the folder, cut, emptied, or with another value; code lies beside it."""
    model = path.parents[1]
    _with_code(model, flag, {})
    if not path.is_file():
        return
    text = path.read_text()
    content = json.loads(text)
    texts = ["", "[]", "null", "[" * 50_000, text[: len(text) // 2], "\x00\x01"]
    if isinstance(content, dict) and content:
        auto = {
            "auto_map": {
                "AutoModel": "evil.Evil",
                "AutoTokenizer": ["evil.Evil", None],
                "AutoConfig": "evil.Evil",
            }
        }
        texts += [json.dumps({**content, **auto}), json.dumps({**content, **auto, "_class_name": "Evil"})]
        keys = list(content)
        texts += [json.dumps({**content, numbers.choice(keys): numbers.choice(JUNK)}) for _ in range(6)]
    path.write_text(numbers.choice(texts))
