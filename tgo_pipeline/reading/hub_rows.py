"""Rows of any data set of the hub, `hf:org/name@REVISION/SPLIT`, streamed by the library `datasets`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.hub.address import FORM, PREFIX, parse
from tgo_pipeline.hub.errors import RAISED, Unavailable, refusal
from tgo_pipeline.hub.route import hub_out_of_reach
from tgo_pipeline.reading import parquet
from tgo_pipeline.reading.places import Hub

if TYPE_CHECKING:
    from datasets import DatasetBuilder, IterableDataset


def is_hub_rows(text: str) -> bool:
    """Whether a text is the address of rows of the hub."""
    return text.startswith(PREFIX) and not text.startswith("hf://")  # which is a file there, or a folder


class HubRows:
    """One split of a data set as a stream: nothing is downloaded beforehand, nothing is kept.

    Raises `TgoError` without the package `datasets`, or if the data set or its split is not there.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.address = parse(text)
        with self.explained():
            self._builder = self._load()
            stream = self._stream()
            self.names: list[str] = stream.column_names or list(next(iter(stream), {}))

    def records(self, start: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows from `start` on with these columns; an image as bytes and path. Of Parquet nothing else is read."""
        files = self._parquet_files()
        if files:
            yield from parquet.records(
                Hub(self.address.repository, self.address.revision), files, start, columns
            )
            return
        with self.explained():
            stream = self._stream()
            if stream.features:  # unknown ones, as of csv, are not decoded
                stream = stream.decode(False)
            yield from stream.select_columns(list(columns)).skip(start)

    def _parquet_files(self) -> list[str]:
        """The files of the split, if they are Parquet of the hub: `datasets` reads past rows that are skipped."""
        split = self.address.split
        urls = [
            str(url)
            for name, some in dict(self._builder.config.data_files or {}).items()
            if split in (None, str(name))
            for url in some
        ]
        here = re.compile(rf"hf://datasets/{re.escape(self.address.repository)}@[^/]+/(.+\.parquet)")
        found = [match[1] for match in map(here.fullmatch, urls) if match]
        return found if len(found) == len(urls) and hasattr(self._builder.config, "columns") else []

    def _load(self) -> DatasetBuilder:
        try:
            import datasets
        except ImportError as error:
            raise TgoError(
                f"{self.text} needs the package `datasets`: install it with `pip install tgo-pipeline[hub]`."
            ) from error
        if no_route := hub_out_of_reach():
            raise no_route
        repository, revision, config, _ = self.address
        return datasets.load_dataset_builder(repository, config, revision=revision)

    def _stream(self) -> IterableDataset:
        import datasets

        opened = self._builder.as_streaming_dataset(self.address.split)
        if isinstance(opened, datasets.IterableDataset):
            return opened
        if len(opened) != 1:
            raise TgoError(
                f"{self.text} has the splits {', '.join(map(str, opened))}: add one, as in {FORM}."
            )
        return next(iter(opened.values()))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what `datasets` raises for a wrong name, a lost connection or a damaged file into one `TgoError`."""
        try:
            yield
        except (Unavailable, *RAISED) as error:
            if isinstance(error, FileNotFoundError):  # a repository that is not there, private or gated
                raise TgoError(
                    f"{self.text} is not on the hub, or you may not read it ({first_line(error)}): check the names and "
                    "the revision, or log in with `hf auth login`."
                ) from error
            reason = refusal(error, self.address.repository, "dataset", self.address.revision)
            raise TgoError(
                f"{self.text} cannot be read: {reason}. What was written is kept; run again to continue."
            ) from error
