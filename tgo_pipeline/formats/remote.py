"""Images behind http(s) addresses: each is fetched as a whole, within a size and a time, and kept nowhere."""

from __future__ import annotations

import errno
import functools
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from tgo_pipeline.formats.limits import IMAGES

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 64 * 1024**2
"""The largest file that is fetched; it is held in memory."""
TIMEOUT_S = 15.0
"""How long a server may be silent."""
WHOLE_S = 120.0
"""How long one file may take, all tries together."""
TRIES = 3  # a server that fails three times in a row is taken to be out of order
PAUSE_S = 1.0
"""Before the second try; twice as long before the third."""
REDIRECTS = 5  # storage behind a hub takes two; browsers allow 20
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""What a server may answer differently a moment later."""
_URL = re.compile(r"https?://[^\s/]", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a text is the address of something on the web."""
    return _URL.match(text) is not None


class Remote(NamedTuple):
    """A file behind an address, which stands for its content as well: what is there is taken not to change."""

    url: str

    def read(self) -> bytes:
        """The bytes. Raises `OSError` with the reason if they cannot be had."""
        import httpx

        end = time.monotonic() + WHOLE_S
        for left in reversed(range(TRIES)):
            try:
                return _fetch(self.url, end)
            except _Refused as error:
                if not (left and error.passing):
                    raise
            except (httpx.TransportError, httpx.DecodingError) as error:
                if not left or time.monotonic() > end or isinstance(error, httpx.UnsupportedProtocol):
                    raise _Refused(_said(error)) from error
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                raise _Refused(_said(error)) from error
            time.sleep(PAUSE_S * (TRIES - left))
        raise AssertionError("the last try returns or raises")


class _Refused(OSError):
    """Why an address gave no file; `passing` if it may give one a moment later."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(errno.EIO, reason)
        self.passing = passing


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _fetch(url: str, end: float) -> bytes:
    most = min(MOST_BYTES, IMAGES.file_bytes)
    with _client().stream("GET", url) as response:
        if not response.is_success:
            status = f"{response.status_code} {response.reason_phrase}".rstrip()
            raise _Refused(f"the server answered {status}", passing=response.status_code in _AGAIN)
        found = bytearray()
        for piece in response.iter_bytes():
            found += piece
            if len(found) > most:
                raise _Refused(f"it has more than the {most / 1e6:,.0f} MB that are fetched")
            if time.monotonic() > end:
                raise _Refused(f"it took longer than {WHOLE_S:.0f} s")
    return bytes(found)


@functools.cache
def _client() -> httpx.Client:
    """One for the process, whose threads share its connections."""
    import httpx

    return httpx.Client(
        timeout=TIMEOUT_S,
        follow_redirects=True,
        max_redirects=REDIRECTS,
        headers={"User-Agent": "tgo-pipeline", "Accept": "image/*,*/*;q=0.5"},
    )
