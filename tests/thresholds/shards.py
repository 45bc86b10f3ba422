"""Folders of score shards and parameters for the tests of thresholds and labels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tgo_pipeline.params import Params, parse
from tgo_pipeline.storage.tables import scores_schema, write_table
from tgo_pipeline.storage.workspace import Workspace


def flat(root: Path) -> Workspace:
    """A workspace whose places lie side by side in one folder."""
    tables = {name: root / f"{name}.parquet" for name in ("prompts", "thresholds", "baselines", "adequacy")}
    folders = {name: root / name for name in ("generations", "scores", "labels")}
    return Workspace(root).moved(**tables, **folders, metrics=root)


def score_table(
    rewards: Mapping[str, Sequence[float | None] | np.ndarray], per_prompt: int = 1, first: int = 0
) -> pa.Table:
    """A scores table with `per_prompt` samples a prompt; None is null, NaN stays NaN."""
    count = len(next(iter(rewards.values())))
    prompts = [f"prompt{(first + i) // per_prompt:06d}" for i in range(count)]
    columns = [pa.array(values, pa.float32(), from_pandas=False) for values in rewards.values()]
    samples = [f"{prompt}-{(first + i) % per_prompt:04d}" for i, prompt in enumerate(prompts)]
    return pa.table(
        [samples, prompts, *columns, pa.nulls(count, pa.string())], schema=scores_schema(list(rewards))
    )


def score_frame(rewards: Mapping[str, Any], per_prompt: int = 1) -> pl.DataFrame:
    """The same as a polars frame."""
    return pl.DataFrame(score_table(rewards, per_prompt))


def write_scores(
    folder: Path, rewards: Mapping[str, Any], per_prompt: int = 1, shards: int = 2, fingerprint: str = "a"
) -> Path:
    """Write the table as `shards` shards; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(rewards.values())))
    edges = np.linspace(0, count, shards + 1).astype(int).tolist()
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        part = {name: values[low:high] for name, values in rewards.items()}
        name = f"train-{index:05d}-of-{shards:05d}.parquet"
        write_table(
            score_table(part, per_prompt, low), folder / name, {"fingerprint": f"{fingerprint}{index}"}
        )
    return folder


def params(rewards: Sequence[str], **sections: Any) -> Params:
    """Parameters that score `rewards`, with other sections as given."""
    raw = {"prompts": {"test": {"plain": "demo:plain"}}, "score": {"rewards": dict.fromkeys(rewards, "demo")}}
    return parse(Params, {**raw, **sections})
