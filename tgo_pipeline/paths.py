"""Where every stage reads and writes, relative to the project's root; `dvc.yaml` names the same places."""

from pathlib import Path

PROMPTS = Path("data/prompts.parquet")
GENERATIONS = Path("data/generations")
SCORES = Path("data/scores")
THRESHOLDS = Path("data/thresholds.parquet")
LABELS = Path("data/labels")
ENCODED = Path("data/encoded")
MODEL = Path("models/tuned")
CHECKPOINTS = Path("models/checkpoints")
EVALUATION = Path("data/evaluation.parquet")
EVALUATION_IMAGES = Path("data/evaluation")
METRICS = Path("metrics")
PLOTS = Path("plots")
TRAINING = Path("training")
REPORT = Path("report.html")
