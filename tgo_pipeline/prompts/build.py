"""Read every prompt source, remove what is empty or repeated, split into train and test, and measure the overlap."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import PromptsParams
from tgo_pipeline.prompts import sources
from tgo_pipeline.prompts.normalise import normalise, prompt_id, set_hash
from tgo_pipeline.prompts.overlap import near_duplicates
from tgo_pipeline.seeds import SEEDS, derive_seed
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("tgo")
VERSION = 3
HELD_OUT = "held_out"
"""The name of the test set that `test_fraction` takes from the train source."""
EXAMPLES = 10
"""Near duplicates that the log shows: enough to see what kind they are."""
Texts = dict[str, sources.Prompt]
"""Prompt id to normalised prompt, in the order of the source."""


@dataclass(frozen=True)
class Prompts:
    """The prompts (schema `tables.PROMPTS`), and what was counted on the way (`metrics/prompts.json`)."""

    table: pa.Table
    metrics: dict[str, Any]


def build(params: PromptsParams, seed: int) -> Prompts:
    """Read, normalise, deduplicate and split the prompts.

    A prompt of a test set is removed from train and from later test sets, so that every prompt is there once. `limit`
    (train prompts, before `test_fraction` splits them) and `test_fraction` choose by a hash of (seed, prompt): a
    prompt stays where it is when others come or go. Near duplicates between train and test are counted, not removed.
    Every set is counted, with a `hash` of the prompts that it holds in the end.
    Raises `TgoError` if a source cannot be read, or if no prompt is left for a split.
    """
    tests: dict[str, Texts] = {}
    counts: dict[str, dict[str, int]] = {}
    for name, source in params.test.items():
        earlier = {key for texts in tests.values() for key in texts}
        tests[name], counts[name] = _read(source, params.column, earlier, "in_earlier_test_set")
    taken = {key for texts in tests.values() for key in texts}
    train, train_counts = _read(params.train, params.column, taken, "in_test")
    limited = _limit(train, params.limit, seed)
    train_counts["beyond_limit"] = len(train) - len(limited)
    train = limited
    if params.test_fraction:
        train, tests[HELD_OUT] = _split(train, params.test_fraction, seed)
        counts[HELD_OUT] = {}
    for name, texts in {"the train split": train, **tests}.items():
        if not texts:
            account = _account(counts.get(name) or train_counts)
            raise TgoError(f"no prompt is left for {name} ({account}): give more or other prompts.")
    metrics = {
        "train": train_counts | _kept(train),
        "test": {name: counts[name] | _kept(texts) for name, texts in tests.items()},
        "near_duplicates": _near_duplicates(train, tests, params.near_duplicate),
    }
    return Prompts(_table(train, tests), metrics)


def write(params: PromptsParams, seed: int, output: Path, metrics: Path) -> None:
    """Build the prompts and write the table to `output` and the counts to `metrics`. Raises what `build` raises."""
    from tgo_pipeline.storage.tables import write_table

    built = build(params, seed)
    mark = planned_fingerprint(params, seed)
    for split, sets in (("train", {"train": built.metrics["train"]}), ("test", built.metrics["test"])):
        for name, counts in sets.items():
            log.info("%s %s: %s", split, name, _account(counts))
    near = built.metrics["near_duplicates"]
    if near["train_prompts"]:
        log.warning("%d train prompts nearly repeat a test prompt: see %s", near["train_prompts"], metrics)
    with atomic(output) as temporary:
        write_table(built.table, temporary, {"fingerprint": mark, "test": built.metrics["test"]})
    with atomic(metrics) as temporary:
        temporary.write_text(json.dumps(built.metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def planned_fingerprint(params: PromptsParams, seed: int) -> str:
    """What the table depends on: parameters, seed and the content of the sources. Raises `TgoError` as they do."""
    content = {source: sources.identity(source) for source in (params.train, *params.test.values())}
    return fingerprint(version=VERSION, params=params, seed=seed, content=content)


def _read(source: str, column: str, taken: Collection[str], reason: str) -> tuple[Texts, dict[str, int]]:
    """A source's distinct prompts that are not `taken` (counted under `reason`)."""
    distinct: Texts = {}
    read = empty = first_empty = 0
    for raw in sources.prompts(source, column):
        read += 1
        text = normalise(raw.text)
        if text:
            key = prompt_id(text)
            distinct[key] = _merged(distinct.get(key), raw._replace(text=text))
        else:
            empty += 1
            first_empty = first_empty or read
    if empty and not source.lower().endswith(".txt"):  # where empty lines part the others
        log.warning(
            "%s: %d of %d rows have no prompt and are left out, the first is row %d",
            *(source, empty, read, first_empty),
        )
    if not distinct:
        raise TgoError(f"{source} holds no prompt: it is empty. Write one prompt a line or row.")
    kept = {key: prompt for key, prompt in distinct.items() if key not in taken}
    return kept, {
        "read": read,
        "empty": empty,
        "duplicates": read - empty - len(distinct),
        reason: len(distinct) - len(kept),
    }


def _merged(first: sources.Prompt | None, again: sources.Prompt) -> sources.Prompt:
    """A repeated prompt has the first category and the first challenge that one of its rows names."""
    if first is None:
        return again
    return first._replace(
        category=first.category or again.category, challenge=first.challenge or again.challenge
    )


def _kept(texts: Texts) -> dict[str, int | str]:
    """How many prompts a set has in the end, and which they are."""
    return {"kept": len(texts), "hash": set_hash(texts)}


def _limit(texts: Texts, limit: int | None, seed: int) -> Texts:
    if limit is None or len(texts) <= limit:
        return texts
    chosen = set(sorted(texts, key=lambda key: derive_seed(seed, key, "limit"))[:limit])
    return {key: text for key, text in texts.items() if key in chosen}


def _split(texts: Texts, test_fraction: float, seed: int) -> tuple[Texts, Texts]:
    """Each prompt goes to test with probability `test_fraction`, independently of the others."""
    test = {key for key in texts if derive_seed(seed, key, "split") < test_fraction * SEEDS}
    return (
        {key: text for key, text in texts.items() if key not in test},
        {key: text for key, text in texts.items() if key in test},
    )


def _near_duplicates(train: Texts, tests: Mapping[str, Texts], threshold: float) -> dict[str, Any]:
    left = [prompt.text for prompt in train.values()]
    right = [(prompt.text, name) for name, texts in tests.items() for prompt in texts.values()]
    matches = near_duplicates(left, [text for text, _ in right], threshold)
    examples = [
        {
            "similarity": round(match.similarity, 3),
            "train": left[match.left_index],
            "test": right[match.right_index][0],
            "test_set": right[match.right_index][1],
        }
        for match in sorted(matches, key=lambda match: (-match.similarity, match.left_index))[:EXAMPLES]
    ]
    return {"threshold": threshold, "train_prompts": len(matches), "examples": examples}


def _table(train: Texts, tests: Mapping[str, Texts]) -> pa.Table:
    import pyarrow as pa

    from tgo_pipeline.storage.tables import PROMPTS

    rows = [
        {
            "prompt_id": key,
            "prompt": prompt.text,
            "split": split,
            "source": name,
            "category": prompt.category,
            "challenge": prompt.challenge,
        }
        for split, sets in (("train", {"train": train}), ("test", tests))
        for name, texts in sets.items()
        for key, prompt in texts.items()
    ]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


def _account(counts: Mapping[str, int | str]) -> str:
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if name != "hash")
