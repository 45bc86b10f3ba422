"""Which prompt or group every sample belongs to, as whole numbers that two sets of samples share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.baselines import NOWHERE

if TYPE_CHECKING:
    import polars as pl

    from tgo_pipeline.params import ThresholdParams
    from tgo_pipeline.storage.workspace import Workspace


@dataclass(frozen=True)
class Members:
    """The names that samples belong to, and their numbers (N,), `NOWHERE` for none; one array per set of samples."""

    level: str
    """prompt, source, category or model."""
    names: pl.Series
    numbers: list[np.ndarray]


def members(frames: Sequence[pl.DataFrame], params: ThresholdParams, workspace: Workspace) -> Members:
    """Number the prompts, or with `baseline: group` the groups, of frames with `sample_id` and `prompt_id`.

    Raises `TgoError` if no sample of one of them belongs to a group.
    """
    import polars as pl

    if params.group is None:
        level, columns = "prompt", [frame["prompt_id"] for frame in frames]
    else:
        level, columns = params.group, [_groups(frame, params.group, workspace) for frame in frames]
    whole = pl.concat(columns)
    ranks = (whole.rank("dense").cast(pl.Int64) - 1).fill_null(NOWHERE).to_numpy()
    names = whole.drop_nulls().unique().sort()
    edges = np.cumsum([len(column) for column in columns])[:-1]
    return Members(level, names, np.split(ranks, edges))


def _groups(frame: pl.DataFrame, group: str, workspace: Workspace) -> pl.Series:
    key = "sample_id" if group == "model" else "prompt_id"
    known = _models(workspace.generations) if group == "model" else _prompts(workspace.prompts, group)
    found = frame.select(key).join(known, on=key, how="left", maintain_order="left")[group]
    if found.null_count() == len(found):
        where = workspace.generations if group == "model" else workspace.prompts
        raise TgoError(
            f"threshold.group is {group}, but {where} names the {group} of none of the {len(found)} samples: choose "
            "another group, or baseline: global."
        )
    return found


def _prompts(path: Path, group: str) -> pl.DataFrame:
    import polars as pl

    from tgo_pipeline.storage.tables import PROMPTS, read_table

    table = pl.DataFrame(read_table(path, PROMPTS, ["prompt_id", group]).select(["prompt_id", group]))
    return table.unique("prompt_id", keep="first", maintain_order=True)


def _models(folder: Path) -> pl.DataFrame:
    from tgo_pipeline.storage.tables import read_folder

    return read_folder(folder, ["sample_id", "model"]).unique("sample_id", keep="first", maintain_order=True)


def groups_fingerprint(params: ThresholdParams, prompts: Path) -> str | None:
    """What the groups depend on; None where there are none. Scores follow their generations already."""
    from tgo_pipeline.storage.fingerprints import content_fingerprint
    from tgo_pipeline.storage.tables import read_metadata

    if params.group not in ("source", "category"):
        return None
    if not prompts.is_file():
        raise TgoError(f"{prompts} does not exist: run the prompts stage first.")
    return read_metadata(prompts).get("fingerprint") or content_fingerprint(prompts)
