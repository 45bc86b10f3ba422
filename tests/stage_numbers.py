"""The numbers of every stage of a tiny project beside the versions of its code: `stage_numbers.json`.

`tests/test_dvc.py` compares them with those of its own finished project. A difference means that a change of the code
changes results, while nobody who has run the stage before would know: raise that stage's VERSION (a reward's is
`version` of its layout), then write the file again:

    python -m tests.stage_numbers

Also write it again after raising a version for another reason; look at `git diff` before committing it.

Processors round differently, and so do releases of torch, so nothing here is compared bit for bit. Texts, counts and
seeds are equal; a number may differ by `TOLERANCE`. Labels and weights are one number, which has no jump at tau: 0 at
tau, positive above, and as far from 0 as the sample's weight is from 1.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import yaml
from PIL import Image
from safetensors.numpy import load_file

from stages import STAGES
from tests.project import copy_project, run

GOLDEN = Path(__file__).with_suffix(".json")
RENEW = "write the file again with `python -m tests.stage_numbers`"
REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
SECTIONS = {
    "score": {"rewards": {**dict.fromkeys(REWARDS, "demo"), "bright": "own:brightness"}},
    "target": {"reward": "mean_z", "rewards": list(REWARDS)},
}
OWN = '''"""A reward of one's own."""

import numpy as np


def brightness(images, prompts):
    return [float(np.asarray(image.convert("L")).mean()) for image in images]
'''
TOLERANCE = {
    "generate": 0.02,
    "score": 0.02,
    "threshold": 0.025,
    "label": 0.03,
    "fine_tune": 0.005,
    "evaluate": 0.01,
}
"""In grey levels of 255; standard deviations of a reward's scores (`score`, `threshold`, `evaluate`; rates too); units
of the weight; shares of the number itself. At least ten times what SSE instead of AVX2 changes (0.001, 0.002, 0.0013,
0.002, 0.00004, 0.0002), and what one more or one less of the 48 samples on a side is to a rate."""
TRAINING = (
    "loss",
    "gradient_norm",
    "policy_error_negative",
    "reference_error_negative",
    "weight_ess",
    "epoch",
)
"""Not the accuracy, which is a toss-up while policy and reference are equal."""
DECIDED = ("mean_z", "pickscore", "imagereward", "clip", "oracle")
"""Rewards by which each pair of images differs by 0.02 standard deviations or more, so that rounding decides no win."""
Numbers = dict[str, Any]
"""`exact`: what must be equal; `near`: numbers by name."""


def finished_project(folder: Path) -> Path:
    """A tiny project with a reward of its own after `dvc repro`."""
    copy_project(folder, **SECTIONS)
    (folder / "own.py").write_text(OWN)
    run(folder, "git", "add", "own.py")
    run(folder, "git", "commit", "-q", "-m", "own reward")
    run(folder, "dvc", "repro")
    return folder


def measure(project: Path) -> dict[str, Numbers]:
    """The entry in inputs.yaml and the numbers of every stage of a finished project."""
    entries = yaml.safe_load((project / "inputs.yaml").read_text())
    return {stage: {"entry": _entry(entries[stage]), **_MEASURES[stage](project)} for stage in STAGES}


def alarm(golden: Mapping[str, Numbers], now: Mapping[str, Numbers]) -> str | None:
    """What is wrong with the first stage that is not as recorded; later ones follow from it. None if all are."""
    for stage in STAGES:
        before, after = golden[stage], now[stage]
        if before["entry"] != after["entry"]:
            return f"{stage} has {after['entry']}, {GOLDEN.name} is of {before['entry']}: {RENEW}."
        if changed := _changed(stage, before, after):
            return (
                f"the numbers of {stage} have changed, and the version of its code has not ({len(changed)}, such as "
                f"{changed[0]}). If that is meant, raise VERSION of the stage and {RENEW}."
            )
    return None


def _changed(stage: str, before: Numbers, after: Numbers) -> list[str]:
    found = [
        f"{name}: {after['exact'].get(name)} for {value}"
        for name, value in before["exact"].items()
        if after["exact"].get(name) != value
    ]
    if before["near"].keys() != after["near"].keys():
        return [*found, f"names: {sorted(before['near'].keys() ^ after['near'].keys())}"]
    return found + [
        f"{name}: {after['near'][name]:.6g} for {value:.6g}"
        for name, value in before["near"].items()
        if abs(after["near"][name] - value) > TOLERANCE[stage]
    ]


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Versions and files; those of the report's page change with every style, and no number with them."""
    return {**entry, "files": {key: line for key, line in entry["files"].items() if key != "page"}}


def _schema(path: Path) -> dict[str, str]:
    return {field.name: str(field.type) for field in pq.read_schema(path)}


def _first(folder: Path) -> Path:
    return min(folder.glob("*.parquet"))


def _prompts(project: Path) -> Numbers:
    path = project / "data/prompts.parquet"
    rows = pl.read_parquet(path).select("prompt_id", "split", "source").rows()
    return {"exact": {"schema": _schema(path), "rows": [" ".join(row) for row in rows]}, "near": {}}


def _generate(project: Path) -> Numbers:
    """Seeds, and the mean and the spread of the grey levels of one image a shard."""
    folder = project / "data/generations"
    rows = pl.read_parquet(folder / "*.parquet")
    near = {}
    for row in rows.gather_every(4).to_dicts():
        grey = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"), dtype=np.float64)
        near |= {f"{row['sample_id']} mean": grey.mean(), f"{row['sample_id']} std": grey.std()}
    seeds = dict(rows.select("sample_id", "seed").rows())
    return {"exact": {"schema": _schema(_first(folder)), "seeds": seeds}, "near": near}


def _score(project: Path) -> Numbers:
    """Every third score, over the standard deviation of the column."""
    folder = project / "data/scores"
    rows = pl.read_parquet(folder / "*.parquet")
    near = {
        f"{sample} {name}": score / float(rows[name].std())  # type: ignore[arg-type]
        for name in (*REWARDS, "bright")
        for sample, score in rows.select("sample_id", name).gather_every(3).rows()
    }
    exact = {
        "schema": _schema(_first(folder)),
        "rows": len(rows),
        "errors": rows["error"].drop_nulls().to_list(),
    }
    return {"exact": exact, "near": near}


def _threshold(project: Path) -> Numbers:
    """All of metrics/threshold.json: what has the unit of the scores, over their standard deviation."""
    exact: dict[str, Any] = {"schema": _schema(project / "data/thresholds.parquet")}
    near = {}
    for reward, row in json.loads((project / "metrics/threshold.json").read_text()).items():
        std = row.pop("std")
        near[f"{reward} log std"] = float(np.log(std))
        for key, value in row.items():
            if isinstance(value, float):
                near[f"{reward} {key}"] = value / std if key.startswith("tau") else value
            else:
                exact[f"{reward} {key}"] = value
    return {"exact": exact, "near": near}


def _label(project: Path) -> Numbers:
    folder = project / "data/labels"
    rows = pl.read_parquet(folder / "*.parquet")
    sided = rows.select("sample_id", (pl.col("weight") - 1) * (2 * pl.col("label") - 1))
    return {"exact": {"schema": _schema(_first(folder)), "rows": len(rows)}, "near": dict(sided.rows())}


def _fine_tune(project: Path) -> Numbers:
    """Logarithms of what the first updates measure, and of the spread of what was encoded; the result's files."""
    near = {}
    for name in TRAINING:
        path = project / f"training/plots/metrics/train/{name}.tsv"
        for step, value in pl.read_csv(path, separator="\t").head(3).rows():
            near[f"{name} {step}"] = float(np.log(value))
    encoded = load_file(min((project / "data/encoded").glob("train-*.safetensors")))
    near |= {f"encoded {name} log std": float(np.log(value.std())) for name, value in encoded.items()}
    shapes = {name: list(value.shape) for name, value in encoded.items()}
    tuned = project / "models/tuned"
    shown = (path for path in tuned.rglob("*") if path.is_file() and not path.name.startswith("."))
    files = sorted(str(path.relative_to(tuned)) for path in shown)
    return {"exact": {"encoded": shapes, "files": files}, "near": near}


def _evaluate(project: Path) -> Numbers:
    """Means, intervals and differences over the base's standard deviation; counts of wins where none is a toss-up."""
    folder = project / "data/evaluation"
    rows = pl.read_parquet(project / "data/evaluation.parquet").filter(test_set="all").to_dicts()
    stds = {row["reward"]: row["base_std"] for row in rows}
    compared = pl.read_parquet(folder / "matrix.parquet").filter(test_set="all", model_a="tuned").to_dicts()
    near = {
        f"{model} {row['reward']} {key}": row[key] / stds[row["reward"]]
        for model in ("base", "tuned")
        for row in pl.read_parquet(folder / "models.parquet").filter(test_set="all", model=model).to_dicts()
        for key in ("mean", "mean_low", "mean_high", "median", "std")
    }
    for row in compared:
        for key in ("difference", "difference_low", "difference_high"):
            near[f"{row['reward']} {key}"] = row[key] / stds[row["reward"]]
        if row["reward"] in DECIDED:
            near |= {
                f"{row['reward']} {key}": row[key] for key in ("win_rate_low", "win_rate_high", "p_value")
            }
    counted = [[row[key] for key in ("reward", "n", "n_prompts", "n_excluded")] for row in rows]
    schemas = {file.name: _schema(file) for file in sorted(folder.glob("*.parquet"))}
    return {"exact": {"rows": counted, **schemas}, "near": near}


def _report(project: Path) -> Numbers:
    page = (project / "report.html").read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page, flags=re.DOTALL)
    return {
        "exact": {"headings": [re.sub(r"<[^>]+>|\s+", " ", text).strip() for text in headings]},
        "near": {},
    }


_MEASURES: dict[str, Callable[[Path], Numbers]] = {
    "prompts": _prompts,
    "generate": _generate,
    "score": _score,
    "threshold": _threshold,
    "label": _label,
    "fine_tune": _fine_tune,
    "evaluate": _evaluate,
    "report": _report,
}


def main() -> None:
    """Run the tiny project and write its numbers."""
    with tempfile.TemporaryDirectory() as temporary:
        numbers = measure(finished_project(Path(temporary) / "project"))
    write(numbers)


def write(numbers: Mapping[str, Numbers]) -> None:
    """Write the file, with as many digits as matter."""
    short = {
        stage: {**each, "near": {name: round(value, 5) for name, value in each["near"].items()}}
        for stage, each in numbers.items()
    }
    GOLDEN.write_text(json.dumps(short, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
