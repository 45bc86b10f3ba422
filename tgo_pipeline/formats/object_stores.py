"""Files in object stores: `s3://bucket/key`, `gs://`, `az://container/key`, `hf://datasets/org/name@revision/file`.

Through Arrow's file systems, and for the hub through that of its own library. Credentials come from where each store's
own tools take them (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws, a machine's role), and
the endpoint of S3 from AWS_ENDPOINT_URL. What may succeed a moment later is tried again; what does not is one
`TgoError`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tgo_pipeline.errors import TgoError, first_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.fs as fs

log = logging.getLogger("tgo")
SCHEMES = ("s3", "gs", "az", "hf")
WRITABLE = ("s3", "gs", "az")
"""Those that shards can be written to: a repository of the hub takes commits, not files."""
TRIES = 5
PAUSE_S = 0.5
"""Before the second try, doubled before each further one: a store that restarts gets some eight seconds."""
CONNECT_S, SILENT_S, WHOLE_S = 5, 20, 45
"""How long a connection may take, how long a server may be silent, and after which time nothing is tried again."""
BLOCK_BYTES = 8 << 20
"""What is read or sent at a time; parts of a multipart upload have at least 5 MB."""
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "HF_TOKEN")
"""Variables whose values no message may show."""
_URL = re.compile(rf"(?P<scheme>{'|'.join(SCHEMES)})://(?P<path>.*)", re.DOTALL)
_USER = re.compile(r"//[^/@\s]+@")
_AWS = re.compile(r"AWS Error (?P<code>[A-Z_0-9]+)")
_NO_ENTRY = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID",
             "UNRECOGNIZED_CLIENT", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN", "EXPIRED_TOKEN")  # fmt: skip
T = TypeVar("T")


class StoreError(TgoError):
    """A store that does not answer, or refuses: nothing is known of what it holds."""


class StoreFile(NamedTuple):
    """A file of a store: its whole address, its size, and when it was written."""

    url: str
    size_bytes: int
    modified_ns: int


def is_store_url(text: str) -> bool:
    """Whether a text is the address of something in an object store."""
    return _URL.match(text) is not None


def require_address(url: str, schemes: tuple[str, ...] = SCHEMES) -> str:
    """An address without a slash at its end. Raises `TgoError` if it is none, or has a user and a password in it."""
    match = _URL.fullmatch(url)
    path = match["path"].rstrip("/") if match else ""
    if match and "@" in path.split("/")[0]:
        raise TgoError(
            f"{match['scheme']}://…@{path.split('@', 1)[1]} has a user or a password in it, which would be written "
            "into files and messages: remove it, and give credentials as the store's own tools take them."
        )
    if match is None or match["scheme"] not in schemes or not path or "//" in path:
        forms = ", ".join(f"{scheme}://BUCKET/FOLDER" for scheme in schemes)
        raise TgoError(f"{url!r} is no address in an object store: write one of {forms}.")
    if match["scheme"] == "hf" and "@" not in path:
        raise TgoError(f"{url} may change at any time: name a commit, as hf://datasets/ORG/NAME@COMMIT/FILE.")
    return f"{match['scheme']}://{path}"


def find(url: str) -> StoreFile | None:
    """A file; None if there is none of that name."""
    import pyarrow.fs as fs

    info = _tried(url, lambda system, path: system.get_file_info(path))
    return _store_file(url.split("://")[0], info) if info.type == fs.FileType.File else None


def listed(url: str) -> list[StoreFile]:
    """Every file below an address, in the order of their names; none if there is nothing. It is read page by page."""
    import pyarrow.fs as fs

    def ask(system: fs.FileSystem, path: str) -> list[fs.FileInfo]:
        try:
            return system.get_file_info(fs.FileSelector(path, recursive=True))
        except FileNotFoundError:  # of a bucket that is not there Arrow says more
            return []

    scheme = url.split("://")[0]
    infos = (info for info in _tried(url, ask) if info.type == fs.FileType.File)
    return sorted(_store_file(scheme, info) for info in infos)


def read(url: str, most_bytes: int | None = None) -> bytes:
    """The content of a file. Raises `TgoError` if it is not there, or has more than `most_bytes`."""

    def ask(system: fs.FileSystem, path: str) -> bytes:
        with system.open_input_file(path) as stream:
            if most_bytes is not None and stream.size() > most_bytes:
                raise TgoError(
                    f"{url} has {stream.size() / 1e6:,.1f} MB, more than the {most_bytes / 1e6:,.1f} MB that are read."
                )
            return _whole(stream.read(), stream.size())

    return _tried(url, ask)


def read_end(url: str, size_bytes: int, most_bytes: int) -> bytes:
    """The last bytes of a file of this size. Raises `TgoError` if it is not there."""

    def ask(system: fs.FileSystem, path: str) -> bytes:
        count = min(size_bytes, most_bytes)
        with system.open_input_file(path) as stream:
            return _whole(stream.read_at(count, size_bytes - count), count)

    return _tried(url, ask)


def use(url: str, reader: Callable[[pa.NativeFile], T]) -> T:
    """What `reader` makes of a file that it reads in ranges; it is called again where reading breaks off."""

    def ask(system: fs.FileSystem, path: str) -> T:
        with system.open_input_file(path) as stream:
            return reader(stream)

    return _tried(url, ask)


def fetch(url: str, path: Path) -> None:
    """Copy a file to `path`. Raises `TgoError` if that cannot be done whole."""

    def ask(system: fs.FileSystem, key: str) -> None:
        with system.open_input_file(key) as stream, path.open("wb") as out:
            left = stream.size()
            while left:
                block = _whole(stream.read(min(left, BLOCK_BYTES)), min(left, BLOCK_BYTES))
                out.write(block)
                left -= len(block)

    _tried(url, ask)


def put(path: Path, url: str) -> None:
    """Write a file, in several parts at once where it is large; it appears when the last one is there.

    Parts of a process that is killed are never seen; a store keeps and counts them until they are aborted
    (docs/SCALE.md).
    """

    def send(system: fs.FileSystem, key: str) -> None:
        with path.open("rb") as source:
            stream = system.open_output_stream(key)
            try:
                while block := source.read(BLOCK_BYTES):
                    stream.write(block)
            except BaseException:
                with contextlib.suppress(OSError):
                    stream.close()  # Arrow has no way to leave a file unwritten: what it then shows is removed
                    system.delete_file(key)
                raise
            stream.close()

    _tried(url, send)


def put_bytes(data: bytes, url: str) -> None:
    """Write a small file."""

    def send(system: fs.FileSystem, key: str) -> None:
        stream = system.open_output_stream(key)
        try:
            stream.write(data)
        finally:
            stream.close()

    _tried(url, send)


def remove(url: str) -> None:
    """Remove a file, if it is there."""

    def ask(system: fs.FileSystem, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            system.delete_file(key)

    _tried(url, ask)


def masked(text: str) -> str:
    """A message without what the environment holds as secrets, and without users and passwords of addresses."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "…")
    return _USER.sub("//…@", text)


def _store_file(scheme: str, info: fs.FileInfo) -> StoreFile:
    return StoreFile(f"{scheme}://{info.path}", info.size or 0, info.mtime_ns or 0)


def _whole(data: bytes, count: int) -> bytes:
    if len(data) != count:
        raise OSError(f"{len(data)} of {count} bytes came")
    return data


def _tried(url: str, work: Callable[[fs.FileSystem, str], T]) -> T:
    """What `work` gives on the file system and the path of an address. Raises one `TgoError`."""
    import pyarrow as pa

    scheme, path = url.split("://", 1)
    system, end_s = _system(scheme), time.monotonic() + WHOLE_S
    for left in reversed(range(TRIES)):
        try:
            return work(system, path)
        except (TgoError, pa.ArrowInvalid):  # what a file holds is the business of who reads it
            raise
        except Exception as error:  # noqa: BLE001  # the library of each store has errors of its own
            reason, passing = _reason(url, error)
            if not (left and passing and time.monotonic() < end_s):
                raise StoreError(masked(f"{url}: {reason}.")) from None
            log.debug("%s: %s; trying again", url, masked(reason))
        time.sleep(PAUSE_S * 2 ** (TRIES - 1 - left) * random.uniform(0.5, 1))
    raise AssertionError("the last try returns or raises")


def _reason(url: str, error: Exception) -> tuple[str, bool]:
    """Why a store refused, what to do, and whether it may answer differently a moment later."""
    said = first_line(error)
    code = match["code"] if (match := _AWS.search(said)) else ""
    bucket = url.split("://", 1)[1].split("/")[0]
    if code == "NO_SUCH_BUCKET":
        return f"there is no bucket {bucket}: make it, or correct its name", False
    if isinstance(error, FileNotFoundError) or code in ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND"):
        return "there is no such file", False
    if isinstance(error, PermissionError) or code in _NO_ENTRY or "HTTP status 403" in said:
        return (
            f"the store refuses ({code or said}): give credentials that may do this as its own tools take them (for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role)",
            False,
        )
    if "PERMANENT_REDIRECT" in code or "HTTP status 301" in said:
        return f"bucket {bucket} is in another region: set AWS_REGION", False
    if code == "NETWORK_CONNECTION":
        return (
            f"the store is out of reach ({said.rsplit('Details: ', 1)[-1]}): check the network and {_endpoint()}",
            True,
        )
    return f"the store failed ({said}): run again later, what is finished is kept", isinstance(error, OSError)


def _endpoint() -> str:
    return (
        f"AWS_ENDPOINT_URL ({given})" if (given := _s3_endpoint()) else "AWS_ENDPOINT_URL, which is not set"
    )


def _s3_endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _system(scheme: str) -> fs.FileSystem:
    """The file system of a scheme, one a process: its threads share its connections."""
    if scheme == "hf":
        from huggingface_hub import constants

        return _system_of(scheme, constants.ENDPOINT, os.getpid())
    return _system_of(scheme, _s3_endpoint(), os.getpid())


@functools.lru_cache(maxsize=8)
def _system_of(scheme: str, endpoint: str | None, _process: int) -> fs.FileSystem:
    import pyarrow.fs as fs

    if scheme == "s3":
        return fs.S3FileSystem(
            endpoint_override=endpoint,
            connect_timeout=CONNECT_S,
            request_timeout=SILENT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),  # tries are counted here
        )
    if scheme == "gs":
        return fs.GcsFileSystem()
    if scheme == "az":
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT")
        if not account:
            raise TgoError("az:// needs the name of the account: set AZURE_STORAGE_ACCOUNT_NAME.")
        return fs.AzureFileSystem(account_name=account, account_key=os.environ.get("AZURE_STORAGE_KEY"))
    return _of_hub(endpoint)


def _of_hub(endpoint: str | None) -> fs.FileSystem:
    import pyarrow.fs as fs
    from huggingface_hub import HfFileSystem

    return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem(endpoint=endpoint, skip_instance_cache=True)))
