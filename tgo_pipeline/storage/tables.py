"""The Arrow schema of every table, with the metadata that lets `datasets` decode images and labels."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

from tgo_pipeline.errors import TgoError, listed
from tgo_pipeline.formats import json_text, parquet_values
from tgo_pipeline.formats.parquet_files import each, explained, named
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.project import first_run
from tgo_pipeline.storage.sink import Sink
from tgo_pipeline.storage.stores import mirror
from tgo_pipeline.storage.stores.stubs import read_stub

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("tgo")
IMAGES_AT_ONCE = 32
"""Images in memory at a time, where their bytes have to be read here."""
FILES_AT_ONCE = 256
"""Whose metadata a data set of Arrow holds until it is read: 50 kB each."""
ELSEWHERE_AT_ONCE = 16
"""Shards of an object store that are read at a time: each is a few requests of some ten milliseconds."""
ROW_GROUP_BYTES = 64 * 1024**2
"""What a reader holds at once: Arrow decodes whole pages, so memory follows the largest row group (docs/LOG.md)."""
LABEL_NAMES = ("negative", "positive")
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
VIDEOS = ("video", "preview")
"""Columns whose bytes and path are those of a clip: a master without loss, and what people and browsers play."""
RERUN = " If this project wrote it, delete it and run its stage again."
_METADATA = {
    "fingerprint": str,
    "failed": int,
    "columns": dict,
    "rewards": dict,
    "parts": list,
    "inputs": (dict, str),
    "part_rows": int,
    "confidence": (int, float),
    "excluded": int,
    "legend": dict,
    "test": dict,
}
"""What is said of a table under the key `tgo`, and as which JSON type."""
_REPETITIVE = {
    "prompt_id",
    "prompt",
    "split",
    "source",
    "category",
    "challenge",
    "model",
    "revision",
    "reward",
    "error",
}
_LOCAL = fs.LocalFileSystem()
_FEATURES = {
    pa.string(): "string",
    pa.int8(): "int8",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.bool_(): "bool",
}


def _feature(field: pa.Field) -> dict[str, Any]:
    if field.type == IMAGE:
        return {"_type": "Video" if field.name in VIDEOS else "Image"}
    if field.name == "label":
        return {"names": list(LABEL_NAMES), "_type": "ClassLabel"}
    if pa.types.is_list(field.type):
        return {"feature": _feature(field.type.value_field), "_type": "List"}
    return {"dtype": _FEATURES[field.type], "_type": "Value"}


def with_features(schema: pa.Schema) -> pa.Schema:
    """Attach the Hugging Face feature description that `datasets.load_dataset("parquet")` reads."""
    features = {field.name: _feature(field) for field in schema}
    metadata = {
        **(schema.metadata or {}),
        b"huggingface": json.dumps({"info": {"features": features}}).encode(),
    }
    return schema.with_metadata(metadata)


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return with_features(pa.schema(fields))


PROMPTS = _schema(
    ("prompt_id", pa.string()),
    ("prompt", pa.string()),
    ("split", pa.string()),
    ("source", pa.string()),
    ("category", pa.string()),
    ("challenge", pa.string()),
)
"""`category` (a benchmark's category or style) and `challenge` are null where the source has none."""
GENERATIONS = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("prompt", pa.string()),
    ("image", IMAGE),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("model", pa.string()),
    ("revision", pa.string()),
    ("seed", pa.int64()),
    ("index", pa.int32()),
    ("guidance_scale", pa.float32()),
    ("steps", pa.int32()),
    ("image_uid", pa.string()),
)
"""`image_uid` is what the source calls an image that was not sampled here: feedback finds it by this name."""
VIDEO_GENERATIONS = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("prompt", pa.string()),
    ("video", IMAGE),
    ("preview", IMAGE),
    ("frames", pa.int32()),
    ("fps", pa.float32()),
    *((field.name, field.type) for field in list(GENERATIONS)[4:]),
)
"""Clips in the place of images."""
LABELS = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("reward", pa.string()),
    ("score", pa.float64()),
    ("relative_score", pa.float64()),
    ("label", pa.int64()),  # the only integer that `datasets` reads as a ClassLabel
    ("weight", pa.float64()),
)


def sample_column(path: Path) -> str:
    """What a table of generations holds: `image`, or `video`. Raises `TgoError` if it has both."""
    return sample_column_of(read_schema(path), path)


def sample_column_of(schema: pa.Schema, path: Path) -> str:
    """`sample_column`, where the schema of the table has been read."""
    there = [name for name in ("image", "video") if name in schema.names]
    if len(there) > 1:
        raise TgoError(
            f"{path} has the columns image and video: a table holds images or clips, drop one of them."
        )
    return there[0] if there else "image"


def generations_schema(column: str) -> pa.Schema:
    """The schema that a table has to have whose samples are in this column (`sample_column`)."""
    return VIDEO_GENERATIONS if column == "video" else GENERATIONS


def scores_schema(rewards: Sequence[str], labels: Sequence[str] = ("sample_id", "prompt_id")) -> pa.Schema:
    """Schema of scores: what names the rows, a nullable float32 column per reward, the reason of a failure."""
    texts, scores = [(name, pa.string()) for name in labels], [(name, pa.float32()) for name in rewards]
    return _schema(*texts, *scores, ("error", pa.string()))


def write_table(
    table: pa.Table, path: Path, metadata: Mapping[str, Any], footer: Mapping[str, str] | None = None
) -> None:
    """Write `table` to exactly `path` with `metadata` (JSON) under the schema key `tgo`, as `table_writer` does.

    `footer` are long texts for `read_footer`: a schema is stored twice, and every reader parses it.
    """
    with table_writer(path, table.schema, metadata, footer) as write:
        write(table)


@contextlib.contextmanager
def table_writer(
    path: Path, schema: pa.Schema, metadata: Mapping[str, Any], footer: Mapping[str, str] | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Writes tables of one schema, one after the other, to exactly `path`. Use it inside `writing.atomic`.

    Image bytes get neither dictionary nor compression, so that they can be read where they lie (`stream_images`). Row
    groups are of at most about 64 MB; with a page index and content-defined chunking a changed sample changes few
    stored bytes.
    """
    leaves = [leaf for field in schema for leaf in _leaves(field)]
    described = {**(schema.metadata or {}), b"tgo": json.dumps(metadata).encode()}
    with (
        Sink(path) as sink,
        pq.ParquetWriter(
            sink,
            schema.with_metadata(described),
            use_dictionary=[leaf for leaf in leaves if leaf in _REPETITIVE],  # type: ignore[arg-type]
            compression={leaf: "NONE" if leaf.endswith(".bytes") else "ZSTD" for leaf in leaves},  # type: ignore[arg-type]
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer,
    ):

        def write(table: pa.Table) -> None:
            rows = max(1, int(table.num_rows * ROW_GROUP_BYTES / max(table.nbytes, ROW_GROUP_BYTES)))
            writer.write_table(table.replace_schema_metadata(described), row_group_size=rows)

        yield write
        if footer:
            writer.add_key_value_metadata(dict(footer))


def _leaves(field: pa.Field) -> list[str]:
    return [f"{field.name}.bytes", f"{field.name}.path"] if field.type == IMAGE else [field.name]


def read_metadata(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON under the schema key `tgo`; empty if the file has none.

    Raises `TgoError` if it is no Parquet, the JSON is not as this project writes it, or lacks one of the keys `needs`.
    """
    return metadata_of(read_schema(path), path, needs)


def metadata_of(schema: pa.Schema, path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """`read_metadata`, where the schema of the table has been read."""
    found = (schema.metadata or {}).get(b"tgo", b"{}")
    where = f"{path}, metadata `tgo`"
    value = json_text.loads(found, where)
    wrong = None if isinstance(value, dict) else "it is no JSON object"
    for key, kind in _METADATA.items() if wrong is None else ():
        if not isinstance(value.get(key), (kind, type(None))):
            wrong = f"{key} is a JSON {type(value[key]).__name__}"
    if wrong is None and any(not isinstance(about, dict) for about in (value.get("rewards") or {}).values()):
        wrong = "rewards holds other things than objects"
    lacking = [key for key in needs if wrong is None and key not in value]
    if lacking:
        wrong = f"it has no {lacking[0]}"
    if wrong is not None:
        raise TgoError(f"{where}: {wrong}, so this project did not write it.{RERUN}")
    return value


def read_footer(path: Path, name: str) -> str | None:
    """A text that `write_table` put into the footer; None if the file has none of that name."""
    with explained(path, RERUN):
        text = (pq.read_metadata(path).metadata or {}).get(name.encode())
        return None if text is None else text.decode()


def row_count(path: Path) -> int:
    """How many rows a Parquet file has. Raises `TgoError` if it is none."""
    with explained(path, RERUN):
        return pq.read_metadata(path).num_rows


def read_schema(path: Path) -> pa.Schema:
    """The schema of a Parquet file. Raises `TgoError` if it is none."""
    import pyarrow.dataset as ds

    with explained(path, RERUN):  # as `pq.read_schema`, in three fifths of its time: a plan reads 100,000
        return named(ds.ParquetFileFormat().inspect(str(path), _LOCAL))


def read_table(
    path: Path, schema: pa.Schema | None = None, columns: Sequence[str] | None = None, *, check: bool = True
) -> pa.Table:
    """Read one Parquet file, checked against its digest, and against `schema` (names and types) when one is given.

    `check` may be False where a plan is made of a small column of large files, which a stage reads again to run it.
    Raises `TgoError` that names the file, and the column that is missing or of another type.
    """
    if not path.exists():
        raise TgoError(f"{path} does not exist: {first_run(path)}.")
    apart = columns is not None and not set(columns) & set(mirror.SAMPLES) and mirror.is_elsewhere(path)
    file = path if apart else digests.verify(path) if check else mirror.here(path)
    found = read_schema(path)
    if schema is not None:
        check_schema(found, schema, path, columns)
    _require_columns(found, columns or [], path)
    with explained(path, RERUN):
        if apart:
            table = mirror.read_columns(path, columns or [])
        else:
            table = pq.read_table(file, columns=list(columns) if columns else None)
        table.validate(full=True)  # text that is not UTF-8 would be found out anywhere later
    return table


def read_columns(
    paths: Sequence[Path], columns: Sequence[str], repeated: Collection[str] = (), *, check: bool = True
) -> pa.Table:
    """The same columns of many files, one after the other; of `repeated` texts each is held once.

    As `read_table` of each, in half its time: of ten thousand small files that is ten seconds. Of shards in an object
    store only these columns are read.
    """
    import pyarrow.dataset as ds

    if any(map(read_stub, paths)):
        return _read_apart(paths, columns, repeated, check=check)
    for path in paths:
        if check:
            digests.verify(path)
        _require_columns(read_schema(path), columns, path)  # a data set fills what one of its files lacks
    form, parts = ds.ParquetFileFormat(dictionary_columns=set(repeated)), []
    for first in range(0, len(paths), FILES_AT_ONCE):
        some = [str(path) for path in paths[first : first + FILES_AT_ONCE]]
        with explained(paths[0].parent, RERUN):
            parts.append(ds.dataset(some, format=form).to_table(columns=list(columns)))
            parts[-1].validate(full=True)
    with explained(paths[0].parent, RERUN):
        return pa.concat_tables(part.replace_schema_metadata() for part in parts)


def _read_apart(
    paths: Sequence[Path], columns: Sequence[str], repeated: Collection[str], *, check: bool
) -> pa.Table:
    """`read_columns` of shards in an object store, several at a time."""

    def read(path: Path) -> pa.Table:
        table = read_table(path, columns=columns, check=check).replace_schema_metadata()
        for name in set(repeated).intersection(columns):
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].dictionary_encode())
        return table

    with ThreadPoolExecutor(ELSEWHERE_AT_ONCE) as pool, explained(paths[0].parent, RERUN):
        return pa.concat_tables(pool.map(read, paths))


def _require_columns(found: pa.Schema, columns: Sequence[str], path: Path) -> None:
    for name in columns:
        if name not in found.names:
            raise TgoError(f"{path} has no column {name!r}; its columns are {listed(found.names)}.")


def stream_rows(path: Path, columns: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file with these columns, `rows` in memory at a time. Raises `TgoError` as `read_table`."""
    with open_parquet(path) as file:
        batches = each(file.iter_batches(rows, columns=list(columns)), path, RERUN)
        for batch in batches:
            with explained(path, RERUN):
                records = batch.to_pylist()
            yield from records


def stream_images(path: Path, column: str = "image") -> Iterator[StoredValue | bytes | None]:
    """The images (or clips) of a shard: where the bytes of each lie, for whoever decodes it, or the bytes where a table
    of another program compresses them. Raises `TgoError` as `read_table`.
    """
    with open_parquet(path) as file:
        check_schema(file.schema_arrow, pa.schema([(column, IMAGE)]), path)
        places = parquet_values.locate(file, mirror.here(path), f"{column}.bytes")
    if places is not None:
        yield from places
        return
    _say_compressed(path.parent)
    for row in stream_rows(path, [column], IMAGES_AT_ONCE):
        yield row[column] and row[column]["bytes"]


@functools.lru_cache(maxsize=1 << 10)
def _say_compressed(folder: Path) -> None:
    log.info(
        "%s: images are compressed within their tables, and read by one process for all decoders", folder
    )


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file to be read in parts, checked against its digest. Raises `TgoError` if it is another one."""
    found = digests.verify(path)
    with explained(path, RERUN):
        file = pq.ParquetFile(found)
        named(file.schema_arrow)
    with file:
        yield file


def scan(paths: Sequence[Path]) -> pl.LazyFrame:
    """Several Parquet files as one lazy frame, checked against their digests, which polars does not do of its own."""
    import polars as pl

    return pl.scan_parquet([digests.verify(path) for path in paths])


def check_schema(
    found: pa.Schema, expected: pa.Schema, path: Path, columns: Sequence[str] | None = None
) -> None:
    """Raise `TgoError` unless every expected column is there with its type; further columns are allowed."""
    for field in expected:
        if columns is not None and field.name not in columns:
            continue
        if field.name not in found.names:
            raise TgoError(f"{path} has no column {field.name!r}; its columns are {listed(found.names)}.")
        if found.names.count(field.name) > 1:
            raise TgoError(f"{path} has column {field.name!r} more than once: keep one of them.")
        if found.field(field.name).type != field.type:
            raise TgoError(
                f"{path}: column {field.name!r} is {found.field(field.name).type}, expected {field.type}."
            )


def read_folder(folder: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """All shards of a folder in name order as one polars frame. Raises `TgoError` if there are none."""
    import polars as pl

    files = parquet_files(folder)
    if not files:
        raise TgoError(f"{folder} holds no Parquet shard: {first_run(folder)}.")
    tables = [pl.from_arrow(_without_metadata(read_table(file, columns=columns))) for file in files]
    return pl.concat(tables, how="vertical_relaxed")  # type: ignore[arg-type]


def _without_metadata(table: pa.Table) -> pa.Table:
    """The same columns alone: polars ends the process over metadata that is not UTF-8."""
    return table.cast(pa.schema([field.remove_metadata() for field in table.schema]))
