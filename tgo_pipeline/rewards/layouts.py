"""Which files each reward needs, where a source keeps them, and the fingerprint of their content.

Everything here is cheap and imports no network library: `tgo status` fingerprints rewards without loading them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.fingerprints import content_fingerprint
from tgo_pipeline.fingerprints import fingerprint as fingerprint_of

DEMO = "demo"


@dataclass(frozen=True)
class Layout:
    """The files of one reward: one of `weights`, all `required`, any `optional`; `version` counts code changes.

    Raise `version` when the adapter's code changes the numbers: the columns of that reward are then computed anew.
    """

    weights: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    version: int = 1

    def __str__(self) -> str:
        parts = [" or ".join(self.weights), *self.required, *(f"{name} (optional)" for name in self.optional)]
        return ", ".join(parts)


_CLIP_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_CLIP_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)
_HPS_OPTIONAL = ("open_clip_config.json", "merges.txt")

LAYOUTS: dict[str, Layout] = {
    "hpsv2.1": Layout(("model.safetensors", "HPS_v2.1_compressed.pt"), optional=_HPS_OPTIONAL),
    "hpsv2.0": Layout(("model.safetensors", "HPS_v2_compressed.pt"), optional=_HPS_OPTIONAL),
    "pickscore": Layout(_CLIP_WEIGHTS, ("config.json",), _CLIP_TOKENIZER),
    "imagereward": Layout(
        ("ImageReward.safetensors", "ImageReward.pt"), ("med_config.json", "vocab.txt"), ("vit_config.json",)
    ),
    "clip": Layout(_CLIP_WEIGHTS, ("config.json",), ("merges.txt",)),
    "aesthetic": Layout(
        ("model.safetensors", "sac+logos+ava1-l14-linearMSE.pth"),
        ("clip/config.json", "clip/model.safetensors"),
    ),
    "oracle": Layout(),
}


@dataclass(frozen=True)
class Files:
    """Where the files of a reward are: its weight file, and its companions by their names in the layout.

    Companions may come from different places: beside the weight file, a hub snapshot, the package itself.
    """

    name: str
    weights: Path
    folder: Path
    companions: Mapping[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The path of a companion that must be there. Raises `TgoError` if it is not."""
        if name not in self.companions:
            raise TgoError(
                f"reward {self.name}: {name} is missing. Files that belong there: {LAYOUTS[self.name]}."
            )
        return self.companions[name]

    def optional(self, name: str) -> Path | None:
        """The path of a companion, None if it is not there."""
        return self.companions.get(name)


def locate(name: str, source: str) -> Files:
    """Find the files of reward `name` in `source`: `demo`, a folder, or the weight file itself.

    Raises `TgoError` for an unknown reward, and naming what is missing and which files belong there.
    """
    if name not in LAYOUTS:
        raise TgoError(f"{name!r} is not a reward; choose from {', '.join(LAYOUTS)}.")
    layout = LAYOUTS[name]
    if not layout.weights:
        if source != DEMO:
            raise TgoError(f"reward {name} has no weights: its source must be `demo`, not {source!r}.")
        return Files(name, Path(), Path())
    path = _path(name, source)
    folder = path if path.is_dir() else path.parent
    weights = path if path.is_file() else _first(name, folder, layout)
    missing = [file for file in layout.required if not (folder / file).is_file()]
    if missing:
        raise TgoError(
            f"reward {name}: {folder} lacks {', '.join(missing)}. Files that belong there: {layout}."
        )
    companions = {
        file: folder / file for file in (*layout.required, *layout.optional) if (folder / file).is_file()
    }
    return Files(name, weights, folder, companions)


def _path(name: str, source: str) -> Path:
    if source == DEMO:
        from tgo_pipeline.demo import weights_path

        return weights_path(f"rewards/{name}")
    path = Path(source).expanduser()
    if path.exists():
        return path
    raise TgoError(
        f"reward {name}: {source} does not exist. Name `demo`, a folder with {LAYOUTS[name]}, or the weight file in it."
    )


def _first(name: str, folder: Path, layout: Layout) -> Path:
    for file in layout.weights:
        if (folder / file).is_file():
            return folder / file
    raise TgoError(
        f"reward {name}: {folder} holds no weights, {' or '.join(layout.weights)}. Files that belong there: {layout}."
    )


def fingerprint(name: str, source: str) -> str:
    """What the scores of a reward depend on besides the sample: the content of its files, and its code's version."""
    files = locate(name, source)
    named = {**files.companions, **({files.weights.name: files.weights} if LAYOUTS[name].weights else {})}
    contents = {file: _content(named[file]) for file in sorted(named)}
    return fingerprint_of(reward=name, version=LAYOUTS[name].version, contents=contents)


def _content(path: Path) -> str:
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hashed(path: Path, _size_bytes: int, _modified_ns: int) -> str:
    return content_fingerprint(path)
