"""Damaged input straight into the functions that read it, thousands at every boundary: a value or one error, no more.

    python -m tests.faults.fuzz_readers --seed 0 --inputs 10000 [--groups images,clips,...] [--work FOLDER]

`fuzz_shards` sends some of these inputs through whole commands, a few in a second. Here a forked child, under the same
limits and the same guard, reads many, one after the other. Findings are any other exception than the boundary's own, a
message that is too long, more time or memory than allowed, and what the guard sees. Inputs
that gave a finding are kept in FOLDER/found, where there is a folder. Exit code 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.children import warm
from tests.faults.clock import Late, limited
from tests.faults.image_inputs import image_seeds
from tests.faults.limits import Child, plain
from tests.faults.model_inputs import JUNK
from tests.faults.table_inputs import TEXT_JUNK, changed_table, mangle
from tests.faults.weight_inputs import pickles, safetensors_lies
from tgo_pipeline import demo
from tgo_pipeline.errors import TgoError

GROUPS = ("images", "clips", "parquet", "tables", "texts", "json", "weights", "pickles", "hub")
AT_ONCE = 100
"""Inputs that one child reads."""
MESSAGE = 5000
"""Characters of an error."""
SECONDS = 10
"""For one reader of one input."""
HUB_STATUSES = (200,) * 12 + (401, 403, 404, 410, 416)
"""Others are asked for again and again by the hub's library, for minutes."""
Reader = Callable[[], object]


@dataclass(frozen=True)
class Input:
    """Bytes with a name, and the readers that each get them."""

    name: str
    data: bytes
    readers: Sequence[Reader]


def images(numbers: random.Random, _: Path) -> Iterator[Input]:
    from tgo_pipeline.images.import_folder import _size
    from tgo_pipeline.rewards.engine.decode import decode

    seeds = image_seeds()
    while True:
        kind = numbers.choice(sorted(seeds))
        data = mangle(numbers, seeds[kind])
        yield Input(kind, data, [lambda data=data: decode(data), lambda data=data: _size(data)])


def clips(numbers: random.Random, folder: Path) -> Iterator[Input]:
    from tgo_pipeline.formats import video_files
    from tgo_pipeline.rewards.vision_language.clips import FrameSampling, read_clip

    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 24, 3), dtype=np.uint8)
    seeds = {"lossless": video_files.lossless(frames, 8)[0], "preview": video_files.preview(frames, 8)}
    path = folder / "clip.mp4"
    while True:
        kind = numbers.choice(sorted(name for name, data in seeds.items() if data))
        data = mangle(numbers, seeds[kind] or b"")
        path.write_bytes(data)
        yield Input(
            kind,
            data,
            [
                lambda data=data: video_files.read_frames(data),
                lambda: read_clip(path, FrameSampling()),
            ],
        )


def _tables(folder: Path) -> dict[str, pa.Table]:
    """A table of every schema that stages write with names and rows of their own."""
    from tgo_pipeline.storage import tables

    rows = 12
    ids = pa.array([f"{i:016x}" for i in range(rows)])
    image = pa.array(
        [{"bytes": b"\x89PNG" + bytes(40), "path": f"{i}.png"} for i in range(rows)], tables.IMAGE
    )
    found = {}
    for name in ("PROMPTS", "GENERATIONS"):
        schema = getattr(tables, name)
        columns = []
        for place in schema:
            kind = place.type
            columns.append(
                image
                if kind == tables.IMAGE
                else ids
                if pa.types.is_string(kind)
                else pa.array(range(rows)).cast(kind)
            )
        found[name] = pa.table(columns, schema=schema.with_metadata({b"tgo": b'{"fingerprint": "0"}'}))
    scores = {"sample_id": ids, "prompt_id": ids, "clip": pa.array(np.linspace(0, 1, rows), pa.float32())}
    found["scores"] = pa.table(scores).replace_schema_metadata(
        {b"tgo": b'{"fingerprint": "0", "rewards": {}}'}
    )
    return found


def _parquet_readers(path: Path) -> list[Reader]:
    from tgo_pipeline.reading.tables import open_table
    from tgo_pipeline.storage import tables
    from tgo_pipeline.storage.shards import stored_metadata

    def rows() -> None:
        table = open_table(path)
        for _ in table.rows(table.names[:3]):
            pass

    def streamed() -> None:
        for value in tables.stream_images(path):
            if value is not None and not isinstance(value, bytes):
                value.read()

    return [
        lambda: tables.read_table(path),
        lambda: tables.read_table(path, tables.GENERATIONS),
        lambda: tables.read_folder(path.parent),
        lambda: tables.read_metadata(path, ["fingerprint"]),
        lambda: tables.row_count(path),
        lambda: list(tables.stream_rows(path, ["prompt_id"], 5)),
        lambda: stored_metadata(path),
        streamed,
        rows,
    ]


def parquet(numbers: random.Random, folder: Path) -> Iterator[Input]:
    seeds = {}
    for name, table in _tables(folder).items():
        for way in ("NONE", "ZSTD"):
            stream = io.BytesIO()
            pq.write_table(table, stream, compression=way, use_dictionary=way != "NONE")
            seeds[f"{name} {way}"] = stream.getvalue()
    path = folder / "parquet" / "t.parquet"
    path.parent.mkdir(exist_ok=True)
    while True:
        kind = numbers.choice(sorted(seeds))
        data = mangle(numbers, seeds[kind])
        path.write_bytes(data)
        yield Input(kind, data, _parquet_readers(path))


def tables(numbers: random.Random, folder: Path) -> Iterator[Input]:
    seeds = _tables(folder)
    path = folder / "tables" / "t.parquet"
    path.parent.mkdir(exist_ok=True)
    while True:
        kind = numbers.choice(sorted(seeds))
        what, table = changed_table(numbers, seeds[kind])
        stream = io.BytesIO()
        try:
            pq.write_table(table, stream)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a null where the schema forbids it
            continue
        path.write_bytes(stream.getvalue())
        yield Input(f"{kind} {what}", stream.getvalue(), _parquet_readers(path))


def texts(numbers: random.Random, folder: Path) -> Iterator[Input]:
    from tgo_pipeline.prompts.sources import prompts
    from tgo_pipeline.reading.tables import open_table

    rows = [{"prompt": f"a ring, {i}", "category": "c"} for i in range(12)]
    seeds = {
        "csv": b"prompt,category\n" + b"".join(b'"a ring, %d",cat\n' % i for i in range(12)),
        "tsv": b"prompt\tcategory\n" + b"".join(b"a ring %d\tcat\n" % i for i in range(12)),
        "jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows),
        "json": json.dumps(rows).encode(),
        "txt": b"".join(b"a ring %d\n" % i for i in range(12)),
    }
    while True:
        kind = numbers.choice(sorted(seeds))
        data = numbers.choice(TEXT_JUNK) if numbers.random() < 0.05 else mangle(numbers, seeds[kind])
        path = folder / f"t.{kind}"
        path.write_bytes(data)
        readers: list[Reader] = [lambda path=path: list(prompts(str(path), "prompt"))]
        if kind != "txt":
            readers += [
                lambda path=path: list(open_table(path).rows(["prompt"], ["category"])),
                lambda path=path: list(open_table(path).batches(["prompt"])),
            ]
        yield Input(kind, data, readers)


def json_files(numbers: random.Random, folder: Path) -> Iterator[Input]:
    from tgo_pipeline.generators import location
    from tgo_pipeline.hub.json_files import read_json
    from tgo_pipeline.planning.blueprint import read_blueprint
    from tgo_pipeline.storage.shards import stored_metadata

    model = folder / "model"
    root = Path(demo.weights_path("diffusion"))
    seeds = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.json"))}
    for name, data in seeds.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(data)
    while True:
        name = numbers.choice(sorted(seeds))
        if numbers.random() < 0.5:
            data = mangle(numbers, seeds[name])
        else:
            content = json.loads(seeds[name])
            if isinstance(content, dict) and content:
                content[numbers.choice(sorted(content))] = numbers.choice(JUNK)
            data = json.dumps(content).encode()
        path = model / name
        path.write_bytes(data)
        yield Input(
            name,
            data,
            [
                lambda path=path: read_json(path),
                lambda path=path: stored_metadata(path),
                lambda: location.locate(str(model)),
                lambda: read_blueprint(str(model), None),
            ],
        )
        path.write_bytes(seeds[name])


def weights(numbers: random.Random, folder: Path) -> Iterator[Input]:
    from tgo_pipeline.hub.checkpoint import read_weights

    file = Path(demo.weights_path("diffusion")) / "vae" / "diffusion_pytorch_model.safetensors"
    seed, path = file.read_bytes(), folder / "model.safetensors"
    index = folder / "sharded" / "model.safetensors.index.json"
    index.parent.mkdir(exist_ok=True)
    (index.parent / "a.safetensors").write_bytes(seed)
    size = int.from_bytes(seed[:8], "little")
    names = [name for name in json.loads(seed[8 : 8 + size]) if name != "__metadata__"]
    listed = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")}).encode()
    while True:
        kind = numbers.randrange(3)
        if kind == 0:
            what, data = safetensors_lies(numbers, seed)
        elif kind == 1:  # the header, for flips of the numbers behind it are other numbers
            what, data = "mangled", mangle(numbers, seed[: 8 + size]) + seed[8 + size :]
        else:
            what, data = "index", mangle(numbers, listed)
            index.write_bytes(data)
            yield Input(what, data, [lambda: read_weights(index)])
            continue
        path.write_bytes(data)
        yield Input(what, data, [lambda: read_weights(path)])


def pickled(numbers: random.Random, folder: Path) -> Iterator[Input]:
    from tgo_pipeline.hub.checkpoint import read_weights

    seeds = pickles(folder / "executed", folder / "escape")
    path = folder / "pytorch_model.bin"
    while True:
        kind = numbers.choice(sorted(seeds))
        data = mangle(numbers, seeds[kind]) if numbers.random() < 0.9 else seeds[kind]
        path.write_bytes(data)
        yield Input(kind, data, [lambda: read_weights(path)])


def hub(numbers: random.Random, folder: Path) -> Iterator[Input]:
    """The server in the parent draws a status and mangles its answers, each by the number of its repository."""
    from tgo_pipeline.hub import files
    from tgo_pipeline.hub.address import Repository
    from tgo_pipeline.reading.places import Hub

    while True:
        name = f"me/r{numbers.randrange(2**40)}"
        place = Repository(name, "main")
        yield Input(
            f"hub {name}",
            name.encode(),
            [
                lambda place=place: files.find(place, "config.json"),
                lambda name=name: Hub(name, "main").find("*.parquet"),
            ],
        )


class _HubHandler(BaseHTTPRequestHandler):
    """Answers as a hub might that is broken, or no hub: by the repository's number alone."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        numbers = random.Random(f"{self.path} {self.command}")
        sha = "0123456789abcdef0123456789abcdef01234567"
        listing = {"id": "me/r", "sha": sha, "siblings": [{"rfilename": "a.parquet"}], "lastModified": None}
        body = json.dumps(
            [{"type": "file", "path": "a.parquet", "size": 4, "oid": sha}]
            if "/tree/" in self.path
            else listing
        )
        body = mangle(numbers, body.encode()) if numbers.random() < 0.8 else body.encode()
        headers = {
            "ETag": '"x"',
            "X-Repo-Commit": sha,
            "X-Linked-Size": str(len(body)),
            "Content-Type": "application/json",
        }
        for name in numbers.sample(sorted(headers), numbers.randrange(3)):
            headers[name] = numbers.choice(
                ["", "x", "-1", "9" * 40, '"../../x"', "é".encode().decode("latin-1")]
            )
        self.send_response(numbers.choice(HUB_STATUSES))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


READ: dict[str, Callable[[random.Random, Path], Iterator[Input]]] = {
    "images": images,
    "clips": clips,
    "parquet": parquet,
    "tables": tables,
    "texts": texts,
    "json": json_files,
    "weights": weights,
    "pickles": pickled,
    "hub": hub,
}


def judged(reader: Reader) -> str:
    """What is wrong with how a reader ended; empty where it gave a value, or its own error."""
    from tgo_pipeline.formats.video_files import UnreadableVideo
    from tgo_pipeline.rewards.engine.decode import UnreadableImage

    try:
        with limited(SECONDS):
            reader()
    except (TgoError, UnreadableImage, UnreadableVideo) as error:
        said = str(error)
        if len(said) > MESSAGE:
            return f"a message of {len(said)} characters"
    except Late:
        return f"longer than {SECONDS} s"
    except Exception:  # noqa: BLE001  # every other one is a finding
        return traceback.format_exc(limit=-6)
    return ""


def read_many(group: str, seed: str, count: int, folder: Path, found: Path | None) -> None:
    """Read inputs one after the other; print a line of JSON for each finding, and end with 1 if there is one."""
    wrong = 0
    for number, given in zip(range(count), READ[group](random.Random(seed), folder), strict=False):
        for place, reader in enumerate(given.readers):
            if detail := judged(reader):
                wrong += 1
                if found is not None:
                    (found / f"{group}-{seed.split()[-1]}-{number}").write_bytes(given.data)
                about = {
                    "input": f"{given.name} ({seed}, {number})",
                    "reader": place,
                    "detail": detail[-900:],
                }
                print("FOUND " + json.dumps(about), flush=True)
    if wrong:
        raise SystemExit(1)


def run(options: argparse.Namespace, work: Path) -> int:
    """Try the inputs of every group and print what was found; the exit code."""
    options.work, folder = work, work / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    found = work / "found"
    found.mkdir(exist_ok=True)
    child = Child(options, folder)
    child.plain_mb = plain(child, lambda: None)
    counts: dict[str, int] = {}
    findings: dict[str, dict[str, Any]] = {}
    for group in options.groups.split(","):
        end, counts[group] = time.monotonic() + 60 * options.minutes, 0
        while counts[group] < options.inputs and time.monotonic() < end:
            count = min(AT_ONCE, options.inputs - counts[group])
            seed = f"{options.seed} {group} {counts[group]}"
            call = lambda: read_many(group, seed, count, folder, found)  # noqa: B023, E731  # called before the next
            kind, detail = child(call, (0,), options.seconds)
            counts[group] += count
            for flag in ("executed", "escape"):
                if (folder / flag).exists():
                    (folder / flag).unlink()
                    kind, detail = f"{flag}: code or an archive of an input acted", seed
            if kind:
                _note(findings, group, kind, f"{seed}: {detail}", child.output)
    for about, one in findings.items():
        print(json.dumps({"finding": about, **one}), flush=True)
    print(json.dumps({"inputs": counts, "findings": len(findings)}))
    return int(bool(findings))


def _note(findings: dict[str, dict[str, Any]], group: str, kind: str, detail: str, output: Path) -> None:
    """Count a finding by what its last line says."""
    lines = [
        json.loads(line[6:])
        for line in output.read_text(errors="replace").splitlines()
        if line.startswith("FOUND ")
    ]
    for line in lines or [{"input": detail, "detail": detail}]:
        last = line["detail"].strip().splitlines()[-1].partition(":")[0][:80] if lines else kind
        one = findings.setdefault(f"{group}: {last}", {"count": 0, "first": line})
        one["count"] += 1


def main(arguments: list[str] | None = None) -> int:
    """Try damaged inputs; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, help="where inputs lie, and findings stay (default: a temporary folder)"
    )
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--inputs", type=int, default=200, help="of each group")
    parser.add_argument("--minutes", type=float, default=30, help="for each group")
    parser.add_argument("--seconds", type=float, default=300, help=f"of a child, for {AT_ONCE} inputs")
    parser.add_argument(
        "--megabytes", type=int, default=1500, help="what a child may take beyond its beginning"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _HubHandler)
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
    warm()
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["HF_HUB_CACHE"] = constants.HF_HUB_CACHE = str(Path(temporary) / "hub")
        return run(options, (options.work or Path(temporary)).resolve())


if __name__ == "__main__":
    sys.exit(main())
