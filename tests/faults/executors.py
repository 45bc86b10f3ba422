"""Score the same shards with every executor, kill at random meanwhile, and compare every column of scores.

    python -m tests.faults.executors --work FOLDER --shards 60 --kills 50 --seed 7 [--ways two,ranks,ray,s3]

  alone   the truth: one process of the executor `local`
  two     `local` with two processes
  ranks   four processes of `ranks`, one of them with two workers, one whose clock is a day and an hour behind
  ray     two raylets of one core each, and a driver
  s3      one process whose shards lie in an object store, through a proxy that fails; after half of the kills another
          machine goes on, with nothing but the store

All but `two` are disturbed, and shards removed and scored again, until there were enough kills or the time is over:
SIGKILL of a rank, of one of its workers, SIGTERM, SIGSTOP for longer than the lease; SIGKILL of a worker, of the driver
and of a raylet. Prints a line of JSON for each way; exit code 1 if a column differs, or anything hangs or stays.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.faults.children import tgo
from tests.object_store import BUCKET, CREDENTIALS, Harm, directly, harmful, s3_server
from tests.project import ROOT, environment
from tgo_pipeline.demo import world
from tgo_pipeline.storage.tables import read_table

LEASE_S = 6.0
PATIENCE_S = 300.0
"""Without a new shard for so long, something hangs."""
ROWS = 2
PARAMS: dict[str, Any] = {
    "seed": 0,
    "model": "demo",
    "revision": None,
    "prompts": {"train": "prompts.txt", "test": {"plain": "demo:plain"}},
    "generate": {"steps": 1, "images_per_prompt": ROWS, "shard_size": ROWS, "guidance_scale": 1.0},
    "score": {"rewards": {"clip": "demo", "slow": "slow:brightness"}},
    "target": {"reward": "clip"},
    "runtime": {"device": "cpu", "threads": 1, "workers": 1, "score_batch_size": 1},
}
REWARD = '''"""A reward that leaves a kill some time."""

import time

import numpy as np


def brightness(images, prompts):
    time.sleep(0.15 * len(images))
    return [float(np.asarray(image.convert("L")).mean()) for image in images]
'''
CLOCK = """import time
_now = time.time
time.time = lambda: _now() - 25 * 3600
"""
"""Of a machine whose clock was set back."""


class Folder:
    """One way's project: generations as all have them, scores of its own."""

    def __init__(self, root: Path, runtime: dict[str, Any]) -> None:
        self.root, self.scores = root, root / "data" / "scores"
        self.variables: dict[str, str] = {}
        root.mkdir(parents=True)
        (root / "prompts.txt").touch()
        (root / "slow.py").write_text(REWARD)
        self.log = root / "said.log"
        params = PARAMS | {"runtime": PARAMS["runtime"] | runtime}
        (root / "params.yaml").write_text(yaml.safe_dump(params))

    def start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """`tgo WORDS` in the project."""
        own = {"PYTHONPATH": str(ROOT), "TGO_LEASE_S": str(LEASE_S), **self.variables, **variables}
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                tgo(*words),
                cwd=self.root,
                env=environment() | own,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def run(self, *words: str, **variables: str) -> None:
        """The same, to its end. Raises RuntimeError if it does not end well."""
        if code := self.start(*words, **variables).wait(timeout=PATIENCE_S):
            raise RuntimeError(f"tgo {' '.join(words)} ends with {code}: {self.said}")

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    @property
    def written(self) -> list[Path]:
        """The shards of scores that there are."""
        return sorted(self.scores.glob("[!.]*.parquet"))

    def columns(self) -> dict[str, str]:
        """The sha256 of every column of every shard."""
        found = {}
        for path in self.written:
            table = read_table(path)
            for name in table.column_names:
                values = repr(table[name].to_pylist()).encode()
                found[f"{path.name}/{name}"] = hashlib.sha256(values).hexdigest()
        return found


class Way:
    """An executor at work on a folder, with what happens to it."""

    def __init__(self, folder: Folder, shards: int, dice: random.Random) -> None:
        self.folder, self.shards, self.dice = folder, shards, dice
        self.kills = Counter[str]()
        self.wrong: list[str] = []

    def disturbed(self, kills: int, end_s: float) -> None:
        """Score, with kills, and score again what is then removed, until there were enough."""
        while True:
            self.score(kills, end_s)
            if self.wrong or self.kills.total() >= kills or time.monotonic() > end_s:
                return
            for path in self.dice.sample(self.folder.written, self.shards * 2 // 3):
                self.remove(path)

    def score(self, kills: int, end_s: float) -> None:
        """Until the folder is whole."""
        self.begin()
        count, since_s = -1, time.monotonic()
        while not self.ended():
            time.sleep(self.dice.uniform(0.3, 1.5))
            now = len(self.folder.written)
            if now != count:
                count, since_s = now, time.monotonic()
            if time.monotonic() - since_s > PATIENCE_S:
                self.wrong.append(f"no shard in {PATIENCE_S:g} s at {count} of {self.shards}")
                break
            if count < self.shards and self.kills.total() < kills and time.monotonic() < end_s:
                self.disturb()
        self.finish()

    def remove(self, path: Path) -> None:
        """Let a shard be scored again."""
        path.unlink()

    def begin(self) -> None: ...
    def ended(self) -> bool: ...
    def disturb(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class Ranks(Way):
    """Four processes in one folder."""

    ENDS = (0, 2, 130, -signal.SIGKILL)
    """Whole; a worker of it was killed; SIGTERM; SIGKILL."""

    def begin(self) -> None:
        self._clock = self.folder.root / "clock"
        self._clock.mkdir(exist_ok=True)
        (self._clock / "sitecustomize.py").write_text(CLOCK)
        self._stopped: list[tuple[subprocess.Popen[bytes], float]] = []
        self._running = {rank: self._start(rank) for rank in range(4)}

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        own = {"TGO_RANK": str(rank), "TGO_RANKS": "4"}
        if rank == 2:
            own["PYTHONPATH"] = f"{self._clock}{os.pathsep}{ROOT}"
        processes = ["--set", "runtime.processes=2"] if rank == 3 else []
        return self.folder.start("run", "score", *processes, **own)

    def ended(self) -> bool:
        for process, until_s in list(self._stopped):
            if time.monotonic() > until_s:
                process.send_signal(signal.SIGCONT)
                self._stopped.remove((process, until_s))
        for rank, process in self._running.items():
            code = process.poll()
            if code is not None and code not in self.ENDS:
                self.wrong.append(f"rank {rank} ends with {code}: {self.folder.said}")
            if code:
                self._running[rank] = self._start(rank)
        return bool(self.wrong) or all(process.poll() == 0 for process in self._running.values())

    def disturb(self) -> None:
        kind = self.dice.choice(("kill", "kill", "term", "stop", "worker"))
        rank = 3 if kind == "worker" else self.dice.randrange(4)
        process = self._running[rank]
        if process.poll() is not None or any(process is one for one, _ in self._stopped):
            return
        if kind == "worker":
            workers = _children(process.pid, "spawn_main")
            if not workers:
                return
            self.dice.choice(workers).kill()
        elif kind == "stop":
            process.send_signal(signal.SIGSTOP)
            self._stopped.append((process, time.monotonic() + 3 * LEASE_S))
            self._running[rank] = self._start(rank)  # another one takes its place
        else:
            process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        self.kills[kind] += 1

    def finish(self) -> None:
        for process, _ in self._stopped:
            process.send_signal(signal.SIGCONT)
        for process, _ in self._stopped:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
        for process in (*self._running.values(), *(process for process, _ in self._stopped)):
            if process.poll() is None:
                self.wrong.append("a process does not end")
                process.kill()


class Ray(Way):
    """A driver and a cluster of two raylets on this machine."""

    def begin(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_worker_niceness", "0")  # or workers wait for all else that runs here
        if not hasattr(self, "_nodes"):
            self._nodes = Cluster(
                initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
            )
            self._second = self._nodes.add_node(num_cpus=1)
        self._written = 0
        self._driver = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        own = {"RAY_ADDRESS": self._nodes.address, "RAY_AUTH_MODE": "disabled", "TGO_RAY_CPUS": "1"}
        return self.folder.start("run", "score", **own)

    def ended(self) -> bool:
        code = self._driver.poll()
        if code == -signal.SIGKILL:
            self._driver = self._start()
        elif code:
            self.wrong.append(f"the driver ends with {code}: {self.folder.said}")
        return code is not None and code != -signal.SIGKILL

    def disturb(self) -> None:
        kind = self.dice.choice(("worker", "worker", "driver", "node"))
        workers = [one for one in _ours() if "ray::ClusterWorker" in _title(one)]
        written = len(self.folder.written)
        if written == self._written or (kind != "driver" and not workers):
            return  # the driver rightly gives up when three workers break one after the other
        self._written = written
        if kind == "driver":
            self._driver.kill()
            self._driver.wait()
        elif kind == "worker":
            self.dice.choice(workers).kill()
        else:
            self._nodes.remove_node(self._second, allow_graceful=False)
            self._second = self._nodes.add_node(num_cpus=1)
        self.kills[kind] += 1

    def finish(self) -> None:
        if self._driver.poll() is None:
            self._driver.kill()

    def close(self) -> None:
        self._nodes.shutdown()


class Store(Way):
    """One process after the other, on machines that share an object store alone."""

    KILLED = (130, -signal.SIGTERM, -signal.SIGKILL)
    """By SIGTERM, also before Python has its own handlers, and by SIGKILL."""

    def begin(self) -> None:
        if not hasattr(self, "_ends"):
            self._ends = contextlib.ExitStack()
            server = self._ends.enter_context(s3_server())
            self._harm = Harm()
            proxy = self._ends.enter_context(harmful(server, self._harm))
            self._store, self._cache = directly(server), self.folder.root / "cache"
            self.folder.variables = {**CREDENTIALS, "AWS_ENDPOINT_URL": proxy, "TGO_CACHE": str(self._cache)}
            self.folder.run("run", "generate")  # which has nothing to do but to bring its shards there
            self._next_machine()
        self._written: set[str] = set()
        self._process = self.folder.start("run", "score")

    def _next_machine(self) -> None:
        """Nothing of the one before is here but the prompts."""
        shutil.rmtree(self._cache, ignore_errors=True)
        for name in ("generations", "scores"):
            shutil.rmtree(self.folder.root / "data" / name, ignore_errors=True)

    def remove(self, path: Path) -> None:
        path.unlink()
        for name in (f".{path.name}.xxh3", path.name):
            self._store.delete_file(f"{BUCKET}/project/scores/{name}")

    def ended(self) -> bool:
        code = self._process.poll()
        if code in self.KILLED:
            if self.dice.random() < 0.5:
                self._next_machine()
            self._process = self.folder.start("run", "score")
        elif code:
            self.wrong.append(f"it ends with {code}: {self.folder.said}")
        return code is not None and code not in self.KILLED

    def disturb(self) -> None:
        kind = self.dice.choice(("kill", "kill", "term", "failures", "cuts"))
        written = {path.name for path in self.folder.written}
        if not written - self._written:
            return  # it begins still, and would for ever
        self._written = written
        if kind in ("failures", "cuts"):
            setattr(self._harm, kind, 2)
        else:
            self._process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        self.kills[kind] += 1

    def finish(self) -> None:
        """The last machine has nothing to do: what is compared comes from the store."""
        if self._process.poll() is None:
            self._process.kill()
        self._next_machine()
        self.folder.run("run", "score")

    def close(self) -> None:
        self._ends.close()


def _children(pid: int, part: str) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [child for child in psutil.Process(pid).children(recursive=True) if part in _title(child)]
    return []


def _ours() -> Iterator[psutil.Process]:
    """What this process has begun, raylets' workers among it."""
    yield from psutil.Process().children(recursive=True)


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


WAYS: dict[str, tuple[type[Way], dict[str, Any]]] = {
    "two": (Way, {"processes": 2}),
    "ranks": (Ranks, {"executor": "ranks"}),
    "ray": (Ray, {"executor": "ray"}),
    "s3": (Store, {"data": f"s3://{BUCKET}/project"}),
}


def make_truth(work: Path, shards: int) -> Folder:
    """Generations and scores of one undisturbed process."""
    truth = Folder(work / "alone", {})
    captions = list(world.captions("plain", "train"))
    captions = [f"{captions[row % len(captions)]}, number {row}" for row in range(shards)]
    (truth.root / "prompts.txt").write_text("\n".join(captions) + "\n")
    for stage in ("prompts", "generate", "score"):
        truth.run("run", stage)
    assert len(truth.written) == shards, truth.said
    return truth


def tried(name: str, truth: Folder, folder: Folder, way: Way, began_s: float) -> dict[str, Any]:
    """What a way has come to, beside the truth."""
    wrong, expected, found = way.wrong, truth.columns(), folder.columns()
    wrong += [f"{key} differs" for key in expected if found.get(key) != expected[key]]
    folder.run("run", "score", "--set", "runtime.executor=local")
    if f"{way.shards} done, 0 stale, 0 to do" not in folder.said:
        wrong.append(f"there is something to do: {folder.said}")
    claims = folder.scores / ".claims"
    left = [*folder.scores.glob(".tmp-*"), *(claims.iterdir() if claims.is_dir() else ())]
    wrong += [f"{path.name} stays" for path in left]
    took_s = round(time.monotonic() - began_s, 1)
    kills, columns = dict(way.kills), len(expected)
    return {
        "way": name,
        "shards": way.shards,
        "columns": columns,
        "kills": kills,
        "seconds": took_s,
        "wrong": wrong,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Try each way; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="the folder of the projects (default: a temporary one)")
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--kills", type=int, default=50, help="of each way that is disturbed")
    parser.add_argument("--minutes", type=float, default=30, help="of disturbance, of each way")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        truth = make_truth(work, options.shards)
        for name in options.ways.split(","):
            kind, runtime = WAYS[name]
            folder = Folder(work / name, runtime)
            shutil.copy2(truth.root / "prompts.txt", folder.root)
            shutil.copytree(
                truth.root / "data", folder.root / "data", ignore=shutil.ignore_patterns("scores")
            )
            began_s, dice = time.monotonic(), random.Random(options.seed)
            with contextlib.closing(kind(folder, options.shards, dice)) as way:
                if name == "two":
                    folder.run("run", "score")
                else:
                    way.disturbed(options.kills, began_s + 60 * options.minutes)
                found.append(tried(name, truth, folder, way, began_s))
            print(json.dumps(found[-1]), flush=True)
    kills = sum(sum(one["kills"].values()) for one in found)
    findings = sum(len(one["wrong"]) for one in found)
    print(json.dumps({"ways": len(found), "kills": kills, "findings": findings}))
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
