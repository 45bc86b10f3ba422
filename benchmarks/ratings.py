"""Do people's ratings alone tune a model? The recipe `ratings`, from its first stage to its report, rated by scripts.

    python -m benchmarks.ratings               # three seeds; replaces its section of RESULTS.md
    python -m benchmarks.ratings --seeds 0 --work /tmp/r

Each seed is a project as a user makes it: `tgo init --recipe ratings`, `dvc repro generate`, `tgo rate` answered
through the page's own requests, `dvc repro`. The people see the image that the page shows and its prompt. They know how
the image ranks for the analytic oracle, are more or less kind, and make mistakes: no score of it reaches the pipeline.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import polars as pl
import typer
import yaml
from PIL import Image
from scipy.stats import rankdata

from benchmarks.results import SEEDS_RESAMPLED, machine, of_training, replace_section, table
from tgo_pipeline.demo.oracle import oracle
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.scores import ALL, pairs_from_samples
from tgo_pipeline.params import load_params
from tgo_pipeline.storage.workspace import HERE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/RESULTS.md"
RATINGS, RATERS = 400, 4
KINDNESS, MISTAKES = 0.8, 0.5
"""Standard deviations, in stars, of what a rater adds to all images, and to each."""
SEEDS = "0,1,2"


def environment() -> dict[str, str]:
    """This interpreter first on the path, this checkout as the package, and a name for git."""
    names = {
        f"GIT_{who}_{what}": "ratings@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **names, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def call(folder: Path, *words: str) -> None:
    """Run a command in a project; its output is shown where it fails."""
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")


def tgo(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "stages.cli", *words)


def make_project(folder: Path, seed: int, overrides: dict[str, Any] | None = None) -> None:
    """A project of the recipe with this seed."""
    folder.mkdir(parents=True)
    call(folder, *tgo("init", "--recipe", "ratings"))
    params = folder / HERE.params
    content = yaml.safe_load(params.read_text()) | {"seed": seed}
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        content[section][name] = value
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    call(folder, "git", "commit", "-q", "-a", "-m", "project")


def rate(folder: Path, seed: int, count: int = RATINGS, raters: int = RATERS) -> float:
    """Give `count` ratings by several people through the page of `tgo rate`; how their stars rank with the oracle."""
    chance = np.random.default_rng(seed)
    kindness = chance.normal(0, KINDNESS, raters)
    ranks = _ranks(folder)
    words = tgo("rate", "--no-browser", "--order", "fewest")
    process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    pairs = []
    try:
        address = _address(process)
        for turn in range(count):
            rater = f"rater {turn % raters}"
            question = _post(address + "next", rater=rater)["question"]
            with urlopen(address + question["images"][0]) as answer:
                rank = ranks[_pixels(answer.read())]
            stars = 1.5 + 3 * rank + kindness[turn % raters] + chance.normal(0, MISTAKES)
            value = int(np.clip(round(stars), 1, 5))
            pairs.append((rank, value))
            _post(
                address + "answer",
                rater=rater,
                question=question["id"],
                value=value,
                id=secrets.token_hex(8),
                seconds=2,
            )
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    return float(np.corrcoef(rankdata(pairs, axis=0).T)[0, 1])  # Spearman's correlation


def _ranks(folder: Path) -> dict[bytes, float]:
    """How each sample ranks for the oracle, from 0 to 1, by its pixels."""
    samples = pl.read_parquet(folder / HERE.generations / "*.parquet")
    images = [np.asarray(Image.open(io.BytesIO(each["bytes"])).convert("RGB")) for each in samples["image"]]
    scores = oracle(np.stack(images), samples["prompt"].to_list())
    ranks = np.argsort(np.argsort(scores)) / len(scores)
    return {image.tobytes(): float(rank) for image, rank in zip(images, ranks, strict=True)}


def _pixels(data: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", line):
            return found[0]
    raise RuntimeError("tgo rate ended before it printed an address")


def _post(address: str, **content: Any) -> dict[str, Any]:
    request = Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def outcome(*projects: Path) -> dict[str, Any]:
    """The oracle's row of the evaluation over all test sets, of all projects together."""
    samples = pl.concat(
        of_training(pl.read_parquet(project / HERE.samples), place) for place, project in enumerate(projects)
    )
    params = load_params(projects[0] / HERE.params)
    rows = evaluation_table(pairs_from_samples(samples), None, params.evaluate, params.seed).to_pylist()
    kept = ("n", "base_mean", "tuned_mean", "difference", "difference_low", "difference_high", "win_rate")
    row = next(row for row in rows if row["reward"] == "oracle" and row["test_set"] == ALL)
    return {name: row[name] for name in kept}


def run_seed(folder: Path, seed: int, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """One project from nothing to its report: what it was rated, and what it took."""
    start_s = time.monotonic()
    make_project(folder, seed, overrides)
    call(folder, "dvc", "repro", "generate")
    agreement = rate(folder, seed)
    call(folder, "dvc", "repro")
    labels = pl.read_parquet(folder / HERE.labels / "*.parquet")["label"]
    return {
        "seed": seed,
        "agreement": agreement,
        "positive": float(np.mean(labels.to_numpy() == 1)),
        "labels": len(labels),
        "seconds": time.monotonic() - start_s,
    }


def main(
    seeds: str = typer.Option(SEEDS, help="Seeds, with commas."),
    work: Path = typer.Option(None, metavar="FOLDER", help="Keep the projects here."),
    set_: list[str] = typer.Option(
        [], "--set", help="section.key=value of params.yaml; prints, writes nothing."
    ),
) -> None:
    """Run every seed and write the section."""
    overrides = {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in set_)}
    folder = work or Path(tempfile.mkdtemp())
    projects = {seed: folder / f"seed-{seed}" for seed in map(int, seeds.split(","))}
    rows = []
    try:
        for seed, project in projects.items():
            rows.append(run_seed(project, seed, overrides) | outcome(project))
            print(json.dumps(rows[-1]), flush=True)
        together = outcome(*projects.values())
        print(json.dumps(together), flush=True)
    finally:
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)
    if not overrides and seeds == SEEDS:
        replace_section(RESULTS, "ratings", _section(rows, together))


def _section(rows: list[dict[str, Any]], together: dict[str, Any]) -> str:
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    shown = [
        [
            str(row["seed"]),
            f"{row['agreement']:.2f}",
            f"{row['labels']}",
            f"{row['positive']:.2f}",
            *_gain(row),
            f"{row['seconds'] / 60:.1f}",
        ]
        for row in rows
    ]
    shown.append(["together", "", "", "", *_gain(together), ""])
    names = [
        "seed",
        "stars ~ oracle",
        "labels",
        "positive",
        "base",
        "tuned",
        "difference",
        "win rate",
        "minutes",
    ]
    about = f"""\
{datetime.date.today().isoformat()}, {where}. The recipe `ratings` as a user runs it: `dvc repro generate`,
{RATINGS} ratings through the page of `tgo rate`, `dvc repro`. {RATERS} scripts give one to five stars by how an image
ranks for the oracle, with a kindness of their own (standard deviation {KINDNESS} stars) and mistakes
({MISTAKES} stars); no reward model is used. Means of the oracle over all test prompts; the interval of the mean
difference is at 95 %; `stars ~ oracle` is Spearman's correlation. {SEEDS_RESAMPLED}"""
    return f"## A model tuned on ratings\n\n{about}\n\n{table(names, shown)}"


def _gain(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['base_mean']:.4f}",
        f"{row['tuned_mean']:.4f}",
        f"{row['difference']:+.4f} [{row['difference_low']:+.4f}, {row['difference_high']:+.4f}]",
        f"{row['win_rate']:.2f}",
    ]


if __name__ == "__main__":
    typer.run(main)
