"""Damaged and hostile inputs of every reader: images, Parquet, tables, texts, weights, pickles, model folders.

    python -m tests.faults.fuzz_shards --seed 0 --inputs 200 [--groups images,parquet,...] [--work FOLDER]

Each input goes, in a forked child under limits of time, memory and file size, through a command that reads it, in a
copy of a finished small project. Allowed ends: 0, 2 with one message, 3 of `tgo score`. Findings: a traceback, a
signal, too long, too much memory, a file written outside, a program started, code of an input run. `--inputs` is for
each group. Prints a line of JSON for each kind of finding. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from tests.faults.image_inputs import bombs, image_seeds
from tests.faults.limits import Child, Copy, plain, tgo
from tests.faults.model_inputs import model_changes
from tests.faults.table_inputs import COMMANDS, TEXT_JUNK, changed_table, mangle
from tests.faults.trials import Trials
from tests.faults.weight_inputs import pickles as pickle_files
from tests.faults.weight_inputs import safetensors_lies
from tests.rewriting import forget_digest
from tgo_pipeline import demo

GROUPS = ("images", "parquet", "tables", "texts", "weights", "pickles", "models")
PARSED = 50
"""Images that one child decodes."""
PLACES = {
    "hpsv2.1": "HPS_v2.1_compressed.pt",
    "pickscore": "pytorch_model.bin",
    "imagereward": "ImageReward.pt",
    "clip": "pytorch_model.bin",
    "aesthetic": "sac+logos+ava1-l14-linearMSE.pth",
}
"""Where each reward looks for weights that may be pickled."""


@dataclass(frozen=True)
class Case:
    """An input that is in its place, and the call that reads it."""

    name: str
    call: Callable[[], object]
    allowed: tuple[int, ...] = (0, 2)
    seconds: float | None = None


class Inputs:
    """The inputs of each group, put into a copy of a finished project one after the other."""

    def __init__(self, copy: Copy, work: Path, seed: int) -> None:
        self._copy, self._folder, self._work = copy, copy.folder, work
        self._numbers = random.Random(seed)
        self.flag = work / "executed"
        self.escape = work / "tar_escape"

    def images(self) -> Iterator[Case]:
        seeds = image_seeds()
        for name, data in (*seeds.items(), *bombs().items()):
            yield Case(f"image {name}", self._decoded([data]), (0,), 60)
        while True:
            kinds = [self._numbers.choice(sorted(seeds)) for _ in range(PARSED)]
            yield Case(
                f"images {kinds}",
                self._decoded([mangle(self._numbers, seeds[kind]) for kind in kinds]),
                (0,),
                90,
            )

    def _decoded(self, images: list[bytes]) -> Callable[[], None]:
        from tgo_pipeline.images.import_folder import _size
        from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

        def call() -> None:
            for data in images:
                try:
                    decode(data)
                except UnreadableImage as error:
                    if len(str(error)) > 2000:
                        raise AssertionError(f"a reason of {len(str(error))} characters") from None
                _size(data)

        return call

    def parquet(self) -> Iterator[Case]:
        while True:
            name, path = self._table()
            path.write_bytes(mangle(self._numbers, path.read_bytes()))
            self._maybe_forget(path)
            yield self._read(name, "damaged")

    def tables(self) -> Iterator[Case]:
        while True:
            name, path = self._table()
            what, table = changed_table(self._numbers, pq.read_table(path))
            try:
                pq.write_table(table, path)
            except pa.ArrowInvalid:  # a null where the schema forbids it
                self._copy.restore()
                continue
            self._maybe_forget(path)
            yield self._read(name, what)

    def _maybe_forget(self, path: Path) -> None:
        """Mostly without its digest, which would be refused before the table is read."""
        if self._numbers.random() < 0.8:
            forget_digest(path)

    def _table(self) -> tuple[str, Path]:
        name = self._numbers.choice([one for one in COMMANDS if (self._folder / one).exists()])
        path = self._folder / name
        return name, self._numbers.choice(sorted(path.glob("[!.]*.parquet"))) if path.is_dir() else path

    def _read(self, name: str, what: str) -> Case:
        words = self._numbers.choice(COMMANDS[name])
        return Case(f"{name}: {what}; tgo {' '.join(words)}", tgo(*words))

    def texts(self) -> Iterator[Case]:
        ids = []
        for file in sorted((self._folder / "data/generations").glob("[!.]*.parquet")):
            ids += pq.read_table(file, columns=["sample_id"])["sample_id"].to_pylist()
        ratings = "".join(f"{name},r{place % 3},{place % 5 + 1}\n" for place, name in enumerate(ids))
        seeds = {
            "csv": b"prompt,category,challenge\n"
            + b"".join(b"a ring number %d,cat,ch\n" % i for i in range(12)),
            "jsonl": b"".join(json.dumps({"prompt": f"a ring {i}"}).encode() + b"\n" for i in range(12)),
            "txt": b"".join(b"a ring %d\n" % i for i in range(12)),
            "images": b"file_name,prompt\n" + b"".join(b"%d.png,a ring %d\n" % (i % 3, i) for i in range(9)),
            "feedback": f"image,rater,rating\n{ratings}".encode(),
        }
        while True:
            kind = self._numbers.choice(list(seeds))
            odd = self._numbers.random() < 0.35
            yield self._text(
                kind, self._numbers.choice(TEXT_JUNK) if odd else mangle(self._numbers, seeds[kind])
            )

    def _text(self, kind: str, data: bytes) -> Case:
        params = yaml.safe_load((self._folder / "params.yaml").read_text())
        commands: list[tuple[str, ...]] = [("status",)]
        if kind == "images":
            for number in range(3):
                self._image(f"fuzzed/{number}.png")
            (self._folder / "fuzzed/metadata.csv").write_bytes(data)
            params["generate"] |= {"source": "images", "images": "fuzzed"}
            commands += [
                ("run", "generate"),
                ("score", "fuzzed", "--rewards", "clip=demo", "--out", "s.parquet"),
            ]
        elif kind == "feedback":
            (self._folder / "fuzz.csv").write_bytes(data)
            rating = {"source": "fuzz.csv", "kind": "rating", "rater": "rater", "low": 1, "high": 5}
            params["score"]["feedback"] = {"people": rating}
            commands += [("run", "score")] * 3
        else:
            (self._folder / f"fuzz.{kind}").write_bytes(data)
            params["prompts"] = {"train": f"fuzz.{kind}", "test_fraction": 0.3}
            commands += [("run", "prompts")] * 3
        (self._folder / "params.yaml").write_text(yaml.safe_dump(params))
        words = self._numbers.choice(commands)
        return Case(f"text {kind}; tgo {' '.join(words[:2])}", tgo(*words), (0, 2, 3))

    def _image(self, name: str) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)

    def _own(self, rewards: list[str], *, model: bool) -> Path:
        """The weights of the small world as files of the project's own, which its parameters name."""
        shutil.rmtree(self._folder / "own", ignore_errors=True)
        root = Path(demo.weights_path("diffusion")).parent
        for name in ("diffusion", "rewards"):
            shutil.copytree(root / name, self._folder / "own" / name)
        params = yaml.safe_load((self._folder / "params.yaml").read_text())
        params["model"] = "own/diffusion" if model else "demo"
        params["score"]["rewards"] |= {name: f"own/rewards/{name}" for name in rewards}
        (self._folder / "params.yaml").write_text(yaml.safe_dump(params))
        return self._folder / "own"

    def weights(self) -> Iterator[Case]:
        while True:
            model = self._numbers.random() < 0.5
            reward = self._numbers.choice(list(PLACES))
            own = self._own([] if model else [reward], model=model)
            files = sorted((own / ("diffusion" if model else f"rewards/{reward}")).rglob("*.safetensors"))
            file = self._numbers.choice(files)
            what, data = safetensors_lies(self._numbers, file.read_bytes())
            file.write_bytes(data)
            words = self._numbers.choice(
                [("run", "generate" if model else "score"), ("status",), ("plan",), ("doctor",)]
            )
            yield Case(f"safetensors {what}: {file.relative_to(own)}; tgo {' '.join(words)}", tgo(*words))

    def pickles(self) -> Iterator[Case]:
        files = pickle_files(self.flag, self.escape)
        while True:
            kind, reward = self._numbers.choice(list(files)), self._numbers.choice(list(PLACES))
            own = self._own([reward], model=False) / "rewards" / reward
            for weights in own.glob("*.safetensors"):
                weights.unlink()
            (own / PLACES[reward]).write_bytes(files[kind])
            self._image("odd/a.png")
            source = f"{reward}=own/rewards/{reward}"
            words = (
                "score",
                "odd",
                "--rewards",
                source,
                "--prompt",
                "x",
                "--out",
                "s.parquet",
                "--overwrite",
            )
            yield Case(f"pickle {kind} as {reward}", tgo(*words), (0, 2, 3))

    def models(self) -> Iterator[Case]:
        for name, change in model_changes(self._numbers, self.flag):
            own = self._own([], model=True)
            shutil.rmtree(self._folder / "data/generations")
            change(own / "diffusion")
            words = self._numbers.choice(
                [("run", "generate"), ("run", "generate"), ("plan",), ("doctor",), ("status",)]
            )
            yield Case(f"model: {name}; tgo {' '.join(words)}", tgo(*words))


def run(options: argparse.Namespace, work: Path) -> int:
    """Try the inputs of every group and print what was found; the exit code."""
    options.work = work
    truth = Trials(work / "truth", options.seed).work / "saved" / "report"
    copy = Copy(_finished(truth, work / "finished"), work / "copy")
    child, inputs = Child(options, copy.folder), Inputs(copy, work, options.seed)
    child.plain_mb = plain(child, tgo("run", "score"))
    counts: dict[str, int] = {}
    found: dict[str, dict] = {}
    for group in options.groups.split(","):
        end = time.monotonic() + 60 * options.minutes
        copy.restore()
        for case in getattr(inputs, group)():
            kind, detail = child(case.call, case.allowed, case.seconds)
            for flag, said in (
                (inputs.flag, "code of an input was run"),
                (inputs.escape, "an archive wrote outside"),
            ):
                if flag.exists():
                    kind, detail = said, case.name
                    flag.unlink()
            counts[group] = counts.get(group, 0) + (PARSED if case.name.startswith("images ") else 1)
            if kind:
                one = found.setdefault(
                    f"{group}: {kind}", {"first": case.name, "count": 0, "detail": detail[-600:]}
                )
                one["count"] += 1
            copy.restore()
            if counts[group] >= options.inputs or time.monotonic() > end:
                break
    for kind, one in found.items():
        print(json.dumps({"finding": kind, **one}), flush=True)
    print(json.dumps({"inputs": counts, "findings": len(found)}))
    return int(bool(found))


def _finished(outputs: Path, folder: Path) -> Path:
    """The finished project: the outputs of the unbroken run beside its parameters."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(outputs.parents[1] / "truth", folder, ignore=shutil.ignore_patterns(".git", "cache"))
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Try damaged inputs; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="the folder of projects (default: a temporary one)")
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--inputs", type=int, default=200, help="of each group")
    parser.add_argument("--minutes", type=float, default=10, help="for each group")
    parser.add_argument("--seconds", type=float, default=60, help="of one command")
    parser.add_argument(
        "--megabytes", type=int, default=1500, help="what a command may take beyond a plain run"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return run(options, (options.work or Path(temporary)).resolve())


if __name__ == "__main__":
    sys.exit(main())
