"""All five rewards end to end, bytes in and scores written: this project, imscore and the official packages, in turn.

python -m benchmarks.rewards.speed                       # full size on the CPU; writes its section of RESULTS.md
python -m benchmarks.rewards.speed --size tiny           # the same in under a minute, to see that all sides run
python -m benchmarks.rewards.speed --device cuda --images 512 --shards 4

Every side gets the same images, prompts, threads and random weights of the official sizes, in a process of its own
for each round; sides take turns. imscore and the official packages run under `--official PYTHON`, in the environment
of `tgo env create official-rewards`, where imscore 0.0.11 and loguru 0.7.3 have to be installed besides, without deps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parity.checkpoints import Checkpoints, write_checkpoints
from benchmarks.results import RESULTS, hardware, record, replace_section
from benchmarks.rewards.inputs import write_shards
from benchmarks.rewards.packages.task import RESULT, REWARDS, Task, read_scores
from benchmarks.rewards.setup import add_setup, checkpoint_sources, prepared
from benchmarks.rewards.tables import speed_section
from benchmarks.turns import active_s, take_turns
from tgo_pipeline.rewards.isolated.environments import ENVIRONMENTS

ROOT = Path(__file__).parents[2]
OFFICIAL = ENVIRONMENTS["official-rewards"].folder / "bin/python"
SIDES = ("ours", "imscore", "official")
PER_IMAGE = "per image"
LONGEST_S = 3600


@dataclass(frozen=True)
class Python:
    """An interpreter, and folders put before its own packages."""

    executable: Path
    path: Sequence[str] = ()


def run_side(side: str, task: Task, python: Python, hub: Path) -> dict[str, Any]:
    """Run one side in a process of its own. Raises `CalledProcessError` if it fails."""
    process = _start(side, task, python, hub)
    try:
        process.wait(LONGEST_S)
    finally:
        process.kill()
    return _result(task, process)


def run_in_turns(
    peer: str, tasks: Mapping[str, Task], pythons: Mapping[str, Python], hub: Path
) -> dict[str, list[dict[str, float]]]:
    """Run this project and a peer in turns until the peer has done its work.

    Gives for each side and repeat the seconds per image of each of its forms, in its own turns.
    """
    processes = {side: _start(side, task, pythons[side], hub) for side, task in tasks.items()}
    try:
        turns = take_turns(processes, {side: Path(task.out) for side, task in tasks.items()}, until=peer)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    found = {}
    for side, task in tasks.items():
        result = json.loads((Path(task.out) / RESULT).read_text())
        images = {name: form["images"] for name, form in result["forms"].items()}
        found[side] = [
            {name: active_s(span, turns[side]) / images[name] for name, span in spans.items()}
            for spans in result["repeats"]
        ]
    return found


def _start(side: str, task: Task, python: Python, hub: Path) -> subprocess.Popen[bytes]:
    out = Path(task.out)
    out.mkdir(parents=True, exist_ok=True)
    task.write(out / "task.json")
    command = [str(python.executable), "-m", f"benchmarks.rewards.packages.{side}", str(out / "task.json")]
    with (out / "log.txt").open("w") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=_environment(task.threads, hub, python), stdout=log, stderr=log
        )


def _result(task: Task, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return json.loads((Path(task.out) / RESULT).read_text())


def _environment(threads: int, hub: Path, python: Python) -> dict[str, str]:
    """This many threads, the checkpoints as the only hub cache, no network."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    paths = os.pathsep.join([*python.path, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, **counts, **offline, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": paths}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run every side in every round; what was asked for, what it ran on, and every side's results in order."""
    checkpoints = write_checkpoints(arguments.work / f"weights-{arguments.size}", arguments.size, 0)
    shards = write_shards(arguments.work / "shards", arguments.images, arguments.per_prompt, arguments.shards)
    peer = Python(arguments.official.absolute(), arguments.official_path)
    pythons = {"ours": Python(Path(sys.executable)), "imscore": peer, "official": peer}
    runs = arguments.work / f"runs-{arguments.size}"
    shutil.rmtree(runs, ignore_errors=True)
    rounds: dict[str, list[dict[str, Any]]] = {
        side: [] for side in arguments.sides if _available(side, pythons[side])
    }
    for number in range(arguments.rounds):
        for side in [side for side in rounds if side != "official" or number < arguments.official_rounds]:
            task = _task(arguments, runs / f"{side}-{number}", shards, checkpoints)
            try:
                result = run_side(side, task, pythons[side], checkpoints.hub)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                print(f"round {number}: {side} is left out: {error}; see {task.out}/log.txt", flush=True)
                del rounds[side]
                continue
            rounds[side].append(result)
            print(f"round {number}, {side}: {_short(result)}", flush=True)
    in_turns = {}
    for peer in [side for side in rounds if side != "ours" and arguments.turns]:
        tasks = {
            side: dataclasses.replace(
                _task(arguments, runs / f"{peer}-turns-{side}", shards, checkpoints), repeats=repeats
            )
            for side, repeats in (("ours", 1000), (peer, arguments.turns if peer == "imscore" else 1))
        }
        in_turns[peer] = run_in_turns(peer, tasks, pythons, checkpoints.hub)
        print(f"in turns with {peer}: {in_turns[peer]}", flush=True)
    asked = ("size", "images", "per_prompt", "shards", "threads", "batch_size")
    return {
        "workload": {name: getattr(arguments, name) for name in asked},
        "hardware": hardware(),
        "sides": rounds,
        "in_turns": in_turns,
        "differences": differences(runs, list(rounds)),
    }


def _task(arguments: argparse.Namespace, out: Path, shards: Sequence[Path], checkpoints: Checkpoints) -> Task:
    return Task(
        out=str(out),
        shards=[str(shard) for shard in shards],
        checkpoints=str(checkpoints.folder),
        sources=checkpoint_sources(checkpoints),
        size=arguments.size,
        device=arguments.device,
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        limits={PER_IMAGE: arguments.per_image},
    )


def _available(side: str, python: Python) -> bool:
    """Whether an environment has the packages of a side; says what to do if not."""
    if side == "ours":
        return True
    package = {"imscore": "imscore", "official": "hpsv2"}[side]
    found = (
        python.executable.is_file()
        and not subprocess.run(
            [
                str(python.executable),
                "-c",
                f"import importlib.util as i; exit(i.find_spec({package!r}) is None)",
            ],
            env=_environment(1, Path(), python),
            check=False,
        ).returncode
    )
    if not found:
        print(
            f"{side} is left out: {python.executable} has no {package}; see the top of this script.",
            flush=True,
        )
    return found


def _short(result: dict[str, Any]) -> str:
    forms = (
        f"{name} {form['seconds']['all'] / form['images']:.2f} s/image"
        for name, form in result["forms"].items()
    )
    return f"load {result['load_s']:.0f} s, {', '.join(forms)}"


def differences(runs: Path, sides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Largest difference of each other side's scores to ours by reward, in the reward's units, over the first round.

    Large ones would mean that somebody did other work.
    """
    found: dict[str, dict[str, float]] = {}
    if "ours" not in sides:
        return found
    ours = {path.name: read_scores(path) for path in (runs / "ours-0/together").iterdir()}
    for side in set(sides) - {"ours"}:
        for path in (runs / f"{side}-0").glob("*/benchmark-*"):
            largest = found.setdefault(f"{side}, {path.parent.name}", dict.fromkeys(REWARDS, 0.0))
            for name, values in read_scores(path).items():
                difference = float(abs(values - ours[path.name][name][: len(values)]).max())
                largest[name] = max(difference, largest[name])
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setup(parser)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="imscore's; this project chooses its own")
    parser.add_argument(
        "--per-image", type=int, default=2, help="images for the official form of one per call"
    )
    parser.add_argument(
        "--official-rounds", type=int, default=1, help="rounds in which the slow official packages take part"
    )
    parser.add_argument(
        "--turns",
        type=int,
        default=3,
        help="times that imscore does the work in turns with this project; 0: none",
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--official", type=Path, default=OFFICIAL, metavar="PYTHON")
    parser.add_argument(
        "--official-path", nargs="*", default=(), help="folders put before that Python's packages"
    )
    return prepared(parser.parse_args(arguments))


def main() -> None:
    """Measure, keep the numbers as JSON and write the section."""
    arguments = parse()
    section = speed_section(
        record(arguments.results / "reward_speed.json", arguments.device, measure(arguments))
    )
    replace_section(arguments.results / RESULTS.name, "reward_speed", section)
    print(section)


if __name__ == "__main__":
    main()
