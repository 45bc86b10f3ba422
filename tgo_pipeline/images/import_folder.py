"""Take images that already exist into generation shards, byte for byte: `generate.images`."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tgo_pipeline import images
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import read_bytes
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.formats.remote import Remote
from tgo_pipeline.formats.video_files import UnreadableVideo, preview, read_frames, require_av
from tgo_pipeline.images.base import ImageSource, Row, are_clips, listing, printable, states
from tgo_pipeline.images.columns import PROMPT_ADVICE, Columns
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.prompts.normalise import normalise, prompt_id
from tgo_pipeline.reading.parquet import ROWS_AT_ONCE
from tgo_pipeline.storage.chunks import chunks
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Shard, Status, Stop, run_shards
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("tgo")
VERSION = 2
MODEL = "images"
"""What the column `model` says of an image whose generator is not known."""
Described = Callable[["bytes | None", "str | None", str], dict[str, Any]]
NO_PROMPT, TEST_PROMPT = "they have no prompt", "their prompt is a test prompt"


class Item(NamedTuple):
    """One image (or clip) that is taken: where it is, its normalised prompt, and how many of that came before."""

    source: ImageSource
    row: Row
    prompt_id: str
    index: int

    @property
    def sample_id(self) -> str:
        """The prompt's id and the image's number among its images."""
        return f"{self.prompt_id}-{self.index:04d}"

    @property
    def prompt(self) -> str:
        """The prompt; empty for an image without one."""
        return self.row.prompt or ""


class Listing(NamedTuple):
    """The images that are taken, and those that were not, by reason."""

    items: list[Item]
    left_out: dict[str, LeftOut]


@dataclass
class LeftOut:
    """How many images were left out for one reason, and the name of the first."""

    first: str
    count: int = 0


def open_images(params: GenerateParams) -> list[ImageSource]:
    """What `generate.images` names. Raises `TgoError` if it cannot be read."""
    image = None if params.image_column == "image" else params.image_column
    prompt = None if params.prompt_column == "prompt" else params.prompt_column
    return images.open([params.images or ""], Columns(image, prompt, importing=True))


def plan(*, params: GenerateParams, split: str, excluded: Collection[str]) -> list[Shard]:
    """The shards that `import_folder` writes for the same arguments; reads prompts and file dates, no image."""
    return _plan(_list(params, excluded), split, params)


def import_folder(folder: Path, *, params: GenerateParams, split: str, excluded: Collection[str]) -> Status:
    """Write the images of `params.images` into shards of `tables.GENERATIONS`, in the order of their source.

    An image's prompt id is that of its normalised prompt, so images meet the rows of the prompts table by text; its
    index counts the images of that prompt. `image_uid` is what the source calls it (a table of files: `file_name`),
    else the sample id; rows of one uid and prompt are one image. Images of `excluded` prompt ids (the test prompts) and
    without a prompt are left out and counted; at most `params.limit` are taken. An image whose header cannot be read
    keeps its row with null width and height; a missing file has a null image too. A shard is stale when a source file
    has another size or date of change, or a data set another revision. A shard's images are in memory, no more.
    Clips go into shards of `tables.VIDEO_GENERATIONS`: their files as they are, and previews that are made here.
    Raises `TgoError` if the source is missing, has no such column, or has no image to take.
    """
    listing = _list(params, excluded)
    for reason, some in listing.left_out.items():
        log.warning(
            "%s: %d images are left out: %s; the first is %s", params.images, some.count, reason, some.first
        )
    parts = chunks(listing.items, params.shard_size)

    if of_clips := listing.items[0].source.clips:
        require_av()

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for shard in waiting:
            _write(folder / shard.name, shard, parts[shard.index], of_clips)
            stop.check()

    return run_shards(folder, _plan(listing, split, params), work)


def _list(params: GenerateParams, excluded: Collection[str]) -> Listing:
    left_out: dict[str, LeftOut] = {}
    sources = open_images(params)
    are_clips(sources)
    items = list(itertools.islice(_taken(sources, excluded, left_out), params.limit))
    if not items:
        reasons = "".join(f"; {some.count} left out, {reason}" for reason, some in left_out.items())
        advice = f": {PROMPT_ADVICE}" if NO_PROMPT in left_out else ""
        raise TgoError(f"{params.images} has no image to take{reasons}{advice}.")
    return Listing(items, left_out)


def _taken(
    sources: Sequence[ImageSource], excluded: Collection[str], left_out: dict[str, LeftOut]
) -> Iterator[Item]:
    from tgo_pipeline.reading.deduplicate import Seen

    seen = Seen()
    count: Counter[str] = Counter()
    prompts: dict[str, str] = {}
    for source, row in listing(sources):
        prompt = normalise(row.prompt or "")
        key = prompt_id(prompt)
        if row.uid is not None and not seen.add(row.uid, prompt):
            continue
        if prompt and key not in excluded:
            yield Item(source, row._replace(prompt=prompts.setdefault(key, prompt)), key, count[key])
            count[key] += 1
        else:
            reason = TEST_PROMPT if prompt else NO_PROMPT
            left_out.setdefault(reason, LeftOut(row.image)).count += 1


def _plan(listing: Listing, split: str, params: GenerateParams) -> list[Shard]:
    parts = chunks(listing.items, params.shard_size)
    # earlier versions took clips as they lie in their file, on their side where a phone was held upright
    turned: dict[str, Any] = {"turned": True} if listing.items[0].source.clips else {}
    return [
        Shard(
            split,
            index,
            len(parts),
            fingerprint(version=VERSION, column=params.image_column, rows=rows, **turned),
        )
        for index, part in enumerate(parts)
        for rows in [_described(part)]
    ]


def _described(part: Sequence[Item]) -> list[Any]:
    dated = states((item.source, item.row) for item in part)
    return [
        (item.sample_id, item.prompt, item.row.uid, item.row.model, state)
        for item, state in zip(part, dated, strict=True)
    ]


def _write(path: Path, shard: Shard, items: Sequence[Item], of_clips: bool) -> None:
    import pyarrow as pa

    from tgo_pipeline.storage.tables import write_table

    with atomic(path) as temporary:
        table = pa.Table.from_batches(_batches(items, of_clips))
        failed = table["width"].null_count
        write_table(table, temporary, shard.mark.entries() | {"failed": failed})
    what = "clips" if of_clips else "images"
    log.info("%s: %d %s", shard.name, len(items), what)
    if failed:
        first = table["sample_id"].filter(table["width"].is_null())[0]
        log.warning("%s: %d %s cannot be read, the first is %s", shard.name, failed, what, first)


def _batches(items: Sequence[Item], of_clips: bool) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    from tgo_pipeline.storage.tables import generations_schema

    schema = generations_schema("video" if of_clips else "image")
    rows = (_record(item, _clip if of_clips else _picture) for item in items)
    while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
        yield pa.RecordBatch.from_pylist(some, schema=schema)


def _record(item: Item, described: Described) -> dict[str, Any]:
    data, path = _image(item)
    return {
        **described(data, path, item.sample_id),
        "sample_id": item.sample_id,
        "prompt_id": item.prompt_id,
        "prompt": item.prompt,
        "model": item.row.model or MODEL,
        "index": item.index,
        "image_uid": item.row.uid or item.sample_id,
    }


def _picture(data: bytes | None, path: str | None, _: str) -> dict[str, Any]:
    """What a table has of an image."""
    width, height = _size(data) if data is not None else (None, None)
    return {
        "image": None if data is None else {"bytes": data, "path": path},
        "width": width,
        "height": height,
    }


def _clip(data: bytes | None, path: str | None, name: str) -> dict[str, Any]:
    """What a table has of a clip: its file as it is, a preview, and how long it is; of an unreadable one the file."""
    found: dict[str, Any] = {"video": None if data is None else {"bytes": data, "path": path}}
    try:
        frames, fps = read_frames(data)
    except UnreadableVideo:
        return found
    small = preview(frames, fps)
    return found | {
        "preview": small and {"bytes": small, "path": f"{name}-preview.mp4"},
        "frames": len(frames),
        "fps": fps,
        "width": frames.shape[2],
        "height": frames.shape[1],
    }


def _image(item: Item) -> tuple[bytes | None, str | None]:
    """The stored bytes of an image and the name beside them; no bytes if its file is missing."""
    row = next(item.source.rows(item.row.place, item.row.place + 1), None)
    if row is None or (row.image, row.uid) != (item.row.image, item.row.uid):
        raise TgoError(
            f"the image {item.row.image!r} is not where it was listed any more: its source has changed meanwhile; run "
            "again."
        )
    if isinstance(row.content, StoredValue):
        return row.content.read(), row.path
    if isinstance(row.content, Remote):
        try:
            return row.content.read(), row.content.url
        except OSError as error:
            log.warning("%s: %s", row.content.url, error.strerror)
            return None, None
    if not isinstance(row.content, Path):
        return row.content, row.path
    try:
        return read_bytes(row.content, IMAGES.file_bytes), row.content.name
    except (OSError, ValueError) as error:  # a path with a NUL is no path
        log.warning("%s: %s", printable(str(row.content)), getattr(error, "strerror", None) or error)
        return None, row.content.name


def _size(data: bytes) -> tuple[int, int] | tuple[None, None]:
    """Width and height in pixels as rewards and training see the image, by its header."""
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, header_size

    try:
        return header_size(data)
    except UnreadableImage:
        return None, None
