"""Columns of feedback next to the reward columns: which sample of the generations has which score."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tgo_pipeline.datasets.sources import identity
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback import ratings_file
from tgo_pipeline.feedback.scores import ImageScores, image_scores
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of

log = logging.getLogger("tgo")
VERSION = 1
KEYS = ("sample_id", "image_uid")
EXAMPLES = 3
"""How many names of either side a refusal shows."""


def fingerprint(params: FeedbackParams) -> str:
    """What a column depends on besides the samples. Reads no row; raises `TgoError` if the source does not exist."""
    ratings_file.require_there(params.source)
    return fingerprint_of(version=VERSION, source=identity(params.source), settings=params.settings)


def description(params: FeedbackParams) -> dict[str, Any]:
    """What the scores of a column are, under the keys that rewards have for it; an open scale is left out."""
    ends = {"from": params.low, "to": params.high}
    scale = " ".join(f"{word} {end:g}" for word, end in ends.items() if end is not None)
    return {
        "reward": f"feedback ({params.kind})",
        "source": params.source,
        **({"scale": scale} if scale else {}),
        **params.settings,
        "fingerprint": fingerprint(params),
    }


@dataclass(frozen=True)
class FeedbackColumns:
    """The scores of the samples by file and column, float32 (N,), NaN without feedback; and what was counted."""

    scores: Mapping[str, Mapping[str, np.ndarray]]
    counts: Mapping[str, Mapping[str, int]]


def join(feedback: Mapping[str, FeedbackParams], files: Sequence[Path]) -> FeedbackColumns:
    """Read every source of `feedback` and give each sample of the generation shards `files` the score of its image.

    An image is found by `image_uid`, what its source calls it, or else by `sample_id`. Several samples of one image
    (the same image for several prompts) have its score each. Samples without feedback have none, images of the
    feedback that are not samples are counted. Raises `TgoError` if not a single image is found.
    """
    samples = pl.concat([_keys(file) for file in files])
    scores: dict[str, dict[str, np.ndarray]] = {file.name: {} for file in files}
    counts = {}
    for name, params in feedback.items():
        found = image_scores(params)
        values, used = _match(samples, found)
        counts[name] = {**found.counts, "images_not_generated": len(found.images) - used}
        if not used:
            raise _nothing_found(name, params, found, samples)
        _report(name, params, counts[name], values)
        for (file,), part in samples.with_columns(value=values).group_by("file", maintain_order=True):
            scores[str(file)][name] = part["value"].to_numpy()
    return FeedbackColumns(scores, counts)


def _keys(file: Path) -> pl.DataFrame:
    """File name, `sample_id` and `image_uid` of a shard; other tools' shards may have no `image_uid`."""
    from tgo_pipeline.storage.tables import read_schema, read_table

    there = [name for name in KEYS if name in read_schema(file).names]
    frame = pl.DataFrame(read_table(file, columns=there)).select(pl.col(there).cast(pl.String))
    if "image_uid" not in there:
        frame = frame.with_columns(pl.lit(None, pl.String).alias("image_uid"))
    return frame.with_columns(pl.col("image_uid").str.normalize("NFC"), pl.lit(file.name).alias("file"))


def _match(samples: pl.DataFrame, found: ImageScores) -> tuple[pl.Series, int]:
    """The score of each sample (float32, NaN for none), and how many images of the feedback are a sample."""
    table = pl.DataFrame({"image": found.images, "score": found.scores}).with_row_index("place")
    joined = samples.select(KEYS).join(
        table, left_on="image_uid", right_on="image", how="left", maintain_order="left"
    )
    joined = joined.join(
        table, left_on="sample_id", right_on="image", how="left", maintain_order="left", suffix="_id"
    )
    score, place = (pl.coalesce(name, f"{name}_id").alias(name) for name in ("score", "place"))
    chosen = joined.select(score.cast(pl.Float32).fill_null(np.nan), place)
    return chosen["score"], chosen["place"].drop_nulls().n_unique()


def _nothing_found(name: str, params: FeedbackParams, found: ImageScores, samples: pl.DataFrame) -> TgoError:
    uids = samples["image_uid"].drop_nulls().head(EXAMPLES).to_list()
    theirs, ours = found.images.head(EXAMPLES).to_list(), samples["sample_id"].head(EXAMPLES).to_list()
    called = f"their source calls {_list(uids)}" if uids else "have no name of a source"
    return TgoError(
        f"score.feedback.{name}: not one of the {len(found.images)} images of {params.source} is among the "
        f"generations. The feedback names {_list(theirs)}; the generations {called}, with the sample_id {_list(ours)}. "
        "Feedback finds an image by one of those two names: check which column holds it, and generate.images."
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _report(name: str, params: FeedbackParams, counts: Mapping[str, int], values: pl.Series) -> None:
    missing = int(values.is_nan().sum())
    log.info("%s: %s; %d of %d samples have none", name, _said(counts), missing, len(values))
    if counts["images_not_generated"]:
        log.warning(
            "%s: %d of %d images of %s are not among the generations",
            name,
            counts["images_not_generated"],
            counts["images"],
            params.source,
        )


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in counts.items() if count)
