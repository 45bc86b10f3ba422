"""A small finished run with the real schemas: drawn images, invented scores, real thresholds, labels and evaluation.

`python -m tests.report.workspace FOLDER` writes one, with its report, to look at.
"""

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFilter

from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.hacking import Roles, hacking_table
from tgo_pipeline.evaluation.statistics.matrix import matrix_table
from tgo_pipeline.evaluation.statistics.means import models_table
from tgo_pipeline.evaluation.statistics.scores import ModelScores, samples_table
from tgo_pipeline.params import Params, parse
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage import tables
from tgo_pipeline.storage.shards import Shard
from tgo_pipeline.storage.workspace import Workspace as Places
from tgo_pipeline.thresholds.label_stage import label_folder
from tgo_pipeline.thresholds.stage import fit_folder

HOSTILE = (
    "<script>document.documentElement.dataset.stolen='yes'</script><img src=x onerror=\"document.documentElement."
    "dataset.stolen='yes'\">'\"`&amp; --> <!-- ]]> {{ 7*7 }} \u202egnp.txe\u202c \u2028 \x00\x1b[31m "
)
"""A prompt that tries to end elements, attributes, comments and JSON, to run scripts and to turn the text around.

Its images are among the best, so that the report shows them."""
LONG = HOSTILE + "very long " * 1000
REWARDS = {
    "hpsv2.1": (0.27, 0.012),
    "pickscore": (21.0, 0.8),
    "imagereward": (0.1, 0.9),
    "clip": (30.0, 2.5),
    "aesthetic": (5.3, 0.4),
}
COLOURS = {"red": "#cc3333", "blue": "#3355bb", "green": "#338844", "yellow": "#d8b020"}
SHAPES = ("circle", "square", "triangle")
BACKGROUNDS = {"white": "#f4f4f0", "gray": "#90949a", "cyan": "#aadde0"}
TEST_SETS = {"plain": 16, "sized": 16, "placed": 16}


@dataclass(frozen=True)
class Workspace:
    """Where everything was written, the parameters that go with it, and the prompts of the test sets."""

    folder: Path
    params: Params
    sources: Places
    report: Path
    test: dict[str, list[str]]


def parameters(**sections: object) -> Params:
    """The parameters of the run that the workspace pretends."""
    raw = {
        "seed": 7,
        "model": "demo",
        "prompts": {"train": "demo:train", "test": {name: f"demo:{name}" for name in TEST_SETS}},
        "generate": {"images_per_prompt": 4, "guidance_scale": 1.0, "steps": 12, "shard_size": 64},
        "score": {"rewards": dict.fromkeys(REWARDS)},
        "threshold": {"bootstrap": 200},
        "fine_tune": {"steps": 78, "batch_size": 64, "temperature": 0.01, "learning_rate": 1e-4},
        "evaluate": {"rewards": {"oracle": None}, "models": {"early": "models/early"}, "bootstrap": 400},
        **sections,
    }
    return parse(Params, raw)


def write_workspace(
    folder: Path, image_size: int = 32, train_prompts: int = 48, **sections: object
) -> Workspace:
    """Write a finished run, in which the tuned images are better than those of the base model."""
    params = parameters(**sections)
    sources = Places(folder)
    rng = np.random.default_rng(params.seed)
    train, tested = _captions(train_prompts, rng), iter(_captions(sum(TEST_SETS.values()), rng))
    test = {name: [next(tested) for _ in range(n)] for name, n in TEST_SETS.items()}
    train[3], test["plain"][5], test["sized"][2] = LONG, HOSTILE, LONG
    _write_prompts(sources.prompts, train, test)
    _write_training_set(params, sources, train, rng, image_size)
    fit_folder(params, sources)
    label_folder(params, sources)
    write_evaluation(params, sources, test, rng, size=image_size)
    _write_training(sources.training, params.fine_tune.steps, rng)
    return Workspace(folder, params, sources, sources.report, test)


def _captions(how_many: int, rng: np.random.Generator) -> list[str]:
    combinations = [
        f"a {size} {colour} {shape} on a {background} background"
        for size in ("small", "large")
        for colour in COLOURS
        for shape in SHAPES
        for background in BACKGROUNDS
    ]
    return [combinations[place] for place in rng.permutation(len(combinations))[:how_many]]


def _prompt_id(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def draw(prompt: str, quality: float, seed: int, size: int) -> bytes:
    """A PNG of a caption of this world; the lower the quality (0 to 1), the more noise, blur and displacement."""
    rng = np.random.default_rng(seed)
    words = prompt.split()
    paper = next((colour for name, colour in BACKGROUNDS.items() if name in words), "#503060")
    ink = next((colour for name, colour in COLOURS.items() if name in words), "#e0e0e0")
    image = Image.new("RGB", (size, size), paper)
    reach = size * (0.18 if "small" in words else 0.34)
    x, y = size / 2 + rng.normal(0, (1 - quality) * size / 8, 2)
    pen = ImageDraw.Draw(image)
    box = (x - reach, y - reach, x + reach, y + reach)
    if "square" in words:
        pen.rectangle(box, fill=ink)
    elif "triangle" in words:
        pen.polygon([(x, y - reach), (x - reach, y + reach), (x + reach, y + reach)], fill=ink)
    else:
        pen.ellipse(box, fill=ink)
    blurred = image.filter(ImageFilter.GaussianBlur((1 - quality) * size / 16))
    noise = rng.normal(0, 60 * (1 - quality), (size, size, 3))
    noisy = np.clip(np.asarray(blurred, dtype=np.float64) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "PNG")
    return stream.getvalue()


def _write_prompts(path: Path, train: list[str], test: dict[str, list[str]]) -> None:
    rows = [(prompt, "train", "train") for prompt in train]
    rows += [(prompt, "test", name) for name, prompts in test.items() for prompt in prompts]
    columns = [
        {"prompt_id": _prompt_id(prompt), "prompt": prompt, "split": split, "source": source}
        | {"category": _category(prompt)}
        for prompt, split, source in rows
    ]
    path.parent.mkdir(parents=True)
    tables.write_table(pa.Table.from_pylist(columns, schema=tables.PROMPTS), path, {"fingerprint": "prompts"})


def _generation(prompt: str, index: int, quality: float, seed: int, size: int) -> dict:
    sample_id = f"{_prompt_id(prompt)}-{index:04d}"
    return {
        "sample_id": sample_id,
        "prompt_id": _prompt_id(prompt),
        "prompt": prompt,
        "image": {
            "bytes": draw(prompt, quality, derive_seed(seed, sample_id, "draw"), size),
            "path": f"{sample_id}.png",
        },
        "width": size,
        "height": size,
        "model": "demo",
        "revision": None,
        "seed": derive_seed(seed, sample_id, "generate"),
        "index": index,
        "guidance_scale": 1.0,
        "steps": 12,
    }


def _write_shards(
    folder: Path, split: str, rows: list[dict], schema: pa.Schema, shard_size: int = 64
) -> None:
    folder.mkdir(parents=True)
    parts = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
    for index, part in enumerate(parts):
        failed = sum(row.get("error") is not None for row in part)
        name = Shard(split, index, len(parts), "").name
        tables.write_table(
            pa.Table.from_pylist(part, schema=schema), folder / name, {"fingerprint": name, "failed": failed}
        )


def _score(quality: float, rng: np.random.Generator) -> dict[str, float]:
    return {
        name: mean + std * (2.2 * (quality - 0.5) + rng.normal(0, 0.8))
        for name, (mean, std) in REWARDS.items()
    }


def _write_training_set(
    params: Params, sources: Places, train: list[str], rng: np.random.Generator, size: int
) -> None:
    generations, scores = [], []
    for prompt in train:
        ease = rng.normal(0, 0.12)
        for index in range(params.generate.images_per_prompt):
            quality = 1.0 if HOSTILE in prompt else float(np.clip(rng.beta(2, 2) + ease, 0, 1))
            row = _generation(prompt, index, quality, params.seed, size)
            generations.append(row)
            scores.append(
                {
                    "sample_id": row["sample_id"],
                    "prompt_id": row["prompt_id"],
                    "error": None,
                    **_score(quality, rng),
                    **dict.fromkeys(params.score.feedback, float(np.clip(round(1 + 4 * quality), 1, 5))),
                }
            )
    generations[5]["image"]["bytes"] = generations[5]["image"]["bytes"][:60]
    scores[5] |= dict.fromkeys(params.score.columns) | {"error": "OSError: image file is truncated"}
    _write_shards(sources.generations, "train", generations, tables.GENERATIONS)
    _write_shards(sources.scores, "train", scores, tables.scores_schema(params.score.columns))


def write_evaluation(
    params: Params,
    sources: Places,
    test: dict[str, list[str]],
    rng: np.random.Generator,
    gain: float = 1.0,
    size: int = 32,
) -> None:
    """Images and scores of base, tuned model and one between them, with every table that the evaluation writes.

    The higher `gain`, the better are the tuned images; below zero they are worse.
    """
    target = params.target.reward if params.target_is_scored_anywhere else None
    shown: list[str] = [*([target] if target else []), *params.score.rewards, "oracle"]
    names = tuple(dict.fromkeys(shown))
    sides: dict[str, list[dict]] = {name: [] for name in ("base", "tuned", *params.evaluate.models)}
    values: dict[str, list[list[float]]] = {name: [] for name in sides}
    flat = [(source, prompt) for source, prompts in test.items() for prompt in prompts]
    for _, prompt in flat:
        quality = float(rng.beta(2, 2))
        better = float(np.clip(quality + rng.normal(0.22 * gain, 0.16), 0, 1))
        if HOSTILE in prompt:
            quality, better = 0.05, 1.0
        for side, level in zip(sides, (quality, better, (quality + better) / 2), strict=False):
            sides[side].append(_generation(prompt, 0, level, params.seed, size))
            scores = _score(level, rng)
            mean_z = np.mean([(scores[name] - mean) / std for name, (mean, std) in REWARDS.items()])
            values[side].append(
                [{**scores, "mean_z": float(mean_z), "oracle": level}[name] for name in names]
            )
    for side, rows in sides.items():
        _write_shards(sources.side(side), "test", rows, tables.GENERATIONS)
        scored = [
            {
                "sample_id": row["sample_id"],
                "prompt_id": row["prompt_id"],
                **dict(zip(names, found, strict=True)),
            }
            for row, found in zip(rows, values[side], strict=True)
        ]
        drawn = [name for name in names if name != "mean_z"]
        _write_shards(sources.side(side).parent / "scores", "test", scored, tables.scores_schema(drawn))
    joined = ModelScores(
        sample_ids=np.array([row["sample_id"] for row in sides["base"]]),
        prompt_ids=np.array([row["prompt_id"] for row in sides["base"]]),
        prompts=np.array([prompt for _, prompt in flat]),
        test_sets=np.array([source for source, _ in flat]),
        groupings={"category": np.array([_category(prompt) for _, prompt in flat], dtype=object)},
        models=tuple(sides),
        rewards=names,
        values=np.array(list(values.values())),
    )
    _write_comparisons(params, sources, joined, target)


def _write_comparisons(params: Params, sources: Places, joined: ModelScores, target: str | None) -> None:
    settings, seed = params.evaluate, params.seed
    roles = Roles.of(target, params.target_rewards, joined.rewards) if target else None
    pairs = joined.pairs("base", "tuned")
    made = {
        sources.evaluation: evaluation_table(pairs, target, settings, seed),
        sources.samples: samples_table(pairs),
        sources.evaluation_images / "models.parquet": models_table(joined, target, settings, seed),
        sources.evaluation_images / "matrix.parquet": matrix_table(joined, target, settings, seed),
        sources.evaluation_images / "hacking.parquet": hacking_table(joined, roles, settings, seed),
    }
    legend = {"models": {name: {"model": f"demo, {name}"} for name in joined.models}}
    for path, table in made.items():
        metadata = {"fingerprint": path.stem, "confidence": settings.confidence, "legend": legend}
        tables.write_table(table, path, metadata)


def _category(prompt: str) -> str | None:
    return next((shape for shape in SHAPES if shape in prompt), None)


def _write_training(folder: Path, steps: int, rng: np.random.Generator) -> None:
    """Metrics and log-ratios under the names that fine-tuning gives them."""
    from fine_tune.training.log import TrainingLog

    log = TrainingLog(folder, 0)
    label = np.arange(64) % 2
    for step in range(1, steps + 1):
        done = step / steps
        ratios = (0.6 * label - 0.35) * done + rng.normal(0, 0.15, len(label))
        noise = rng.normal(0, 1, 7)
        metrics = {
            "loss": 3.4 - 0.5 * done + 0.15 * noise[0],
            "accuracy": float(((ratios > 0) == label).mean()),
            "weight_ess": 44 + 2 * noise[1],
            "learning_rate": 1e-4 * (1 - done),
            "gradient_norm": 0.8 + 0.2 * abs(noise[2]),
            "epoch": step * 64 / 191,
        }
        for side, name, drift in ((0, "negative", 0.003), (1, "positive", -0.002)):
            metrics[f"log_ratio_{name}"] = float(ratios[label == side].mean())
            metrics[f"policy_error_{name}"] = 0.055 + drift * done + 0.002 * noise[3 + side]
            metrics[f"reference_error_{name}"] = 0.055 + 0.002 * noise[5 + side]
        log.metrics(step, metrics)
        if step % 26 == 0:
            log.histogram(step, ratios, label)


if __name__ == "__main__":
    from tgo_pipeline.report.build import build

    made = write_workspace(Path(sys.argv[1]), image_size=int(sys.argv[2]) if len(sys.argv) > 2 else 32)
    build(made.params, made.sources)
    print(made.report)
