"""Damaged and hostile params.yaml files: each gives parameters, or one `TgoError` that names the key.

    python -m tests.faults.fuzz_params --seed 0 --inputs 10000 [--deep 0.05]

A share of the files that can be used (`--deep`) goes through `tgo status`, `plan` and `doctor` too. Findings are
another exception, more time or memory than allowed, code that was run, a message that is too long or acts on a
terminal. They are grouped, with the shortest file of each group. Exit code 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import pickle
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from tests.faults.children import warm
from tests.faults.clock import Late, limited
from tests.faults.yaml_inputs import generate, seeds
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, load_params
from tgo_pipeline.rendering.terminal import console, safe

LIMIT = 5000
"""Characters of a message."""
ROOM_BYTES = 3 * 2**30
"""Of address space beyond what the process has: a larger demand fails and is a finding."""
EXECUTED = "code_was_run"


def outcome(
    data: bytes, folder: Path, deep: bool, touched: list[tuple], seconds: float
) -> tuple[str, str, str]:
    """(kind, group, detail): kind is ok, refused, note or finding."""
    path, step = folder / "p.yaml", "load_params"
    path.write_bytes(data)
    try:
        try:
            with limited(seconds):
                params = load_params(path)
        except TgoError as error:
            return _judged(str(error), touched)
        for step, call in _deep(params, path) if deep else ():
            with limited(seconds * 4):
                found = _looked(call)
            if found:
                return "finding", f"{step}: {found}", ""
        return "ok", "", ""
    except Late:
        return "finding", f"{step}: longer than {seconds:g} s at {_place(sys.exc_info()[1])}", ""
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is what is looked for
        return "finding", f"{step}: {type(error).__name__} at {_place(error)}", ascii(str(error))[:300]
    finally:
        if (folder / EXECUTED).exists():
            raise RuntimeError("code of a parameter file was run")


def _judged(text: str, touched: list[tuple]) -> tuple[str, str, str]:
    if len(text) > LIMIT:
        return "finding", f"load_params: a message of more than {LIMIT} characters", text[:200]
    named = any(str(key) in text or repr(key) in text for where in touched for key in where[-2:])
    if touched and not named:
        return "note", "load_params: the message names no changed key", f"{text[:300]} <- {touched}"
    return "refused", "", ""


def _place(error: BaseException | None) -> str:
    """The innermost line of this project that an error came through."""
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    inside = [
        one
        for one in frames
        if any(f"/{name}/" in one.filename for name in ("tgo_pipeline", "stages", "fine_tune"))
    ]
    last = (inside or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"


def _looked(call: Callable[[], object]) -> str:
    """What is wrong with what a command that only looks prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            shown = call()
        except TgoError as error:
            return "a message of more than 5000 characters" if len(str(error)) > LIMIT else ""
    stream = io.StringIO()
    console(file=stream, width=110).print(shown)
    return "an escape sequence is printed" if "\x1b" in stream.getvalue() else ""


def _deep(params: Params, path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    from stages.commands.plan import make
    from stages.commands.status import table
    from tgo_pipeline.doctor import examine, view
    from tgo_pipeline.planning import plan as planned
    from tgo_pipeline.planning.gpus import device

    yield "status", lambda: table(params)
    yield "plan", lambda: planned.show(make(params, device("A100-80"), 1, None, None))
    yield "doctor", lambda: view.show(examine(path, None))


def _work(options: argparse.Namespace, pipe: int) -> NoReturn:
    """Try every input in this forked process, whose memory is bounded; each outcome goes down the pipe."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz_params_"))
    os.chdir(folder)
    numbers, bases, end = random.Random(options.seed), seeds(), time.monotonic() + 60 * options.minutes
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, size + ROOM_BYTES))
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with os.fdopen(pipe, "wb") as out:
        for turn in range(options.inputs):
            if time.monotonic() > end:
                break
            data, touched = generate(numbers, turn, bases)
            began = time.monotonic()
            found = outcome(data, folder, numbers.random() < options.deep, touched, options.seconds)
            pickle.dump((*found, data, time.monotonic() - began), out)
            out.flush()
    os._exit(0)


def run(options: argparse.Namespace) -> int:
    """Try every input and print what was found; the exit code."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        try:
            _work(options, write)
        except BaseException:  # noqa: BLE001  # told by the exit code
            os._exit(1)
    os.close(write)
    tallies: dict[str, int] = {}
    groups: dict[tuple[str, str], dict] = {}
    slowest = 0.0
    with os.fdopen(read, "rb") as stream, contextlib.suppress(EOFError):
        while True:
            kind, group, detail, data, took = pickle.load(stream)
            tallies[kind] = tallies.get(kind, 0) + 1
            slowest = max(slowest, took)
            if group:
                found = groups.setdefault((kind, group), {"count": 0, "detail": detail, "input": data})
                found["count"] += 1
                found["input"] = min(found["input"], data, key=len)
    died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for (kind, group), found in sorted(groups.items(), key=lambda item: -item[1]["count"]):
        text = found.pop("input").decode("utf-8", "backslashreplace")
        print(json.dumps({"kind": kind, "group": group, **found, "input": safe(text, 400)}))
    findings = sum(kind == "finding" for kind, _ in groups)
    print(
        json.dumps(
            {"inputs": sum(tallies.values()), **tallies, "slowest_s": round(slowest, 2), "findings": findings}
        )
    )
    if died:
        print(f"the process of the inputs died with {died}")
    return int(bool(findings or died or not tallies))


def main(arguments: list[str] | None = None) -> int:
    """Try damaged parameter files; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--deep", type=float, default=0.02, help="share of usable files that commands look at too"
    )
    parser.add_argument("--seconds", type=float, default=5, help="for reading one file")
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.deep:
        warm()  # or the first import would meet the limit of memory
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
