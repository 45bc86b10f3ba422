"""Run the numeric tests as other processors would: `make test-isa`, or `python -m tests.isa [arguments of pytest]`.

Under an instruction set that the libraries do not choose on this processor; with `--digits` under last digits that
depend on every shape instead (`other_digits`), which no instruction set of this processor may show. A test that asks
for equal bits of two computations that are not the same one fails in one or the other. Long tests are left out, unless
`-m ""` asks for them too.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMERIC = (
    "tests/fine_tune/data/test_batches.py",
    "tests/fine_tune/objectives",
    "tests/fine_tune/policies/test_diffusion.py",
    "tests/fine_tune/policies/test_families.py",
    "tests/fine_tune/policies/test_flow.py",
    "tests/fine_tune/policies/test_masked.py",
    "tests/fine_tune/policies/test_memory.py",
    "tests/fine_tune/test_resume_families.py",
    "tests/fine_tune/training/test_optimizers.py",
    "tests/fine_tune/training/test_trainer.py",
    "tests/generators/networks/test_held.py",
    "tests/generators/test_guidance.py",
    "tests/generators/test_masked.py",
    "tests/generators/test_masked_meissonic.py",
    "tests/generators/test_meissonic_network.py",
    "tests/rewards/engine/test_scorer.py",
    "tests/rewards/networks/test_attention.py",
    "tests/rewards/networks/test_networks.py",
    "tests/rewards/networks/test_pillow_resize.py",
    "tests/rewards/networks/test_preprocessing.py",
    "tests/rewards/test_gradients.py",
    "tests/scoring/command/test_kept_rows.py",
    "tests/scoring/test_stage.py",
)
"""Files and folders whose tests compare numbers that networks computed, in this process.

Tests of compiled networks are not among them: torch compiles nothing while `other_digits` watches its operations.
"""
WITH_OTHER_PROCESSES = "tests/scoring/test_stage.py::test_two_processes_give_the_same_bytes_as_one"
"""`other_digits` acts in this process alone."""
NARROW = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
"""torch, oneDNN and MKL with the instructions that every x86-64 processor has."""
WIDE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""For a processor on which the narrow ones are torch's own choice."""


def capability(**environment: str) -> str:
    """The instruction set that torch uses in such an environment."""
    program = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def other_instruction_set() -> dict[str, str]:
    """The environment of an instruction set that is not this processor's own; empty where it has only one."""
    own = capability()
    return next((chosen for chosen in (NARROW, WIDE) if capability(**chosen) != own), {})


def run(what: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the numeric tests on two cores; the exit code, and what pytest says at the end."""
    print(f"== numeric tests {what}", flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **environment}
    processes = 1 if environment["OMP_NUM_THREADS"] == "2" else 2  # two of two threads wait for each other
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        f"{processes}",
        "--dist",
        "loadfile",
        "-m",
        "not long",
    ]
    command += [*arguments, *NUMERIC]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    last = ""
    for line in process.stdout or ():
        print(line, end="", flush=True)
        last = line.strip() or last
    return process.wait(), last


def written(environment: Mapping[str, str]) -> str:
    """An environment as one writes it before a command."""
    return " ".join(f"{name}={value}" for name, value in environment.items())


def run_matrix(*arguments: str) -> int:
    """Every instruction set of this processor, oneDNN's AVX2, one and two threads: a table, and 1 if one fails."""
    # oneDNN is told of fewer instructions too: by what it finds, torch packs bf16 as its own kernels then cannot
    sets = [{**WIDE, "ATEN_CPU_CAPABILITY": "default"}, WIDE, {"ATEN_CPU_CAPABILITY": "avx512"}]
    sets = [chosen for chosen in sets if capability(**chosen).lower() == chosen["ATEN_CPU_CAPABILITY"]]
    environments = [
        {**chosen, "OMP_NUM_THREADS": threads}
        for chosen in ({}, *sets, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, NARROW)
        for threads in ("1", "2")
    ]
    results = [(each, *run(f"with {written(each)}", *arguments, **each)) for each in environments]
    print(f"\n{platform.processor() or platform.machine()}, torch's own choice {capability()}\n")
    print("| environment | result |\n|---|---|")
    for each, _, last in results:
        print(f"| `{written(each)}` | {last.strip('= ')} |")
    return int(any(code for _, code, _ in results))


def main() -> int:
    """Another instruction set, `--digits`: other last digits, or `--matrix`: all of them. 1 if a test fails."""
    asked, more = (
        (sys.argv[1], sys.argv[2:]) if sys.argv[1:2] in (["--digits"], ["--matrix"]) else ("", sys.argv[1:])
    )
    if asked == "--matrix":
        return run_matrix(*more)
    if asked == "--digits":
        other_digits = ("-p", "tests.other_digits", "--deselect", WITH_OTHER_PROCESSES)
        return int(bool(run("with other last digits", *other_digits, *more)[0]))
    chosen = other_instruction_set()
    if not chosen:
        print("torch has one instruction set on this processor: the numeric tests ran under it already")
        return 0
    what = f"with {written(chosen)} ({capability()} otherwise)"
    return int(bool(run(what, *more, **chosen)[0]))


if __name__ == "__main__":
    sys.exit(main())
