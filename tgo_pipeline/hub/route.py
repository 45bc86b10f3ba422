"""Whether a server answers, in seconds: the hub's library by itself tries for half a minute, or for minutes."""

from __future__ import annotations

import errno
import queue
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request

from tgo_pipeline.hub.errors import Unreachable

ROUTE_S = 6.0
"""How long a server may take for its first answer, all its addresses and the look-up of its name together."""
PORTS = {"http": 80, "https": 443}
FAMILIES = (socket.AF_INET, socket.AF_INET6)
REMEMBERED_S = 30.0
"""A server that let a look wait to its end is not waited for again by the next part of a command."""
_silent: dict[str, tuple[Unreachable, float]] = {}
Answers = queue.SimpleQueue[OSError | None]


def hub_out_of_reach() -> Unreachable | None:
    """Why the hub cannot be asked, None if it can; where the network is forbidden its library says so itself."""
    from huggingface_hub import constants

    try:
        if not constants.is_offline_mode():
            require_route(constants.ENDPOINT)
    except Unreachable as error:
        return error
    return None


def require_route(url: str, timeout_s: float = ROUTE_S) -> None:
    """Raise `Unreachable`, within `timeout_s`, if a server does not answer or HF_HUB_OFFLINE forbids to ask.

    Where a proxy is set, it is the one that must answer.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise Unreachable("HF_HUB_OFFLINE forbids downloads")
    asked = _asked(urllib.parse.urlsplit(url))
    if asked.scheme not in PORTS:  # a SOCKS proxy speaks no HTTP
        return
    seen, when = _silent.get(asked.netloc, (None, 0.0))
    if seen is not None and time.monotonic() - when < REMEMBERED_S:
        raise Unreachable(str(seen))
    answers: Answers = queue.SimpleQueue()
    for family in FAMILIES:  # at the same time: one of them may lead nowhere
        threading.Thread(target=_knock, args=(asked, family, timeout_s, answers), daemon=True).start()
    end, errors = time.monotonic() + timeout_s, list[OSError]()
    for _ in FAMILIES:
        try:
            error = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            error = TimeoutError()
        if error is None:
            return
        errors.append(error)
    said = min(errors, key=_says_little)
    silent = isinstance(said, TimeoutError)  # of the queue or of a socket, whichever came first
    reason = f"no answer in {timeout_s:g} s" if silent else said.strerror or str(said)
    gone = Unreachable(f"{asked.hostname} is out of reach: {reason}")
    if silent:
        _silent[asked.netloc] = gone, time.monotonic()
    raise gone


def _asked(parts: urllib.parse.SplitResult) -> urllib.parse.SplitResult:
    """The address itself, or that of the proxy for it."""
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return parts
    return urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _knock(
    parts: urllib.parse.SplitResult, family: socket.AddressFamily, timeout_s: float, answers: Answers
) -> None:
    """Put None if a server answers at its first address of a family, whatever it says, else the error."""
    host = parts.hostname or ""
    try:
        port = parts.port or PORTS[parts.scheme]
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
        with socket.socket(family, socket.SOCK_STREAM) as plain:
            plain.settimeout(timeout_s)
            plain.connect(address)
            with _encrypted(plain, host) if parts.scheme == "https" else plain as stream:
                stream.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                if not stream.recv(1):
                    raise ConnectionResetError("it closed the connection")
    except OSError as error:
        answers.put(error)
    except ValueError as error:  # a port or a name that is none
        answers.put(OSError(str(error)))
    else:
        answers.put(None)


def _encrypted(plain: socket.socket, host: str) -> ssl.SSLSocket:
    """Whose certificate it has does not matter here: nothing is said that anybody may not hear."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)


def _says_little(error: OSError) -> bool:
    """Whether an error only says that a server, or this machine, has no address of one family."""
    return isinstance(error, socket.gaierror) or error.errno == errno.ENETUNREACH
