"""The gallery: samples of a run as one island of JSON with thumbnails, as many as fit into the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tgo_pipeline.params import Params
from tgo_pipeline.rendering.text import decimals, script_json, visible
from tgo_pipeline.report.gallery.samples import DISAGREEMENT, TRAINING, Candidates, candidates, model_folders
from tgo_pipeline.report.gallery.selection import ranked_units
from tgo_pipeline.report.thumbnails import LARGEST_SIDE, Thumbnail, make_thumbnail, stream_images
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

SMALLEST_ENTRY = 300
"""Bytes that no sample with its image stays under: what cannot fit is not decoded in the first place."""
GONE = "its generation is missing"
Stream = Callable[[Sequence[int], Sequence[str]], Iterator[tuple[int, dict[str, Any]]]]
"""Reads columns of some rows of the candidates, each with its row, in any order."""


@dataclass(frozen=True)
class Gallery:
    """`island` is what the page's script reads; `total` samples could have been shown.

    `images` counts its images: `bytes_` long in all, with no side above `side` pixels.
    """

    island: dict[str, Any]
    shown: int
    total: int
    images: int
    bytes_: int
    side: int
    limited_by: str | None


@dataclass(frozen=True)
class GallerySample:
    """One sample of the gallery: its row among the candidates, and what its generation says."""

    row: int
    prompt: str
    seed: int | None
    thumbnail: Thumbnail


class Exhibition:
    """Everything a gallery could show; `hang` makes the images of what fits into a number of bytes."""

    def __init__(
        self,
        found: Candidates,
        units: Sequence[Sequence[int]],
        stream: Stream,
        target: str = "",
        side: int | None = None,
    ) -> None:
        """`stream` reads columns of rows of the candidates: `prompt`, `seed`, and `image` as bytes or a clip."""
        self._found, self._target, self._side, self._stream = found, target, side, stream
        self._units = [list(unit) for unit in units]
        self._entries = self._texts([row for unit in self._units for row in unit])

    def hang(self, budget: int) -> Gallery:
        """The gallery whose island takes `budget` bytes at most: units by their priority until it is full.

        Its images are as large as an equal share of the bytes allows, unless `report.thumbnail` gives their side.
        """
        kept = _while_they_fit([SMALLEST_ENTRY * len(unit) for unit in self._units], budget)
        entries = self._with_images(self._rows(kept), budget)
        kept = _while_they_fit(
            [sum(len(entries[row].thumbnail.source or "") for row in unit) for unit in self._units[:kept]],
            budget,
        )
        while True:
            shown = [entries[row] for row in self._rows(kept)]
            gallery = self._gallery(shown, whole=kept == len(self._units))
            size = len(script_json(gallery.island))
            if size <= budget or not kept:
                return gallery
            kept = min(kept - 1, int(kept * budget / size))

    def _rows(self, kept: int) -> list[int]:
        """The rows of the first `kept` units in the order of the run."""
        return sorted(row for unit in self._units[:kept] for row in unit)

    def _texts(self, rows: Sequence[int]) -> dict[int, GallerySample]:
        """The entries of some rows of the candidates, without their images."""
        entries = {row: GallerySample(row, f"({GONE})", None, Thumbnail(None, reason=GONE)) for row in rows}
        for row, found in self._stream(rows, ["prompt", "seed"]):
            entries[row] = replace(entries[row], prompt=visible(found["prompt"]), seed=found["seed"])
        return entries

    def _with_images(self, rows: Sequence[int], budget: int) -> dict[int, GallerySample]:
        """The entries of some rows with their images; originals are let go one by one."""
        entries = {row: self._entries[row] for row in rows}
        share = None
        if self._side is None and rows:
            texts = len(script_json(_island(self._found, list(entries.values()), self._target)))
            share = max(0, budget - texts) // len(rows)
        for row, found in self._stream(rows, ["image"]):
            thumbnail = make_thumbnail(found["image"], self._side or LARGEST_SIDE, share)
            entries[row] = replace(entries[row], thumbnail=thumbnail)
        return entries

    def _gallery(self, shown: Sequence[GallerySample], whole: bool) -> Gallery:
        sources = [entry.thumbnail.source for entry in shown if entry.thumbnail.source]
        limit = "max_mb" if not whole else "gallery" if len(shown) < self._found.total else None
        return Gallery(
            island=_island(self._found, shown, self._target),
            shown=len(shown),
            total=self._found.total,
            images=len(sources),
            bytes_=sum(len(source) for source in sources),
            side=max((entry.thumbnail.side for entry in shown), default=0),
            limited_by=limit,
        )


def prepare(params: Params, workspace: Workspace) -> Exhibition | None:
    """Choose the samples that a gallery of `report.gallery` would show.

    None if nothing has been scored or drawn, or if the gallery is switched off. Raises `TgoError` for a wrong schema.
    """
    report = params.report
    if not report.gallery or not parquet_files(workspace.generations):
        return None
    found = candidates(params, workspace)
    if found is None or not found.rewards:
        return None
    folders = {"": workspace.generations, **model_folders(params, workspace)}

    def stream(rows: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Some columns of what was generated, a model after the other."""
        places: dict[str, dict[str, int]] = {}
        named = found.frame[rows].select("model", "sample_id").iter_rows()
        for row, (model, sample_id) in zip(rows, named, strict=True):
            places.setdefault(model, {})[sample_id] = row
        for model, wanted in places.items():
            for record in stream_images(folders[model], wanted, columns):
                yield wanted[record["sample_id"]], record

    units = first_units(found, report.gallery)
    return Exhibition(found, units, stream, params.shown_names(params.target.reward), report.thumbnail)


def first_units(found: Candidates, most: int) -> list[list[int]]:
    """The units of candidates that are most worth showing, of `most` samples together."""
    units, taken = [], 0
    for unit in ranked_units(found.frame, found.rewards[0]):
        if taken + len(unit) > most:
            break
        units.append(unit)
        taken += len(unit)
    return units


def _while_they_fit(sizes: Iterable[int], budget: int) -> int:
    spent = kept = 0
    for size in sizes:
        spent += size
        if spent > budget:
            break
        kept += 1
    return kept


def _island(found: Candidates, entries: Sequence[GallerySample], target: str) -> dict[str, Any]:
    """Columns, one value a sample; texts that repeat stand once, in a list of their own, and are named by place."""
    import polars as pl

    frame = found.frame[[entry.row for entry in entries]]
    digits = {name: decimals(_spread(found.frame[name])) for name in found.rewards}
    errors = _Names()
    reasons = [
        error or entry.thumbnail.reason or None for error, entry in zip(frame["error"], entries, strict=True)
    ]
    splits, models, prompts = _Names(), _Names(), _Names()
    rounded = {name: frame[name].round(digits[name] + 1).to_list() for name in found.rewards}
    label, weight, relative = (
        frame[name].to_list() if name in frame.columns else [None] * frame.height
        for name in ("label", "weight", "relative_score")
    )
    return {
        "target": target,
        "training": TRAINING,
        "rewards": [{"name": name, "decimals": digits[name]} for name in found.rewards],
        "scores": [rounded[name] for name in found.rewards],
        "id": frame["sample_id"].to_list(),
        "split": splits.places(frame["split"]),
        "model": models.places(frame["model"]),
        "prompt": prompts.places(entry.prompt for entry in entries),
        "seed": [None if entry.seed is None else str(entry.seed) for entry in entries],
        "label": label,
        "weight": [_rounded(value, 3) for value in weight],
        "relative": [_rounded(value, 4) for value in relative],
        "disagreement": frame[DISAGREEMENT].cast(pl.Float64).round(3).to_list(),
        "error": errors.places(visible(reason, 300) if reason else None for reason in reasons),
        "width": [entry.thumbnail.width for entry in entries],
        "height": [entry.thumbnail.height for entry in entries],
        "image": [entry.thumbnail.source and entry.thumbnail.source.partition(",")[2] for entry in entries],
        "moving": [entry.thumbnail.moving for entry in entries],
        "splits": splits.names,
        "models": models.names,
        "prompts": prompts.names,
        "errors": errors.names,
    }


class _Names:
    """Texts in the order of their first appearance."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self._place)

    def places(self, texts: Iterable[str | None]) -> list[int | None]:
        """The place of each text among the names; None stays None."""
        return [None if text is None else self._place.setdefault(text, len(self._place)) for text in texts]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _spread(values: pl.Series) -> float | None:
    found = values.drop_nulls().std()
    return float(found) if isinstance(found, int | float) else None
