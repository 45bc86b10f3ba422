"""Where every stage reads and writes, relative to the project's root; `dvc.yaml` names the same places."""

import hashlib
import re
from pathlib import Path

INPUTS = Path("inputs.yaml")
PROMPTS = Path("data/prompts.parquet")
GENERATIONS = Path("data/generations")
SCORES = Path("data/scores")
THRESHOLDS = Path("data/thresholds.parquet")
BASELINES = Path("data/baselines.parquet")
ADEQUACY = Path("data/adequacy.parquet")
LABELS = Path("data/labels")
ENCODED = Path("data/encoded")
MODEL = Path("models/tuned")
CHECKPOINTS = Path("models/checkpoints")
EVALUATION = Path("data/evaluation.parquet")
EVALUATION_IMAGES = Path("data/evaluation")
SWEEP = Path("data/sweep.parquet")
SWEEP_IMAGES = Path("data/sweep")
TABLES = Path("tables")
METRICS = Path("metrics")
PLOTS = Path("plots")
TRAINING = Path("training")
RUNS = Path("runs")
SHARE = Path("share")
REPORT = Path("report.html")


def file_name(text: str) -> str:
    """`text` as part of a file name: itself where it can be one, else with `_` for the rest and a hash to tell it by.

    Two texts never give the same name, so that `a/b` and `a:b` do not overwrite each other.
    """
    plain = re.sub(r"[^A-Za-z0-9.+_-]", "_", text)
    if plain == text and not text.startswith("."):
        return text
    return f"{plain.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
