"""A sweep of tiny real modules: equal seeds, paired differences, diversity, resuming, plots that open."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tests.generators.guided import make_family
from tests.rewards import tiny as rewards
from tests.thresholds.shards import flat
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.sweep.sweep import SWEEP, Guided, check_strengths, compare, sweep
from tgo_pipeline.evaluation.sweep.view import show
from tgo_pipeline.params import EvaluateParams, FeedbackParams, GuidanceParams, Params, parse
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.storage.tables import PROMPTS, read_folder, read_table, write_table

TEXTS = ("a red cat", "a blue cat", "a cat")


@dataclass
class World:
    """A folder with prompts, a base, modules and rewards, and the sweep of them."""

    root: Path
    params: Params

    def sweep(self, strengths: tuple[float, ...] = (0.5, 2.0), images: int = 2) -> list[dict[str, Any]]:
        places = flat(self.root).moved(
            model=self.root / "tuned",
            sweep_images=self.root / "sweep",
            sweep=self.root / "sweep.parquet",
        )
        sweep(self.params, places, strengths, images_per_prompt=images)
        return read_table(self.root / "sweep.parquet", SWEEP).to_pylist()

    def written(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.root)): path.stat().st_mtime_ns
            for path in sorted((self.root / "sweep").rglob("*.parquet"))
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("sweep")
    family = make_family("sd", root)
    tuned = root / "tuned"
    for side in ("positive", "negative"):
        shutil.copytree(root / side, tuned / side)
    description = {"base": str(family.base), "method": "guidance", "kind": "cpgd", "strength": 3.0}
    (tuned / "tgo.json").write_text(
        json.dumps(description | {"positive": "positive", "negative": "negative"})
    )
    rows = [
        [text.replace(" ", "-") for text in TEXTS],
        TEXTS,
        ["test"] * 3,
        ["plain"] * 3,
        [None] * 3,
        [None] * 3,
    ]
    write_table(pa.table(rows, schema=PROMPTS), root / "prompts.parquet", {})
    for name in ("clip", "aesthetic"):
        rewards.write(name, root / "rewards" / name)
    params = parse(
        Params,
        {
            "model": str(family.base),
            "prompts": {"test": {"plain": "prompts.txt"}},
            "generate": {"steps": 1, "guidance_scale": 1.0, "shard_size": 4},
            "score": {"rewards": {"clip": str(root / "rewards/clip")}},
            "target": {"reward": "clip"},
            "evaluate": {"bootstrap": 100, "rewards": {"aesthetic": str(root / "rewards/aesthetic")}},
            "runtime": {"device": "cpu", "threads": 1},
        },
    )
    world = World(root, params)
    world.sweep()
    return world


def test_the_table_has_every_strength_and_measure(world: World) -> None:
    rows = read_table(world.root / "sweep.parquet", SWEEP).to_pylist()
    assert [(row["strength"], row["measure"], row["kind"]) for row in rows] == [
        *((s, name, "reward") for s in (0.0, 0.5, 2.0) for name in ("clip", "aesthetic")),
        *((s, name, "diversity") for s in (0.0, 0.5, 2.0) for name in ("clip_distance", "pixel_distance")),
    ]
    assert {(row["kind"], row["n"], row["n_prompts"]) for row in rows} == {
        ("reward", 6, 3),
        ("diversity", 3, 3),
    }
    for row in rows[:2]:
        assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)
    for row in rows:
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_means_are_those_of_the_score_shards_and_seeds_are_shared(world: World) -> None:
    rows = read_table(world.root / "sweep.parquet", SWEEP).to_pylist()
    base, strong = (read_folder(world.root / f"sweep/strength-{s}/scores") for s in ("0", "2"))
    row = next(row for row in rows if (row["strength"], row["measure"]) == (2.0, "aesthetic"))
    assert row["mean"] == pytest.approx(strong["aesthetic"].cast(float).mean())
    assert row["difference"] == pytest.approx(
        (strong["aesthetic"].cast(float) - base["aesthetic"].cast(float)).mean()
    )
    drawn = [read_folder(world.root / f"sweep/strength-{s}/generations") for s in ("0", "2")]
    assert drawn[0]["seed"].equals(drawn[1]["seed"])
    assert not drawn[0]["image"].equals(drawn[1]["image"])


def test_a_new_strength_costs_only_itself_and_another_model_everything(world: World, tmp_path: Path) -> None:
    copy = World(Path(shutil.copytree(world.root, tmp_path / "copy")), world.params)
    before = copy.written()
    assert {row["strength"] for row in copy.sweep((0.5, 1.0))} == {0.0, 0.5, 1.0}
    after = copy.written()
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[1] for name in after.keys() - before.keys()} == {"strength-1"}
    shutil.copytree(copy.root / "tuned/negative", copy.root / "tuned/positive", dirs_exist_ok=True)
    copy.sweep((0.5,))
    again = copy.written()
    assert all(again[name] != after[name] for name in after if "strength-0.5" in name)


def test_a_project_with_imported_images_is_swept_alike(world: World, tmp_path: Path) -> None:
    """Its model draws as that of any other; a target that people's scores are a part of is left out."""
    stars = {"stars": FeedbackParams(source="ratings.csv", kind="rating")}
    params = dataclasses.replace(
        world.params,
        generate=dataclasses.replace(world.params.generate, source="images", images="photos"),
        score=dataclasses.replace(world.params.score, feedback=stars),
        target=dataclasses.replace(world.params.target, reward="mean_z"),
    )
    copy = World(Path(shutil.copytree(world.root, tmp_path / "copy")), params)
    before, rows = copy.written(), read_table(world.root / "sweep.parquet", SWEEP).to_pylist()
    assert copy.sweep() == rows
    assert copy.written() == before


def test_the_plots_open_and_the_table_shows(world: World) -> None:
    for name in ("strength", "diversity"):
        svg = (world.root / f"plots/sweep/{name}.svg").read_text()
        assert svg.startswith("<svg")
        assert "NaN" not in svg
        assert json.loads((world.root / f"plots/sweep/{name}.vl.json").read_text())["concat"]
    with (world.root / "plots/sweep.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 12
    from rich.console import Console

    console = Console(width=110, record=True)
    console.print(show(world.root / "sweep.parquet", ShownNames()))
    text = console.export_text()
    assert "aesthetic" in text
    assert "pixel_distance" in text


def test_differences_are_paired_by_sample_and_bootstrapped_by_prompt() -> None:
    generator = np.random.default_rng(0)
    prompts = np.repeat([f"p{i}" for i in range(50)], 2)
    noise = generator.normal(size=100)
    frames = {
        0.0: pl.DataFrame({"prompt_id": prompts, "r": noise}),
        1.0: pl.DataFrame({"prompt_id": prompts, "r": noise + 0.3}),
        2.0: pl.DataFrame({"prompt_id": prompts, "r": [None, *(noise[1:] + 0.5)]}),
    }
    zero, one, two = compare(frames, ["r"], "reward", EvaluateParams(bootstrap=100), seed=0)
    assert (zero["difference"], zero["n"]) == (0, 100)
    assert one["difference"] == pytest.approx(0.3)
    assert (one["difference_low"], one["difference_high"]) == pytest.approx((0.3, 0.3))
    assert (two["n"], two["n_prompts"]) == (99, 50)
    assert two["difference"] == pytest.approx(0.5)


def test_what_is_swept(world: World, tmp_path: Path) -> None:
    found = Guided.find(world.params, world.root / "tuned")
    assert (found.base, found.guidance.kind, found.guidance.strength) == (world.params.model, "cpgd", 3.0)
    assert found.at(0.5).strength == 0.5
    own = GuidanceParams(kind="pgd", positive="somewhere")
    params = dataclasses.replace(
        world.params, generate=dataclasses.replace(world.params.generate, guidance=own)
    )
    assert Guided.find(params, world.root / "tuned").guidance == own
    plain = Guided.find(world.params, world.root / "base").guidance
    assert (plain.kind, plain.positive) == ("pgd", str(world.root / "base"))
    with pytest.raises(TgoError, match=r"nothing to sweep: .*nosuch does not exist"):
        Guided.find(world.params, tmp_path / "nosuch")
    (tmp_path / "tgo.json").write_text('{"sampling": {"prompt_prefix": "good image "}}')
    with pytest.raises(TgoError, match="sampled with a prompt of its own"):
        Guided.find(world.params, tmp_path)


def test_wrong_inputs_are_refused_before_anything_is_drawn(world: World, tmp_path: Path) -> None:
    assert check_strengths([2, 1, 2]) == [0.0, 1.0, 2.0]
    with pytest.raises(TgoError, match="must be 0 or more"):
        check_strengths([-1.0])
    with pytest.raises(TgoError, match="must be 0 or more, and finite"):
        check_strengths([float("inf")])
    with pytest.raises(TgoError, match="no strength to compare with 0"):
        check_strengths([0.0])
    empty = World(tmp_path, world.params)
    with pytest.raises(TgoError, match="needs at least 2, and all of them in one shard"):
        empty.sweep(images=5)
    with pytest.raises(TgoError, match=r"prompts\.parquet does not exist"):
        empty.sweep()
    assert not list(tmp_path.iterdir())
