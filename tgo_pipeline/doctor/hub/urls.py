"""Files at a URL: whether they are there, without downloading them."""

from __future__ import annotations

import urllib.error
import urllib.request

from tgo_pipeline.hub.errors import Unavailable
from tgo_pipeline.hub.route import require_route


def size_at(url: str, timeout_s: float) -> int | None:
    """The size in bytes that a server states for a file; None if it states none. Raises `Unavailable`."""
    require_route(url, timeout_s)
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            stated = answer.headers.get("Content-Length")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise Unavailable(f"{url}: {getattr(error, 'reason', error)}") from error
    return int(stated) if stated and stated.isdigit() else None
