"""The Arrow schema of every table, with the metadata that lets `datasets` decode images and labels."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.sink import Sink

if TYPE_CHECKING:
    import polars as pl

ROW_GROUP_BYTES = 64 * 1024**2
"""What a reader holds at once: Arrow decodes whole pages, so memory follows the largest row group (docs/LOG.md)."""
LABEL_NAMES = ("negative", "positive")
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
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
        return {"_type": "Image"}
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
LABELS = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("reward", pa.string()),
    ("score", pa.float64()),
    ("relative_score", pa.float64()),
    ("label", pa.int64()),  # the only integer that `datasets` reads as a ClassLabel
    ("weight", pa.float64()),
)


def scores_schema(rewards: Sequence[str], labels: Sequence[str] = ("sample_id", "prompt_id")) -> pa.Schema:
    """Schema of scores: what names the rows, a nullable float32 column per reward, the reason of a failure."""
    texts, scores = [(name, pa.string()) for name in labels], [(name, pa.float32()) for name in rewards]
    return _schema(*texts, *scores, ("error", pa.string()))


def write_table(
    table: pa.Table, path: Path, metadata: Mapping[str, Any], footer: Mapping[str, str] | None = None
) -> None:
    """Write `table` to exactly `path` with `metadata` (JSON) under the schema key `tgo`.

    `footer` are long texts for `read_footer`: a schema is stored twice, and every reader parses it. Image bytes get
    neither dictionary nor compression, row groups about 64 MB, page index and content-defined chunking, so that a
    changed sample changes few stored bytes. Call it inside `writing.atomic`.
    """
    leaves = [leaf for field in table.schema for leaf in _leaves(field)]
    rows = max(1, int(table.num_rows * ROW_GROUP_BYTES / max(table.nbytes, ROW_GROUP_BYTES)))
    described = {**(table.schema.metadata or {}), b"tgo": json.dumps(metadata).encode()}
    with (
        Sink(path) as sink,
        pq.ParquetWriter(
            sink,
            table.schema.with_metadata(described),
            use_dictionary=[leaf for leaf in leaves if leaf in _REPETITIVE],  # type: ignore[arg-type]
            compression={leaf: "NONE" if leaf.endswith(".bytes") else "ZSTD" for leaf in leaves},  # type: ignore[arg-type]
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer,
    ):
        writer.write_table(table.replace_schema_metadata(described), row_group_size=rows)
        if footer:
            writer.add_key_value_metadata(dict(footer))


def _leaves(field: pa.Field) -> list[str]:
    return [f"{field.name}.bytes", f"{field.name}.path"] if field.type == IMAGE else [field.name]


def read_metadata(path: Path) -> dict[str, Any]:
    """The JSON under the schema key `tgo`; empty if the file has none. Raises `TgoError` if it is no Parquet."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise TgoError(
            f"{path} cannot be read as Parquet ({error}): delete it and run its stage again."
        ) from error
    return json.loads(metadata.get(b"tgo", b"{}"))


def read_footer(path: Path, name: str) -> str | None:
    """A text that `write_table` put into the footer; None if the file has none of that name."""
    text = (pq.read_metadata(path).metadata or {}).get(name.encode())
    return None if text is None else text.decode()


def read_table(
    path: Path, schema: pa.Schema | None = None, columns: Sequence[str] | None = None, *, check: bool = True
) -> pa.Table:
    """Read one Parquet file, checked against its digest, and against `schema` (names and types) when one is given.

    `check` may be False where a plan is made of a small column of large files, which a stage reads again to run it.
    Raises `TgoError` that names the file, and the column that is missing or of another type.
    """
    if check:
        digests.verify(path)
    try:
        found = pq.read_schema(path)
        if schema is not None:
            check_schema(found, schema, path, columns)
        for name in columns or []:
            if name not in found.names:
                raise TgoError(f"{path} has no column {name!r}; its columns are {', '.join(found.names)}.")
        return pq.read_table(path, columns=list(columns) if columns else None)
    except FileNotFoundError as error:
        raise TgoError(f"{path} does not exist: run the stage that writes it first.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TgoError(
            f"{path} cannot be read as Parquet ({error}): delete it and run its stage again."
        ) from error


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file to be read in parts, checked against its digest. Raises `TgoError` if it is another file."""
    digests.verify(path)
    with pq.ParquetFile(path) as file:
        yield file


def scan(paths: Sequence[Path]) -> pl.LazyFrame:
    """Several Parquet files as one lazy frame, checked against their digests, which polars does not do of its own."""
    import polars as pl

    for path in paths:
        digests.verify(path)
    return pl.scan_parquet(list(paths))


def check_schema(
    found: pa.Schema, expected: pa.Schema, path: Path, columns: Sequence[str] | None = None
) -> None:
    """Raise `TgoError` unless every expected column is there with its type; further columns are allowed."""
    for field in expected:
        if columns is not None and field.name not in columns:
            continue
        if field.name not in found.names:
            raise TgoError(f"{path} has no column {field.name!r}; its columns are {', '.join(found.names)}.")
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
        raise TgoError(f"{folder} holds no Parquet shard: run the stage that writes it first.")
    tables = [pl.from_arrow(read_table(file, columns=columns)) for file in files]
    return pl.concat(tables, how="vertical_relaxed")  # type: ignore[arg-type]
