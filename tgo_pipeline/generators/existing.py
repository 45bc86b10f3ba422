"""Take images that already exist into generation shards, byte for byte.

They come from a folder of image files with a `metadata.csv`, `.jsonl` or `.parquet` (columns `file_name` and the
prompt), or from Parquet files with an image column, as Hugging Face data sets have them.
"""

from __future__ import annotations

import io
import itertools
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tgo_pipeline.errors import TgoError
from tgo_pipeline.fingerprints import fingerprint
from tgo_pipeline.generators.chunks import chunks
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.prompts.normalise import normalise, prompt_id
from tgo_pipeline.prompts.sources import read_columns
from tgo_pipeline.shards import Shard, Status, Stop, atomic, run_shards

log = logging.getLogger("tgo")
VERSION = 1
MODEL = "images"
"""What the column `model` says of an image that was not sampled here."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


class Item(NamedTuple):
    """One image: a file of its own (`row` is None), or a row of a Parquet file."""

    sample_id: str
    prompt_id: str
    prompt: str
    index: int
    file: Path
    row: int | None


class Listing(NamedTuple):
    """The images that are taken, and how many were left out, by reason."""

    items: list[Item]
    left_out: Counter[str]


class Picture(NamedTuple):
    """The stored bytes of an image and its name at the source; no bytes if the file is missing."""

    data: bytes | None
    name: str | None


def plan(*, params: GenerateParams, split: str, excluded: Collection[str]) -> list[Shard]:
    """The shards that `import_folder` writes for the same arguments; reads prompts and file dates, no image."""
    return _plan(_list(params, excluded), split, params)


def import_folder(folder: Path, *, params: GenerateParams, split: str, excluded: Collection[str]) -> Status:
    """Write the images of `params.images` into shards of `tables.GENERATIONS`, in the order of their source.

    An image's prompt id is that of its normalised prompt, so images meet the rows of the prompts table by text; its
    index counts the images of that prompt. Images of `excluded` prompt ids (the test prompts) and without a prompt are
    left out and counted. An image whose header cannot be read keeps its row with null width and height; a missing file
    has a null image too. A shard is stale when a source file has another size or date of change.
    Raises `TgoError` if the source is missing, has no such column, or has no image to take.
    """
    listing = _list(params, excluded)
    for reason, count in listing.left_out.items():
        log.warning("%s: %d images are left out: %s", params.images, count, reason)
    parts = chunks(listing.items, params.shard_size)

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for shard in waiting:
            _write(folder / shard.name, shard, parts[shard.index], params.image_column)
            stop.check()

    return run_shards(folder, _plan(listing, split, params), work)


def _list(params: GenerateParams, excluded: Collection[str]) -> Listing:
    source = Path(params.images or "").expanduser()
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for file, row, text in _entries(source, params):
        prompt = normalise(text or "")
        key = prompt_id(prompt)
        if not prompt:
            left_out["they have no prompt"] += 1
        elif key in excluded:
            left_out["their prompt is a test prompt"] += 1
        else:
            items.append(Item(f"{key}-{taken[key]:04d}", key, prompt, taken[key], file, row))
            taken[key] += 1
    if not items:
        reasons = "".join(f"; {count} left out, {reason}" for reason, count in left_out.items())
        raise TgoError(f"{source} has no image to take{reasons}.")
    return Listing(items, left_out)


def _entries(source: Path, params: GenerateParams) -> Iterator[tuple[Path, int | None, str | None]]:
    """File, row and raw prompt of every image."""
    metadata = next((source / name for name in METADATA if (source / name).is_file()), None)
    if metadata is not None:
        for name, text in read_columns(metadata, [FILE_NAME, params.prompt_column]):
            yield _inside(source, name, metadata), None, text
        return
    for file in _parquet_files(source):
        prompts = read_columns(file, [params.prompt_column])
        _check_image_column(file, params.image_column)
        for row, (text,) in enumerate(prompts):
            yield file, row, text


def _parquet_files(source: Path) -> list[Path]:
    if not source.exists():
        raise TgoError(f"generate.images is {source}, which does not exist (looked in {Path.cwd()}).")
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files or any(file.suffix != ".parquet" for file in files):
        raise TgoError(
            f"generate.images is {source}: it must be a folder with image files and one of {', '.join(METADATA)} "
            f"(columns {FILE_NAME} and the prompt), or Parquet with an image column (a Hugging Face data set is "
            "written so by `dataset.to_parquet`)."
        )
    return files


def _check_image_column(file: Path, column: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    if column not in schema.names:
        raise TgoError(f"{file} has no column {column!r}; its columns are: {', '.join(schema.names)}.")
    kind = schema.field(column).type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise TgoError(
            f"{file}: column {column!r} is {schema.field(column).type}, not an image: it must be binary, or a struct "
            "with the field `bytes`."
        )


def _inside(folder: Path, name: str | None, where: Path) -> Path:
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise TgoError(f"{where}: {FILE_NAME} {name!r} is no file inside {folder}.")
    return folder / name


def _plan(listing: Listing, split: str, params: GenerateParams) -> list[Shard]:
    parts = chunks(listing.items, params.shard_size)
    dates = {file: _date(file) for file in {item.file for item in listing.items}}
    return [
        Shard(split, index, len(parts), fingerprint(version=VERSION, column=params.image_column, rows=rows))
        for index, part in enumerate(parts)
        for rows in [[(item.sample_id, item.prompt, item.row, dates[item.file]) for item in part]]
    ]


def _date(file: Path) -> tuple[str, int, int] | None:
    """Name, size in bytes and date of change; None for a missing file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return file.name, stat.st_size, stat.st_mtime_ns


def _write(path: Path, shard: Shard, items: Sequence[Item], column: str) -> None:
    import pyarrow as pa

    from tgo_pipeline.tables import GENERATIONS, write_table

    records = [_record(item, picture) for item, picture in zip(items, _pictures(items, column), strict=True)]
    unreadable = [record["sample_id"] for record in records if record["width"] is None]
    with atomic(path) as temporary:
        table = pa.Table.from_pylist(records, schema=GENERATIONS)
        write_table(table, temporary, {"fingerprint": shard.fingerprint, "failed": len(unreadable)})
    log.info("%s: %d images", shard.name, len(records))
    if unreadable:
        log.warning(
            "%s: %d images cannot be read, the first is %s", shard.name, len(unreadable), unreadable[0]
        )


def _record(item: Item, picture: Picture) -> dict[str, Any]:
    width, height = _size(picture.data) if picture.data is not None else (None, None)
    return {
        "sample_id": item.sample_id,
        "prompt_id": item.prompt_id,
        "prompt": item.prompt,
        "image": None if picture.data is None else {"bytes": picture.data, "path": picture.name},
        "width": width,
        "height": height,
        "model": MODEL,
        "index": item.index,
    }


def _size(data: bytes) -> tuple[int, int] | tuple[None, None]:
    """Width and height in pixels by the image's header."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


def _pictures(items: Iterable[Item], column: str) -> Iterator[Picture]:
    for file, group in itertools.groupby(items, key=lambda item: item.file):
        wanted = [item.row for item in group]
        if wanted == [None] * len(wanted):
            yield from (_read_file(file) for _ in wanted)
        else:
            yield from _read_rows(file, [row for row in wanted if row is not None], column)


def _read_file(file: Path) -> Picture:
    try:
        return Picture(file.read_bytes(), file.name)
    except OSError as error:
        log.warning("%s", error)
        return Picture(None, file.name)


def _read_rows(file: Path, wanted: Sequence[int], column: str) -> Iterator[Picture]:
    """Rows in rising order, one row group in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as stream:
        remaining = list(wanted)
        start = 0
        for group in range(stream.num_row_groups):
            end = start + stream.metadata.row_group(group).num_rows
            here = [row - start for row in remaining if row < end]
            if here:
                values = stream.read_row_group(group, columns=[column])[column]
                yield from (_picture(file, values[row].as_py()) for row in here)
                remaining = remaining[len(here) :]
            start = end


def _picture(file: Path, value: Any) -> Picture:
    if not isinstance(value, dict):
        return Picture(value, None)
    if value["bytes"] is None and value.get("path"):
        return _read_file(_inside(file.parent, value["path"], file))
    return Picture(value["bytes"], value.get("path"))
