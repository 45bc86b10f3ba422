"""Pictures of a Hugging Face data set, streamed: nothing is downloaded beforehand, nothing is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.address import FORM, Address, parse
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.images.rows import Cursor, Row, Source
from tgo_pipeline.images.tables import ID

if TYPE_CHECKING:
    from datasets import IterableDataset


class HubDataset(Source):
    """One split of a data set as a stream. Raises `TgoError` without the package `datasets`, or if it is not there."""

    count = None

    def __init__(self, text: str, columns: Columns) -> None:
        self._text = text
        self._address = parse(text)
        with _explained(text):
            self._stream = _open(text, self._address)
            names = self._stream.column_names or list(next(iter(self._stream), {}))
        self._image = columns.image_in(text, names)
        self._prompt = columns.prompt_in(text, names)
        self._cursor = Cursor(self._rows)

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        return self._cursor.take(start, stop)

    labels = rows

    def key(self, start: int, stop: int) -> Any:
        return [*self._address, self._image, self._prompt, start, stop]

    def at_end(self, position: int) -> bool:
        """Whether the stream has no row at `position`."""
        return self._cursor.at_end(position)

    def _rows(self, start: int) -> Iterator[Row]:
        from datasets import Image

        stream = self._stream
        if isinstance((stream.features or {}).get(self._image), Image):
            stream = stream.cast_column(self._image, Image(decode=False))
        with _explained(self._text):
            for number, record in enumerate(stream.skip(start), start):
                path, data = _picture(self._text, number, record[self._image])
                prompt = record[self._prompt] if self._prompt else None
                name = str(record.get(ID) or f"{self._text}:{number}")
                yield Row(name, data, prompt, (path,) if path else ())


def _open(text: str, address: Address) -> IterableDataset:
    try:
        import datasets
    except ImportError as error:
        raise TgoError(
            f"{text} needs the package `datasets`: install it with `pip install tgo-pipeline[hub]`."
        ) from error
    opened = datasets.load_dataset(
        address.repository, address.config, split=address.split, revision=address.revision, streaming=True
    )
    if isinstance(opened, datasets.IterableDataset):
        return opened
    if len(opened) != 1:
        raise TgoError(f"{text} has the splits {', '.join(map(str, opened))}: add one, as in {FORM}.")
    return next(iter(opened.values()))


@contextlib.contextmanager
def _explained(text: str) -> Iterator[None]:
    """Turn what `datasets` raises for a wrong name, a lost connection or a damaged file into one `TgoError`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TgoError(
            f"{text} cannot be read: {reason}. Parts that are scored are kept; call again to go on."
        ) from error


def _picture(text: str, number: int, value: Any) -> tuple[str | None, bytes | None]:
    """The path that a cell of the image column names, and its bytes, read from where the data set is if need be."""
    if not isinstance(value, dict):
        if value is None or isinstance(value, bytes):
            return None, value
        raise TgoError(
            f"{text}, row {number}: the image column holds {type(value).__name__}, not a picture: name another one "
            "with --image-column."
        )
    path, data = value.get("path"), value.get("bytes")
    if data is None and path:
        data = _read(path)
    return path, data


def _read(path: str) -> bytes | None:
    import fsspec

    try:
        with fsspec.open(path, "rb") as stream:
            return stream.read()  # type: ignore[union-attr]
    except FileNotFoundError:
        return None
