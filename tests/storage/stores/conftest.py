"""One server for the tests here, with an empty bucket for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_store import BUCKET, CREDENTIALS, directly, s3_server
from tgo_pipeline.storage.stores import mirror


@pytest.fixture(scope="session")
def _server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server with the empty bucket `bucket`, which this process is to use, and an empty cache."""
    for name, value in {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": _server,
        "TGO_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    yield _server
    directly(_server).delete_dir_contents(BUCKET)
    mirror.forget()
