"""The first moments and the last ones of a command, when a signal must not end in a traceback.

`stages` imports this before all else. A signal that comes while modules are still imported ends a command at once:
nothing was done yet. Afterwards it raises `KeyboardInterrupt`, so that half-written files are removed on the way out.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

USER_ERROR, UNSCORED, INTERRUPTED = 2, 3, 130  # 2 as click has it, 130 as shells have it: 128 + SIGINT
SIGNALS = (signal.SIGINT, signal.SIGTERM)
IMPORT = "<frozen importlib._bootstrap>"
"""Where Python says that the code of an import is."""
arrived: list[float] = []
"""When signals came since the command began."""


def is_command() -> bool:
    """Whether this process is `tgo` or `python -m stages.NAME`, and not a test, a script or a worker of theirs."""
    if "multiprocessing.spawn" in sys.modules or "multiprocessing.forkserver" in sys.modules:
        return False
    if sys.argv[0] != "-m":
        return os.path.basename(sys.argv[0]) in ("tgo", "tgo.exe")
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return module.split(".")[0] == "stages"


def end_at_once(number: int, _frame: FrameType | None) -> None:
    """Leave without another step of Python: modules are being imported."""
    os.write(2, b"tgo: interrupted before anything was done.\n")
    os._exit(INTERRUPTED)


def leave(number: int, _frame: FrameType | None) -> None:
    """Leave without another step of Python: all is said, and the interpreter is closing."""
    os._exit(INTERRUPTED)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt` where the command is, after the import that it may be in.

    Libraries that are initialised in C++ abort where they are interrupted.
    """
    now = time.monotonic()
    if number != signal.SIGALRM:
        package = sys.modules["tgo_pipeline"]  # not imported above: that may fail, and is said in a line
        if arrived and now - arrived[-1] < package.SAME_SIGNAL_S:
            return
        arrived.append(now)
    if _imports(frame):
        _soon()
    else:
        raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != IMPORT:
        frame = frame.f_back
    return frame is not None


def _soon() -> None:
    """Interrupt a moment later, when most imports have ended."""
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)


def on_signals(handler: object) -> list[object]:
    """Let `handler` have the signals that end a command; the handlers before."""
    return [signal.signal(number, handler) for number in SIGNALS]  # type: ignore[arg-type]


def _again(unraisable: sys.UnraisableHookArgs) -> None:
    """Where Python swallows an interrupt (callbacks of weak references, as imports have them), send it again."""
    if unraisable.exc_type is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
        _soon()
        return
    sys.__unraisablehook__(unraisable)


def _require_system() -> None:
    """End the command with a line where the package cannot be imported at all, as on Windows."""
    try:
        import tgo_pipeline  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"tgo: {error}\n")
        raise SystemExit(USER_ERROR) from None


def _open_streams() -> None:
    """Let what is closed (`>&-`, some schedulers) lead nowhere: else a shard would be opened under its number, and what
    libraries print would end up in it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:  # what is opened takes the lowest number that is free: this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115


if is_command():
    _open_streams()
    _require_system()
    on_signals(end_at_once)
    sys.unraisablehook = _again
