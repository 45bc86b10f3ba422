"""A TGO step on the architectures of SD 1.5 and SDXL: this project's engine against plain loops, turn about.

python -m benchmarks.training.speed                      # narrow networks on the CPU, about three minutes
python -m benchmarks.training.speed --parts compile      # torch.compile on and off; compiling takes minutes on a CPU
python -m benchmarks.training.speed --size full --device cuda --batch 64 --micro 16

The plain loops are built as the official Diffusion-KTO and Diffusion-DPO scripts are: VAE and text encoder in the loop,
a separate reference copy of the U-Net, two samples a forward pass. All sides have the same random weights, images and
loss; that they compute the same is checked first. Each side is a process of its own. On a CPU they take turns of two
seconds, so that the machine's speed cancels; on a GPU each runs alone, in several rounds. Writes its section of
RESULTS.md and training_speed.json.
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
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import RESULTS, hardware, record, replace_section
from benchmarks.training.tables import CHECK, PRODUCTS, VARIANTS, section
from benchmarks.training.task import RESULT, Task
from benchmarks.turns import active_s, take_turns
from tgo_pipeline.devices import cores
from tgo_pipeline.planning.gpus import called

ROOT = Path(__file__).parents[2]
WORK = ROOT / "data/training-benchmark"
ARCHITECTURES = ("sd15", "sdxl")
BATCH = {"toy": 4, "small": 8, "full": 32}
PARTS = ("speed", "lora", "checkpointing", "compile")
TOLERANCE = {"cpu": 1e-3, "cuda": 5e-2}
"""Relative difference of losses that is rounding: half precision rounds the two sides' networks in other places."""
LONGEST_S = 3600


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, by architecture, and what it ran on."""
    shutil.rmtree(arguments.work, ignore_errors=True)
    asked = ("size", "batch", "micro", "steps", "rounds", "threads", "parts")
    return {
        "workload": {name: getattr(arguments, name) for name in asked},
        "hardware": hardware(),
        "architectures": {name: _architecture(arguments, name) for name in arguments.architectures},
    }


def _architecture(arguments: argparse.Namespace, architecture: str) -> dict[str, Any]:
    from benchmarks.training.flops import useful_flops

    check = _agreement(arguments, architecture)
    tasks = _tasks(arguments, architecture)
    if arguments.device == "cpu":
        sides = _in_turns(tasks, lasting=_slowest(tasks))
        peak = _rate(sides.pop(PRODUCTS))
    else:
        sides, peak = _alone(tasks, arguments.rounds), arguments.peak
    for variant in VARIANTS:
        if variant.name in sides and variant.against in sides:
            side = sides[variant.name]
            side["ratio"] = side["s_per_sample"] / sides[variant.against]["s_per_sample"]
            print(
                f"{architecture}, {variant.name}: {side['s_per_sample']:.4g} s/sample, {side['ratio']:.2f}",
                flush=True,
            )
    flops = {method: useful_flops(architecture, arguments.size, method) for method in ("full", "lora")}
    return {"check": check, "useful_flops": flops, "peak_flops_per_s": peak, "sides": sides}


def _agreement(arguments: argparse.Namespace, architecture: str) -> dict[str, list[float]]:
    """The losses of both sides on the same draws. Raises `SystemExit` if they differ by more than rounding."""
    task = dataclasses.replace(
        _task(arguments, CHECK, architecture), side=CHECK, batch=4, micro=2, steps=3, turns=False
    )
    losses = _run(task)[CHECK]
    tolerance = TOLERANCE[arguments.device.split(":")[0]]
    for ours, plain in zip(losses["ours"], losses["plain"], strict=True):
        if abs(ours - plain) > tolerance * abs(plain):
            raise SystemExit(
                f"{architecture}: the sides differ on the same draws, so they do other work: {losses}"
            )
    return losses


def _tasks(arguments: argparse.Namespace, architecture: str) -> dict[str, Task]:
    """The sides that were asked for by name; on a CPU large products too, whose rate is its peak."""
    tasks = {
        variant.name: dataclasses.replace(
            _task(arguments, variant.name, architecture), **variant.settings(architecture, arguments.batch)
        )
        for variant in VARIANTS
        if variant.part in arguments.parts or variant.name == "ours"
    }
    if arguments.device == "cpu":
        tasks[PRODUCTS] = dataclasses.replace(_task(arguments, PRODUCTS, architecture), side="products")
    return tasks


def _task(arguments: argparse.Namespace, name: str, architecture: str) -> Task:
    return Task(
        out=str(arguments.work / f"{architecture}-{name}".replace(", ", "-").replace(" ", "-")),
        side="ours",
        architecture=architecture,
        size=arguments.size,
        device=arguments.device,
        threads=arguments.threads,
        batch=arguments.batch,
        micro=arguments.micro,
        steps=arguments.steps,
        turns=arguments.device == "cpu",
    )


def _slowest(tasks: Mapping[str, Task]) -> str:
    """The side whose end ends the turns: a plain loop that accumulates, else any."""
    return next((name for name in ("kto", "plain, LoRA") if name in tasks), next(iter(tasks)))


def _in_turns(tasks: Mapping[str, Task], lasting: str) -> dict[str, dict[str, Any]]:
    """Run all sides in turns until one has done its steps; the others go on as long as that takes."""
    endless = {
        name: task if name == lasting else dataclasses.replace(task, steps=10_000)
        for name, task in tasks.items()
    }
    folders = {name: Path(task.out) for name, task in endless.items()}
    processes = {name: _start(task) for name, task in endless.items()}
    try:
        turns = take_turns(processes, folders, until=lasting)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    found = {}
    for name, task in tasks.items():
        result = json.loads((folders[name] / RESULT).read_text())
        found[name] = _side(task, result, [active_s(span, turns[name]) for span in result["steps"]])
        if "encode" in result:
            found[name]["encode_s_per_sample"] = active_s(result["encode"], turns[name]) / task.batch
    return found


def _alone(tasks: Mapping[str, Task], rounds: int) -> dict[str, dict[str, Any]]:
    """Run one side after the other, round after round; a side that fails (of memory, say) is left out, and said."""
    found: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for name, task in tasks.items():
            try:
                result = _run(task)
            except subprocess.CalledProcessError as error:
                print(f"round {number}: {name} is left out: {error}; see {task.out}/log.txt", flush=True)
                continue
            seconds = [end - start for start, end in result["steps"]]
            side = _side(task, result, seconds)
            if "encode" in result:
                side["encode_s_per_sample"] = (result["encode"][1] - result["encode"][0]) / task.batch
            if name not in found or side["s_per_sample"] < found[name]["s_per_sample"]:
                found[name] = side
    return found


def _side(task: Task, result: Mapping[str, Any], seconds: Sequence[float]) -> dict[str, Any]:
    kept = ("bare_bytes", "peak_bytes", "peak_device_bytes", "flops_per_step")
    return {
        "s_per_sample": median(seconds) / task.batch,
        "steps": len(seconds),
        "micro": task.micro,
        "method": task.method,
        **{key: result[key] for key in kept if key in result},
    }


def _rate(products: Mapping[str, Any]) -> float:
    return products["flops_per_step"] / (products["s_per_sample"] * products["micro"])


def _run(task: Task) -> dict[str, Any]:
    """Run one side to its end. Raises `CalledProcessError` if it fails."""
    process = _start(task)
    try:
        process.wait(LONGEST_S)
    finally:
        process.kill()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return json.loads((Path(task.out) / RESULT).read_text())


def _start(task: Task) -> subprocess.Popen[bytes]:
    out = Path(task.out)
    shutil.rmtree(out, ignore_errors=True)
    task.write(out / "task.json")
    command = [sys.executable, "-m", "benchmarks.training.side", str(out / "task.json")]
    counts = {name: str(task.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (out / "log.txt").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | counts | offline, stdout=log, stderr=log)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(BATCH), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all; on a CPU all but compile")
    parser.add_argument("--batch", type=int, help="samples of an optimiser step")
    parser.add_argument(
        "--micro", type=int, help="samples of a forward pass of this project; a whole batch if not given"
    )
    parser.add_argument("--steps", type=int, default=4, help="timed steps of the slowest side")
    parser.add_argument(
        "--rounds", type=int, default=2, help="on a GPU: runs of each side, of which the best counts"
    )
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument(
        "--peak", type=float, metavar="TFLOPS", help="of the GPU, if the table does not know it"
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--results", type=Path, default=RESULTS.parent, help="folder of RESULTS.md")
    parsed = parser.parse_args(arguments)
    parsed.batch = parsed.batch or BATCH[parsed.size]
    parsed.micro = parsed.micro or parsed.batch
    parsed.work, parsed.results = parsed.work.resolve(), parsed.results.resolve()
    parsed.parts = parsed.parts or [part for part in PARTS if parsed.device != "cpu" or part != "compile"]
    if parsed.device != "cpu":
        parsed.peak = _gpu_peak(parsed.peak)
    return parsed


def _gpu_peak(given: float | None) -> float | None:
    import torch

    known = called(torch.cuda.get_device_name())
    tflops = given or (known and known.half_tflops)
    return tflops and tflops * 1e12


def joined(earlier: Mapping[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """`measured` with the sides that an earlier run of the same size measured and this one did not."""
    if earlier.get("workload", {}).get("size") != measured["workload"]["size"]:
        return measured
    architectures = dict(earlier["architectures"])
    for name, now in measured["architectures"].items():
        before = architectures.get(name, {}).get("sides", {})
        architectures[name] = {**now, "sides": before | now["sides"]}
    return {**measured, "architectures": architectures}


def main() -> None:
    """Measure, keep the numbers as JSON and write the section."""
    arguments = parse()
    path = arguments.results / "training_speed.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    measured = joined(earlier.get(arguments.device.split(":")[0], {}), measure(arguments))
    devices = record(path, arguments.device, measured)
    replace_section(arguments.results / RESULTS.name, "training_speed", section(devices))
    print(section(devices))


if __name__ == "__main__":
    main()
