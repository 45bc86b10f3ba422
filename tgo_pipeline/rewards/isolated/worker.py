"""Runs a reward in another interpreter and answers over its standard streams; imports the standard library alone.

    python worker.py DESCRIPTOR

A message is a length (4 bytes, big-endian) and so much JSON. Requests come on standard input, answers go to standard
output after `MAGIC`; pixels lie in the memory of the file DESCRIPTOR, which both processes map. Whatever a package
prints goes to standard error, and the end of standard input, or of the parent, ends the process. Runs on Python 3.8.
"""

import hashlib
import importlib
import importlib.util
import json
import mmap
import os
import queue
import signal
import struct
import sys
import threading
import traceback
from math import isfinite
from typing import Any

MAGIC = b"\x00tgo-worker-1\x00"
LENGTH = struct.Struct(">I")
RUNNING_OUT = ("out of memory", "can't allocate memory", "cannot allocate memory", "_status_alloc_failed")


class Streams:
    """The two pipes to the parent, which nothing else in this process can reach any more."""

    def __init__(self):
        self._requests, self._answers = os.dup(0), os.dup(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.waiting = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            head = self._exactly(LENGTH.size)
            self.waiting.put(json.loads(self._exactly(LENGTH.unpack(head)[0]).decode()))

    def _exactly(self, count):
        parts = b""
        while len(parts) < count:
            part = os.read(self._requests, count - len(parts))
            if not part:
                os._exit(0)  # the parent is gone, whatever the package is doing
            parts += part
        return parts

    def answer(self, message):
        """Send a message: its length, then JSON."""
        content = json.dumps(message).encode()
        self.write(LENGTH.pack(len(content)) + content)

    def write(self, content):
        """Send all bytes, however many a pipe takes at once."""
        while content:
            content = content[os.write(self._answers, content) :]


def described(error):
    """Kind, words and innermost line of an error, in one line."""
    words = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    kind = type(error).__name__
    return (f"{kind}: {words[:300]}" if words else kind) + place


def ran_out(error):
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in RUNNING_OUT)


def load(request):
    """The reward that a request names: a function, or a class built with (source, device)."""
    sys.path[0] = request["folder"]
    importlib.import_module("PIL.Image")  # all that the environment has to have
    if request["file"]:
        spec: Any = importlib.util.spec_from_file_location("reward_of_worker", request["file"])
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(request["module"])
    found = module
    for part in request["object"].split("."):
        found = getattr(found, part)
    return found(request["source"], request["device"]) if isinstance(found, type) else found


def about(reward):
    """What the parent needs to know of a loaded reward, and what its scores depend on."""
    files = [getattr(sys.modules.get(getattr(reward, "__module__", "")), "__file__", None)]
    files += list(getattr(reward, "files", ()))
    span = getattr(reward, "typical_range", None)
    return {
        "python": sys.version.split()[0],
        "packages": packages(getattr(reward, "packages", None)),
        "sha256": {os.path.basename(file): digest(file) for file in files if file},
        "scale": str(getattr(reward, "scale", "as its author defines it")),
        "typical_range": list(map(float, span)) if span else None,
        "needs_prompt": bool(getattr(reward, "needs_prompt", True)),
        "parts": dict(getattr(reward, "parts", None) or {}),
    }


def packages(named):
    """Versions of the named distributions; by default of all whose modules are imported."""
    from importlib import metadata

    if named is None:
        owners = metadata.packages_distributions() if hasattr(metadata, "packages_distributions") else {}
        tops = {name.split(".")[0] for name in list(sys.modules)}
        named = sorted({name for top in tops for name in owners.get(top, ())})
    return {name: metadata.version(name) for name in named}


def digest(file):
    """The sha256 of a file, in hexadecimal digits."""
    with open(file, "rb") as stream:
        found = hashlib.sha256()
        for part in iter(lambda: stream.read(1 << 20), b""):
            found.update(part)
    return found.hexdigest()


def images_of(memory, places):
    """RGB images of Pillow from pixels in memory; a place is (start, width, height)."""
    from PIL import Image

    sizes = [(start, width, height, start + 3 * width * height) for start, width, height in places]
    return [Image.frombytes("RGB", (width, height), memory[start:end]) for start, width, height, end in sizes]


def rows_of(reward, given, expected):
    """A row of floats for each image: the score, and one for each of the reward's parts. Raises ValueError."""
    values = given.tolist() if hasattr(given, "tolist") else list(given)
    if len(values) != expected:
        raise ValueError(f"{len(values)} scores for {expected} images")
    parts = list(getattr(reward, "parts", None) or ())
    if not parts:
        return [[float(value)] for value in values]
    rows = [[float(number) for number in value] for value in values]
    for row in rows:
        if len(row) != 1 + len(parts):
            said = f"the score and {', '.join(parts)}"
            raise ValueError(f"{len(row)} numbers for an image: expected {1 + len(parts)}, {said}")
    return rows


def score(reward, images, prompts):
    """Rows of numbers, None where there is none, and the reasons: an image that fails does not take others with it.

    The row of an image without any number is empty.
    """
    try:
        rows = rows_of(reward, reward(list(images), list(prompts)), len(images))
    except Exception as error:
        if len(images) > 1 and not ran_out(error):
            each = [score(reward, [image], [prompt]) for image, prompt in zip(images, prompts)]  # noqa: B905
            return [row for (row,), _ in each], [reason for _, (reason,) in each]
        if ran_out(error):
            raise
        return [[]], ["raised " + described(error)]
    reasons = [next((f"gave {value}" for value in row if not isfinite(value)), None) for row in rows]
    return [[value if isfinite(value) else None for value in row] for row in rows], reasons


def main():
    """Answer requests until the parent closes the stream."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides what they mean
    descriptor, streams = int(sys.argv[1]), Streams()
    streams.write(MAGIC)
    reward = None
    while True:
        request = streams.waiting.get()
        try:
            if reward is None:
                reward = load(request)
                streams.answer(about(reward))
                continue
            with mmap.mmap(descriptor, request["bytes"], access=mmap.ACCESS_READ) as memory:
                images = images_of(memory, request["images"])
            rows, reasons = score(reward, images, request["prompts"])
            streams.answer({"scores": rows, "reasons": reasons})
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a package may raise anything, or call sys.exit)
            streams.answer({"error": described(error), "memory": ran_out(error)})


if __name__ == "__main__":
    main()
