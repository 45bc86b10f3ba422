"""Which files each reward needs, where they officially are, and the fingerprint of their content.

Everything here is cheap and imports no network library: `tgo status` fingerprints rewards without loading them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import cache, integrity, weight_files
from tgo_pipeline.hub import files as hub
from tgo_pipeline.hub.address import MOVING, Official, Repository
from tgo_pipeline.rewards.custom_identity import source_fingerprint
from tgo_pipeline.rewards.files import instruction, releases
from tgo_pipeline.rewards.files.instruction import Instruction, OfficialText, read_instruction
from tgo_pipeline.rewards.specs import canonical
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.stores.inputs import local_path

DEMO = "demo"
_VOCABULARY = Path(__file__).parent / "vocabulary"
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>.+)")


@dataclass(frozen=True)
class Layout:
    """The files of one reward: one of `weights`, all `required`, any `optional`; `version` counts code changes.

    Raise `version` when the adapter's code changes the numbers: the columns of that reward are then computed again, and
    `tgo status` gives `changed`, what is new, as the reason.
    `official` says where the files of the release are, and `tower` which of them are another model's, which the
    release of this reward therefore lacks; `recorded` are further official weights, which are not downloaded.
    `packaged` files come with this package unless a source has its own. An `instruction` comes from the user. Weights
    whose name has a `*` are those with the highest number in its place; weights that are peft's adapter alone
    (`ADAPTER`) need the files `adapted` too, those with a `*` from the adapter's own folder. A reward without weights
    may be `described` by its source: a file of settings, or a folder that another library reads.
    """

    weights: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    official: Mapping[str, Official] = field(default_factory=dict)
    tower: tuple[str, ...] = ()
    recorded: Mapping[str, Official] = field(default_factory=dict)
    packaged: Mapping[str, Path] = field(default_factory=dict)
    adapted: tuple[str, ...] = ()
    instruction: OfficialText | None = None
    described: bool = False
    demo: str = ""
    version: int = 2
    changed: str = ""

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
_OPEN_CLIP = ("open_clip_config.json", "merges.txt")
_TOWER = ("clip/config.json", "clip/model.safetensors")
_PADDED: Any = {
    "version": 3,
    "changed": "the short side of images of 28 sizes, such as 1600x675, gets the official code's pixel more or less",
}
"""Of the rewards that `LongestSidePad` prepares images for."""
ADAPTER = "adapter_model.safetensors"
TRAINED, BASE_WEIGHTS = "checkpoint-*/non_lora_state_dict.pth", "base/model.safetensors"
"""Beside an adapter: what else was trained, and the weights of the base model."""
_BASE = tuple(releases.base_files(releases.QWEN2_VL_7B_REPO))
_CHAT = ("base/chat_template.json", "instruction.txt")

LAYOUTS: dict[str, Layout] = {
    "hpsv2.1": Layout(
        ("model.safetensors", releases.HPSV2_1.file),
        optional=_OPEN_CLIP,
        official={releases.HPSV2_1.file: releases.HPSV2_1},
        demo="hpsv2.1",
        **_PADDED,
    ),
    "hpsv2.0": Layout(
        ("model.safetensors", releases.HPSV2_0.file),
        optional=_OPEN_CLIP,
        official={releases.HPSV2_0.file: releases.HPSV2_0},
        demo="hpsv2.0",
        **_PADDED,
    ),
    "pickscore": Layout(
        _CLIP_WEIGHTS,
        ("config.json",),
        _CLIP_TOKENIZER,
        official={"model.safetensors": releases.PICKSCORE, "config.json": releases.PICKSCORE_CONFIG},
        demo="pickscore",
        version=3,
        changed="<|endoftext|> and <|startoftext|> in capitals are one token, as in the official code",
    ),
    "imagereward": Layout(
        ("ImageReward.safetensors", releases.IMAGEREWARD.file),
        optional=("med_config.json", "vocab.txt", "vit_config.json"),
        official={releases.IMAGEREWARD.file: releases.IMAGEREWARD},
        packaged={"vocab.txt": _VOCABULARY / "bert-base-uncased.txt"},
        demo="imagereward",
    ),
    "clip/openai-l14": Layout(
        _CLIP_WEIGHTS,
        ("config.json",),
        ("merges.txt",),
        official={"model.safetensors": releases.OPENAI_L14, "config.json": releases.OPENAI_L14_CONFIG},
        demo="clip",
    ),
    "clip/laion-h14-hpspad": Layout(
        (releases.LAION_H14.file, releases.LAION_H14_PICKLE.file),
        optional=_OPEN_CLIP,
        official={releases.LAION_H14.file: releases.LAION_H14},
        recorded={releases.LAION_H14_PICKLE.file: releases.LAION_H14_PICKLE},
        demo="clip/laion-h14-hpspad",
        **_PADDED,
    ),
    "aesthetic": Layout(
        ("model.safetensors", releases.LAION_AESTHETIC.file),
        _TOWER,
        official={
            releases.LAION_AESTHETIC.file: releases.LAION_AESTHETIC,
            "clip/config.json": releases.OPENAI_L14_CONFIG,
            "clip/model.safetensors": releases.OPENAI_L14,
        },
        tower=_TOWER,
        demo="aesthetic",
    ),
    "hpsv3": Layout(
        (releases.HPSV3.file,),
        _BASE,
        (*_CHAT, instruction.HPSV3.file),
        official={releases.HPSV3.file: releases.HPSV3, **releases.base_files(releases.QWEN2_VL_7B_REPO)},
        tower=_BASE,
        instruction=instruction.HPSV3,
    ),
    "videoreward": Layout(
        (
            "checkpoint-*/model.pth",
            "checkpoint-*/model.safetensors",
            f"checkpoint-*/{ADAPTER}",
            releases.VIDEOREWARD.file,
        ),
        ("model_config.json", *_BASE),
        (*_CHAT, instruction.VIDEOREWARD.file),
        official={
            releases.VIDEOREWARD.file: releases.VIDEOREWARD,
            "model_config.json": releases.VIDEOREWARD_CONFIG,
            **releases.base_files(releases.QWEN2_VL_2B_REPO),
        },
        tower=_BASE,
        adapted=(TRAINED, BASE_WEIGHTS),
        instruction=instruction.VIDEOREWARD,
    ),
    "vqascore": Layout(described=True, version=1),
    "judge": Layout(described=True, version=1),
    "motion": Layout(version=1),
    "flicker": Layout(version=1),
    "jpeg_kb": Layout(version=1),
    "ocr": Layout(version=1),
    "oracle": Layout(),
    "moving_oracle": Layout(version=1),
    "moving_choice": Layout(("model.safetensors",), demo="moving_choice", version=1),
}


@dataclass(frozen=True)
class Files:
    """Where the files of a reward are: its weight file, and its companions by their names in the layout.

    Companions may come from different places: beside the weight file, a hub snapshot, the package itself.
    `source` says in words where the weights come from.
    """

    name: str
    weights: Path
    companions: Mapping[str, Path] = field(default_factory=dict)
    source: str = DEMO

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

    def instruction(self) -> Instruction:
        """What stands around a prompt. Raises `TgoError` if it is missing, or the reward reads none."""
        official = LAYOUTS[self.name].instruction
        if official is None:
            raise TgoError(f"reward {self.name} reads no instruction.")
        return read_instruction(self.name, self.companions, official)

    def weight_files(self) -> list[Path]:
        """Every file that holds weights: the reward's own, and those of a tower beside it; shards one by one."""
        layout = LAYOUTS[self.name]
        if not layout.weights:
            return []
        towers = [path for name, path in self.companions.items() if _is_weights(layout, name)]
        return [file for path in (self.weights, *towers) for file in weight_files.shards(path)]


def locate(name: str, source: str | None = None) -> Files:
    """Find the files of reward `name` in `source`, or those of the official release; downloads what only the hub has.

    Raises `TgoError` for an unknown reward, files that are missing (with what belongs where), official files whose
    content is not what was released, and files that are not weights.
    """
    name = canonical(name)
    layout = _layout(name)
    if layout.described:
        return Files(name, Path(source or ""), source=source or "")
    if not layout.weights:
        if source not in (DEMO, None):
            raise TgoError(f"reward {name} has no weights: its source must be `demo`, not {source!r}.")
        return Files(name, Path())
    if source is None:
        files = _official(name, layout)
    elif place := hub_place(name, source):
        files = _from_hub(name, layout, place)
    else:
        files = _local(name, layout, source)
    if tower := _missing_tower(layout, files):
        paths = hub.fetch_all(name, tower, f"put it where {files.weights.name} is")
        files = replace(files, companions={**files.companions, **paths})
    companions = {**layout.packaged, **files.companions}
    files = replace(files, companions=companions, source=source or f"official, {files.source}")
    if layout.instruction is not None:
        files.instruction()  # before gigabytes are read
    return files


def fingerprint(name: str, source: str | None = None) -> str:
    """What the scores of a reward depend on besides the sample: the content of its files, and its code's version."""
    name = canonical(name)
    return fingerprint_of(reward=name, version=_layout(name).version, contents=contents(name, source))


def contents(name: str, source: str | None = None) -> dict[str, str]:
    """What the files of a reward hold, by file. Nothing is downloaded: for files at a pinned place of the hub the place
    stands for the content.
    """
    layout = _layout(name)
    if layout.weights and source is None:
        _require_official(name, layout)
        return {file: official.identity for file, official in layout.official.items()}
    if source is not None and (place := hub_place(name, source)):
        return {"hub": str(place)}
    if layout.weights and source is not None:
        return _contents(layout, _local(name, layout, source))
    return _contents(layout, locate(name, source))


def _contents(layout: Layout, files: Files) -> dict[str, str]:
    if layout.described:
        return {"source": source_fingerprint(files.source) or ""}
    if not layout.weights:
        return {}
    named = {files.weights.name: files.weights, **layout.packaged, **files.companions}
    tower = {file: official.identity for file, official in _missing_tower(layout, files).items()}
    shards = {f"{name}: {file.name}": file for name, path in named.items() for file in _shards_of(path)}
    return {**tower, **{file: cache.sha256(path) for file, path in (named | shards).items()}}


def _shards_of(path: Path) -> list[Path]:
    return weight_files.shards(path) if path.name.endswith(".json") and ".index." in path.name else []


def digest(weights: Path) -> str:
    """The sha256 of a weight file; of shards one of all of theirs."""
    shards = [cache.sha256(file) for file in _shards_of(weights)]
    return hashlib.sha256("".join(shards).encode()).hexdigest() if shards else cache.sha256(weights)


def local_weight_files(name: str, source: str) -> list[Path]:
    """The weight files of a reward in a local source; nothing is downloaded. Raises `TgoError` as `locate` does."""
    name = canonical(name)
    return _local(name, _layout(name), source).weight_files()


def _is_weights(layout: Layout, name: str) -> bool:
    """Whether a companion of a layout is a weight file that may be in shards."""
    return name in (*layout.tower, *layout.adapted) and name.endswith(".safetensors")


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise TgoError(f"reward {name} is not one of this package's: it has no files that could be found.")
    return LAYOUTS[name]


def _require_official(name: str, layout: Layout) -> None:
    if not layout.official:
        raise TgoError(
            f"reward {name} has no official files: its source is `demo`, or a folder with {layout}."
        )


def _official(name: str, layout: Layout) -> Files:
    _require_official(name, layout)
    paths = hub.fetch_all(name, layout.official, "give the folder as source")
    weights = next(file for file in layout.weights if file in paths)
    return Files(name, paths.pop(weights), paths, str(layout.official[weights].place))


def _from_hub(name: str, layout: Layout, place: Repository) -> Files:
    weights = _found_on_hub(place, layout.weights)
    if weights is None:
        raise TgoError(f"reward {name}: {place} holds no {' or '.join(layout.weights)}.")
    found = {
        file: _found_on_hub(place, [file]) if _is_weights(layout, file) else hub.find(place, file)
        for file in (*layout.required, *layout.optional)
    }
    companions = {file: path for file, path in found.items() if path is not None}
    return _complete(layout, Files(name, weights, companions), str(place))


def _found_on_hub(place: Repository, names: Iterable[str]) -> Path | None:
    """Weights of a repository in the first form that it has; of shards the index, the shards beside it."""
    for file, variant in weight_files.forms(names):
        if "*" in file or (path := hub.find(place, file)) is None:
            continue
        weight_files.say_variant(Path(str(place)), variant)
        folder = file.rpartition("/")[0]
        for shard in weight_files.named_shards(path):
            hub.find(place, f"{folder}/{shard}" if folder else shard)
        return path
    return None


def _local(name: str, layout: Layout, source: str) -> Files:
    path = _path(name, source)
    folder = path if path.is_dir() else path.parents[layout.weights[0].count("/")]
    weights = path if path.is_file() else _first(name, folder, layout)
    if source != DEMO:
        integrity.check_weights(name, weights, _known(layout), _others(name))
    adapted = layout.adapted if weights.name == ADAPTER else ()
    found = {
        file: _companion(layout, folder, weights, file)
        for file in (*layout.required, *layout.optional, *adapted)
    }
    companions = {file: path for file, path in found.items() if path is not None and path.is_file()}
    return _complete(layout, Files(name, weights, companions), str(folder), adapted)


def _companion(layout: Layout, folder: Path, weights: Path, file: str) -> Path | None:
    if "*" in file:
        return weights.with_name(Path(file).name)
    return _found(folder, [file]) if _is_weights(layout, file) else folder / file


def _found(folder: Path, names: Iterable[str]) -> Path | None:
    """Weights in a folder in the first form that it has; of shards the index."""
    found = [
        (number, path, variant)
        for file, variant in weight_files.forms(names)
        for number, path in _numbered(folder, file)
    ]
    if not found:
        return None
    _, path, variant = max(found, key=itemgetter(0))  # of equal numbers the first
    weight_files.say_variant(folder, variant)
    return path


def _numbered(folder: Path, file: str) -> Iterator[tuple[int, Path]]:
    """A file of a folder; where its name has a `*`, those with a number there, and the number."""
    if "*" not in file and (folder / file).is_file():
        yield -1, folder / file
    before, star, after = file.partition("*")
    for path in folder.glob(file) if star else ():
        number = path.relative_to(folder).as_posix().removeprefix(before).removesuffix(after)
        if number.isdecimal():
            yield int(number), path


def _complete(layout: Layout, files: Files, place: str, adapted: Sequence[str] = ()) -> Files:
    """The files, if none that the reward requires is missing there. A tower may be missing as a whole."""
    elsewhere, wanted = _missing_tower(layout, files), (*layout.required, *adapted)
    missing = [file for file in wanted if file not in files.companions and file not in elsewhere]
    if missing:
        raise TgoError(
            f"reward {files.name}: {place} lacks {', '.join(missing)}. Files that belong there: {layout}."
        )
    return files


def _missing_tower(layout: Layout, files: Files) -> dict[str, Official]:
    """The official files of another model's tower, if no part of it is there."""
    if any(file in files.companions for file in layout.tower):
        return {}
    return {file: layout.official[file] for file in layout.tower}


def hub_place(name: str, source: str) -> Repository | None:
    """The hub repository `org/name@revision` that a source names, None for anything else.

    Raises `TgoError` for a revision that moves.
    """
    match = _HUB.fullmatch(source)
    if match is None or Path(source).expanduser().exists():
        return None
    if match["revision"] in MOVING:
        raise TgoError(
            f"reward {name}: {source} may change at any time: pin a commit, {match['repo']}@COMMIT, so that the scores "
            "stay the same."
        )
    return Repository(match["repo"], match["revision"])


def _path(name: str, source: str) -> Path:
    if source == DEMO:
        if not LAYOUTS[name].demo:
            raise TgoError(
                f"reward {name} has no tiny weights in the small world: name a folder, or leave out `demo`."
            )
        from tgo_pipeline.demo import weights_path

        return weights_path(f"rewards/{LAYOUTS[name].demo}")
    path = local_path(source)
    if path.exists():
        return path
    raise TgoError(
        f"reward {name}: {source} does not exist. Name `demo`, a folder with {LAYOUTS[name]}, the weight file in it, "
        "or a hub repository with its revision, as org/name@COMMIT."
    )


def _first(name: str, folder: Path, layout: Layout) -> Path:
    if path := _found(folder, layout.weights):
        return path
    raise TgoError(
        f"reward {name}: {folder} holds no weights, {' or '.join(layout.weights)}. Files that belong there: {layout}."
    )


def _known(layout: Layout) -> dict[str, Official]:
    """The official weight files that a local file of the same name must not differ from."""
    weights = {Path(file).name: known for file, known in layout.official.items() if file in layout.weights}
    return weights | {**layout.recorded}


def _others(name: str) -> dict[str, str]:
    """Official weight files of other rewards whose names no other reward uses: file to reward."""
    uses = Counter(file for layout in LAYOUTS.values() for file in layout.weights)
    return {
        file: other
        for other, layout in LAYOUTS.items()
        for file in _known(layout)
        if other != name and uses[file] == 1
    }
