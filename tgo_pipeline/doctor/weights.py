"""Whether the weight files of a pipeline folder are complete, and fit their configurations, by their headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tgo_pipeline.doctor.findings import Finding, fail, ok
from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.generators.location import INDEX, check_index, components, read_index
from tgo_pipeline.hub import weight_files
from tgo_pipeline.hub.json_files import read_json

PLAIN = ("Scheduler", "Tokenizer", "Processor", "FeatureExtractor")
"""Parts without weights, by what their class is called."""


def networks(folder: Path) -> list[str]:
    """The parts of a pipeline that have weights, by its index; without the safety checker."""
    parts = components(read_index(folder))
    return [
        name
        for name, kind in parts.items()
        if name != "safety_checker" and not any(word in kind for word in PLAIN)
    ]


def numbers(folder: Path) -> int:
    """How many numbers the network in `folder` has; of a pickle at most one per two bytes.

    Raises `TgoError` for what is missing or broken: configuration, weights, a shard, a tensor that the index names.
    """
    read_json(folder / "config.json")
    return weight_files.count(weight_files.find(folder).files)


def pipeline(subject: str, folder: Path) -> Iterator[Finding]:
    """Whether every network of a pipeline folder is whole and fits its configuration; one line if all are."""
    from tgo_pipeline.generators.networks.parts import check_network, network_classes

    index = read_index(folder)
    check_index(index, f"{folder / INDEX}")
    kinds = network_classes(index)
    counts: dict[str, int] = {}
    broken = []
    for name in networks(folder):
        try:
            counts[name] = numbers(folder / name)
            if name in kinds:
                check_network(folder / name, kinds[name])
        except TgoError as error:
            broken.append(fail(f"{subject}, {name}", str(error)))
    if not broken:
        broken += [
            fail(f"{subject}, {name}", reason) for name, reason in _misread(folder, components(index), kinds)
        ]
    yield from broken
    if not broken:
        parts = ", ".join(f"{name} {_short(number)}" for name, number in counts.items())
        yield ok(subject, f"{folder}: {parts}.")


def _misread(folder: Path, parts: Mapping[str, str], kinds: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The tokenizers whose words are not those of their text encoder, and why."""
    import transformers

    from tgo_pipeline.generators.networks.agreement import TOKENIZERS, misread

    for name, encoder in TOKENIZERS.items():
        kind = getattr(transformers, parts.get(name, ""), None)
        if kind is None or encoder not in kinds:
            continue
        try:
            tokenizer = _tokenizer(kind, folder / name)
        except TgoError as error:
            yield name, str(error)
            continue
        config = kinds[encoder].config_class.from_pretrained(folder / encoder)  # its network was built before
        yield from (
            (name, f"{folder / name}: {reason}.") for reason in misread(tokenizer, config.vocab_size, config)
        )


def _tokenizer(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder)
    except Exception as error:  # a damaged file makes the library fail anywhere
        raise TgoError(
            f"{folder} cannot be read as a tokenizer ({in_one_line(error)}): copy it again."
        ) from error


def _short(number: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"
