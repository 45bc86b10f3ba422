"""A finished run to share: the tables of a pretended run, with a tuned model of real files beside them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import save_file

from tests.report.workspace import write_workspace
from tests.rewriting import forget_digest
from tgo_pipeline import demo
from tgo_pipeline.generators.location import model_fingerprint
from tgo_pipeline.params import Params
from tgo_pipeline.storage.tables import read_metadata
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.thresholds.label_stage import label_folder
from tgo_pipeline.thresholds.stage import fit_folder

DESCRIBED = {
    "reward": "hpsv2.1",
    "version": "1",
    "source": "/somewhere/private/hpsv2.1",
    "sha256": "ab" * 32,
    "dtype": "fp32",
    "scale": "cosine similarity",
}


def finish(folder: Path, method: str = "full", **sections: Any) -> Params:
    """Write the run into `folder` with its params.yaml, as `tgo card` finds it."""
    params = write_workspace(folder, train_prompts=12, **sections).params
    _describe_rewards(folder)
    fit_folder(params, places(folder))
    label_folder(params, places(folder))
    write_tuned(folder / "models/tuned", params, method)
    _write_legend(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(asdict(params), sort_keys=False))
    return params


def places(folder: Path) -> Workspace:
    """Where the run of a folder lies."""
    return Workspace(folder)


def write_tuned(model: Path, params: Params, method: str) -> None:
    """A result of fine_tune: a pipeline of the small world, an adapter, or two modules."""
    if method == "full":
        shutil.copytree(demo.weights_path("diffusion"), model)
    elif method == "lora":
        _adapter(model)
    else:
        for side in ("positive", "negative"):
            _adapter(model / side)
    description = {
        "base": params.model,
        "revision": params.revision,
        "method": method,
        "objective": params.fine_tune.objective,
        "steps": params.fine_tune.steps,
        "seed": params.seed,
        "fingerprint": "0123456789abcdef",
    }
    if method == "guidance":
        description |= {"kind": "cpgd", "strength": 1.0, "positive": "positive", "negative": "negative"}
    (model / "tgo.json").write_text(json.dumps(description))


def _adapter(folder: Path) -> None:
    folder.mkdir(parents=True)
    weights = {
        f"unet.mid_block.to_k.lora.{side}.weight": np.ones((4, 4), np.float32) for side in ("up", "down")
    }
    save_file(weights, folder / "pytorch_lora_weights.safetensors")


def _describe_rewards(folder: Path) -> None:
    """Put into the score shards what scoring with loaded rewards puts there."""
    for path in (folder / "data/scores").glob("*.parquet"):
        _add_metadata(path, rewards={"hpsv2.1": DESCRIBED})


def _write_legend(folder: Path) -> None:
    """Put into the evaluation table what evaluating this model puts there, as far as cards show it."""
    model = str(folder / "models/tuned")
    legend = {
        "rewards": {"hpsv2.1": DESCRIBED},
        "test_sets": {"plain": {"source": "/home/someone/plain.txt", "kept": 16, "hash": "cd" * 8}},
        "models": {"tuned": {"model": model, "fingerprint": model_fingerprint(model)}},
        "sampling": {"images": {"steps": 12, "guidance scale": 1.0, "seed of an image": "of its sample id"}},
    }
    _add_metadata(folder / "data/evaluation.parquet", legend=legend)


def _add_metadata(path: Path, **entries: Any) -> None:
    table = pq.read_table(path)
    stored = {
        **(table.schema.metadata or {}),
        b"tgo": json.dumps({**read_metadata(path), **entries}).encode(),
    }
    pq.write_table(table.replace_schema_metadata(stored), path)
    forget_digest(path)
