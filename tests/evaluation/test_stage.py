"""The whole evaluation with tiny real models: sampling, scoring, pairing, resuming, errors."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from stages.cli import app
from tests.evaluation.worlds import scores
from tests.rewards import tiny as rewards
from tests.rewriting import rewrite
from tests.thresholds.shards import flat
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation import stage
from tgo_pipeline.evaluation.statistics.compare import EVALUATION
from tgo_pipeline.evaluation.statistics.hacking import HACKING, Roles, hacking_table
from tgo_pipeline.evaluation.statistics.matrix import MATRIX, matrix_table
from tgo_pipeline.evaluation.statistics.means import MODELS
from tgo_pipeline.evaluation.statistics.scores import SAMPLES
from tgo_pipeline.params import EvaluateParams, Params, load_params, parse
from tgo_pipeline.prompts.normalise import set_hash
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.shards import status
from tgo_pipeline.storage.tables import PROMPTS, read_folder, read_metadata, read_table, write_table
from tgo_pipeline.storage.workspace import Workspace

TEST = {"plain": ["a red cat", "a blue cat", "a cat"], "placed": ["red", "blue"]}
TRAIN = ["a red", "a blue", "cats"]


@dataclasses.dataclass
class World:
    """A project's inputs of the stage evaluate, and the call that runs it."""

    root: Path
    params: Params

    @property
    def places(self) -> Workspace:
        return flat(self.root).moved(
            model=self.root / "tuned",
            evaluation_images=self.root / "sides",
            evaluation=self.root / "evaluation.parquet",
            metrics=self.root / "metrics",
        )

    def evaluate(self) -> list[dict]:
        stage.evaluate(self.params, self.places)
        return read_table(self.root / "evaluation.parquet", EVALUATION).to_pylist()

    def shards(self, side: str) -> dict[Path, int]:
        """Every shard of a side with the time it was written."""
        return {
            path: path.stat().st_mtime_ns for path in sorted((self.root / "sides" / side).rglob("*.parquet"))
        }


def _params(root: Path, **sections: object) -> Params:
    content = {
        "model": str(root / "base"),
        "prompts": {"test": {"plain": "prompts.txt"}},
        "generate": {"images_per_prompt": 2, "steps": 1, "guidance_scale": 1.0, "shard_size": 4},
        "score": {"rewards": {name: str(root / "rewards" / name) for name in ("clip", "pickscore")}},
        "evaluate": {
            "images_per_prompt": 2,
            "bootstrap": 200,
            "rewards": {"aesthetic": str(root / "rewards/aesthetic")},
        },
        "runtime": {"device": "cpu", "threads": 1},
    }
    return parse(Params, {**content, **sections})


def _write_prompts(path: Path, test: dict[str, list[str]]) -> None:
    rows = [(prompt, "train", "train") for prompt in TRAIN]
    rows += [(prompt, "test", name) for name, prompts in test.items() for prompt in prompts]
    columns = [[prompt.replace(" ", "-") for prompt, *_ in rows], *map(list, zip(*rows, strict=True))]
    columns += [[None] * len(rows), [None] * len(rows)]
    write_table(pa.table(columns, schema=PROMPTS), path, {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose training data is scored and whose evaluation has run once."""
    from tgo_pipeline.generators import generate_folder
    from tgo_pipeline.scoring.stage import score_folder
    from tgo_pipeline.thresholds.stage import fit_folder

    root = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("base", "tuned")):
        tiny_diffusion_pipeline(root / name, seed=seed)
    for name in ("clip", "pickscore", "aesthetic"):
        rewards.write(name, root / "rewards" / name)
    _write_prompts(root / "prompts.parquet", TEST)
    params = _params(root)
    generate_folder(
        root / "generations",
        [(prompt.replace(" ", "-"), prompt) for prompt in TRAIN],
        split="train",
        model=params.model,
        revision=None,
        params=params.generate,
        images_per_prompt=2,
        seed=0,
        purpose="generate",
        runtime=params.runtime,
    )
    score_folder(
        root / "generations", root / "scores", params.score.rewards, runtime=params.runtime, max_error_rate=0
    )
    world = World(root, params)
    fit_folder(params, world.places)
    world.evaluate()
    return world


@pytest.fixture
def world(finished: World, tmp_path: Path) -> World:
    """A copy of the finished world that a test may change."""
    root = tmp_path / "world"
    shutil.copytree(finished.root, root)
    return World(root, _params(root))


def test_the_tables_hold_every_set_and_reward(finished: World) -> None:
    rows = read_table(finished.root / "evaluation.parquet", EVALUATION).to_pylist()
    assert [(row["test_set"], row["reward"]) for row in rows] == [
        (name, reward)
        for name in ("all", "plain", "placed")
        for reward in ("mean_z", "clip", "pickscore", "aesthetic")
    ]
    assert [row["n"] for row in rows if row["is_target"]] == [10, 6, 4]
    samples = pl.DataFrame(read_table(finished.root / "sides/samples.parquet", SAMPLES))
    for row in rows[1:4]:
        chosen = samples.filter(samples["reward"] == row["reward"])
        assert row["difference"] == pytest.approx((chosen["tuned"] - chosen["base"]).mean(), abs=1e-12)
    assert read_metadata(finished.root / "evaluation.parquet")["excluded"] == 0


def test_both_sides_draw_the_same_samples_alike(finished: World) -> None:
    base, tuned = (read_folder(finished.root / "sides" / side / "generations") for side in ("base", "tuned"))
    for column in ("sample_id", "prompt", "seed", "steps", "guidance_scale", "width"):
        assert base[column].equals(tuned[column])
    assert (base["image"].struct["bytes"] != tuned["image"].struct["bytes"]).all()
    train = read_folder(finished.root / "generations")
    assert not set(train["seed"]) & set(base["seed"])


def test_the_target_is_measured_against_the_training_scores(finished: World) -> None:
    train = read_folder(finished.root / "scores")
    base = read_folder(finished.root / "sides/base/scores")
    z = [
        (base[name].cast(float) - train[name].cast(float).mean()) / train[name].cast(float).std()
        for name in ("clip", "pickscore")
    ]
    samples = pl.DataFrame(read_table(finished.root / "sides/samples.parquet"))
    found = samples.filter(samples["reward"] == "mean_z")["base"]
    assert found.to_numpy() == pytest.approx(((z[0] + z[1]) / 2).to_numpy(), rel=1e-5)


def test_metrics_and_plot_are_written(finished: World) -> None:
    metrics = json.loads((finished.root / "metrics/evaluate.json").read_text())
    assert list(metrics) == ["all", "plain", "placed"]
    assert list(metrics["all"]) == ["target", "aesthetic"]
    assert (finished.root / "plots/win_rates.csv").read_text().count("\n") == 1 + 3 * 4


def test_an_equal_model_ties_everywhere(world: World) -> None:
    shutil.rmtree(world.root / "tuned")
    shutil.copytree(world.root / "base", world.root / "tuned")
    for row in world.evaluate():
        assert row["ties"] == row["n"] and row["difference"] == 0 and row["win_tie_rate"] == 0.5


def test_another_tuned_model_leaves_the_base_side_alone(world: World) -> None:
    base, tuned = world.shards("base"), world.shards("tuned")
    shutil.rmtree(world.root / "tuned")
    tiny_diffusion_pipeline(world.root / "tuned", seed=2)
    before = read_table(world.root / "evaluation.parquet")
    world.evaluate()
    assert world.shards("base") == base
    assert world.shards("tuned").keys() == tuned.keys()
    assert not set(world.shards("tuned").values()) & set(tuned.values())
    assert not read_table(world.root / "evaluation.parquet").equals(before)


def test_a_lost_shard_comes_back_to_the_same_tables(world: World) -> None:
    before = read_table(world.root / "evaluation.parquet")
    (world.root / "sides/tuned/generations/test-00001-of-00003.parquet").unlink()
    (world.root / "sides/base/scores/test-00000-of-00003.parquet").unlink()
    world.evaluate()
    assert read_table(world.root / "evaluation.parquet").equals(before)


def test_a_further_reward_leaves_every_image_alone(world: World) -> None:
    rewards.write("imagereward", world.root / "rewards/imagereward")
    extra = {
        "aesthetic": str(world.root / "rewards/aesthetic"),
        "imagereward": str(world.root / "rewards/imagereward"),
    }
    world.params = dataclasses.replace(
        world.params, evaluate=dataclasses.replace(world.params.evaluate, rewards=extra)
    )
    images = {path: time for path, time in world.shards("base").items() if path.parent.name == "generations"}
    assert "imagereward" in {row["reward"] for row in world.evaluate()}
    assert images.items() <= world.shards("base").items()


def test_an_unreadable_image_is_excluded_on_both_sides_and_counted(world: World) -> None:
    world.params = dataclasses.replace(
        world.params, score=dataclasses.replace(world.params.score, max_error_rate=0.5)
    )
    path = world.root / "sides/tuned/generations/test-00000-of-00003.parquet"
    table = read_table(path)
    records = table.to_pylist()
    records[1]["image"]["bytes"] = records[1]["image"]["bytes"][:50]
    rewrite(pa.Table.from_pylist(records, schema=table.schema), path, read_metadata(path))
    shutil.rmtree(world.root / "sides/tuned/scores")
    rows = world.evaluate()
    assert [row["n_excluded"] for row in rows if row["is_target"]] == [1, 1, 0]
    assert rows[0]["n"] == 9
    samples = read_table(world.root / "sides/samples.parquet")
    assert records[1]["sample_id"] not in samples["sample_id"].to_pylist()
    assert read_metadata(world.root / "evaluation.parquet")["excluded"] == 1


def test_the_plan_names_both_sides_and_is_done(finished: World) -> None:
    plan = stage.plan(finished.params, finished.places)
    assert [f"{folder.parent.name}/{folder.name}" for folder in plan] == [
        f"{side}/{part}" for side in ("base", "tuned") for part in ("generations", "scores", "diversity")
    ]
    for folder, shards in plan.items():
        assert (status(folder, shards).done, len(shards)) == (3, 3)


def test_the_plan_counts_scores_of_images_that_are_not_drawn_as_not_done(world: World) -> None:
    (world.root / "sides/base/generations/test-00001-of-00003.parquet").unlink()
    shutil.rmtree(world.root / "sides/tuned")
    plan = stage.plan(world.params, world.places)
    counts = [dataclasses.astuple(status(folder, shards))[:3] for folder, shards in plan.items()]
    assert counts == [(2, 0, 1), (0, 3, 0), (3, 0, 0), (0, 0, 3), (0, 0, 3), (0, 0, 3)]


def _with_evaluate(world: World, **changes: object) -> None:
    world.params = dataclasses.replace(
        world.params, evaluate=dataclasses.replace(world.params.evaluate, **changes)
    )


def _guided(world: World) -> Path:
    """A result of guidance of strength 0, which draws what its base draws."""
    folder = world.root / "guided"
    folder.mkdir()
    description = {"method": "guidance", "base": str(world.root / "base"), "kind": "pgd", "strength": 0.0}
    (folder / "tgo.json").write_text(json.dumps(description | {"positive": "../tuned"}))
    return folder


def test_further_models_stand_beside_base_and_tuned_until_they_are_not_named_any_more(world: World) -> None:
    models = {"a/copy": str(world.root / "base"), "guided": str(_guided(world))}
    _with_evaluate(world, models=models, aggregate="median")
    before = world.shards("base") | world.shards("tuned")
    rows = world.evaluate()
    assert [row["n"] for row in rows if row["is_target"]] == [5, 3, 2]
    assert world.shards("base") | world.shards("tuned") == before
    matrix = pl.DataFrame(read_table(world.root / "sides/matrix.parquet", MATRIX))
    assert set(matrix["model_a"]) == {"base", "tuned", *models}
    for name in models:
        same = matrix.filter((pl.col("model_a") == name) & (pl.col("model_b") == "base"))
        assert same["ties"].equals(same["n"]) and (same["p_value"] == 1).all() and (same["n"] > 0).all()
    _check_legend(read_metadata(world.root / "sides/models.parquet")["legend"], world.root)
    for name in ("evaluation", "models", "matrix", "hacking"):
        for form in ("md", "tex", "csv", "parquet", "legend.json"):
            assert (world.root / f"tables/{name}.{form}").stat().st_size
    plan = stage.plan(world.params, world.places)
    assert len(plan) == 4 * 3
    assert all(status(folder, shards).done == len(shards) for folder, shards in plan.items())
    _with_evaluate(world, models={"guided": models["guided"]})
    world.evaluate()
    assert sorted(path.name for path in (world.root / "sides").iterdir() if path.is_dir()) == [
        *("base", "guided", "tuned")
    ]


@pytest.fixture(scope="module")
def seeds(finished: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as the stages lay it out, whose evaluation has three trainings besides the tuned model."""
    root = tmp_path_factory.mktemp("seeds")
    project = Workspace(root)
    for kind in ("prompts", "thresholds"):
        getattr(project, kind).parent.mkdir(exist_ok=True)
        shutil.copy2(getattr(finished.places, kind), getattr(project, kind))
    shutil.copytree(finished.places.scores, project.scores)
    shutil.copytree(finished.root / "sides", project.evaluation_images)
    shutil.copytree(finished.root / "tuned", project.model)
    models = {name: str(root / "models" / name) for name in ("a", "b", "x")}
    for seed, folder in enumerate(models.values()):
        tiny_diffusion_pipeline(Path(folder), seed=10 + seed)
    content = dataclasses.asdict(_params(finished.root, evaluate={"bootstrap": 200, "images_per_prompt": 2}))
    content["evaluate"]["models"] = models
    project.params.write_text(yaml.safe_dump(content))
    stage.evaluate(load_params(project.params), project)
    return root


def _seeds(project: Path, *options: str, ok: bool = True) -> str:
    done = CliRunner().invoke(app, ["evaluation", str(Workspace(project).evaluation), *options])
    assert done.exit_code == (0 if ok else 2), done.output
    return done.output if ok else " ".join(done.output.split())


def test_several_seeds_of_one_setting_are_compared_from_their_scores(seeds: Path) -> None:
    frame = pl.read_csv(io.StringIO(_seeds(seeds, "--seeds", "tuned,a,b", "--format", "csv")))
    assert frame["test_set"].unique(maintain_order=True).to_list() == ["all", "plain", "placed"]
    assert set(frame["reward"]) == {"mean_z", "clip", "pickscore"} and frame.height == 3 * 3 * 4
    clip = {
        name: read_folder(seeds / "data/evaluation" / name / "scores").sort("sample_id")["clip"].cast(float)
        for name in ("base", "tuned", "a", "b")
    }
    gains = [float((clip[name] - clip["base"]).mean()) for name in ("tuned", "a", "b")]
    found = frame.filter((pl.col("test_set") == "all") & (pl.col("reward") == "clip"))
    assert found["models"].to_list() == ["tuned,a,b", "tuned", "a", "b"]
    assert found["difference"].to_list() == pytest.approx([np.mean(gains), *gains])
    assert found["n"].to_list() == [10] * 4 and found["n_trainings"].to_list() == [3, 1, 1, 1]


def test_seeds_are_shown_in_every_form(seeds: Path) -> None:
    shown = _seeds(seeds, "--seeds", "tuned,a,b")
    assert "3 trainings (tuned, a, b) against base" in shown and "Mean of 3 trainings" in shown
    assert shown.count("resample trainings and prompts") == 1
    markdown = _seeds(seeds, "--seeds", "tuned,a", "--against", "b,x", "--format", "md")
    assert "2 trainings (tuned, a) against 2 trainings (b, x)" in markdown
    assert "paired by position and prompt" in markdown and "pigeonhole" in markdown
    assert "fingerprint" in markdown and markdown.count("models/x") == 1
    assert "2 trainings (b, a) against tuned" in _seeds(
        seeds, "--seeds", "b,a", "--against", "tuned", "--format", "tex"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "tuned"], "names one training"),
        (["--seeds", "tuned,c"], "names 'c': the trainings of this evaluation are tuned, a, b, x"),
        (["--against", "x,y"], "--seeds must name those of the first one"),
        (["--seeds", "tuned,a", "--matrix"], "leave out --matrix"),
        (["--seeds", "tuned,a", "--table", "models"], "leave out --table"),
        (["--seeds", "tuned,a", "--format", "html"], "the format is 'html'"),
    ],
)
def test_wrong_seeds_are_refused(seeds: Path, options: list[str], message: str) -> None:
    assert message in _seeds(seeds, *options, ok=False)


def test_seeds_of_another_evaluation_are_refused(seeds: Path, tmp_path: Path) -> None:
    elsewhere = CliRunner().invoke(app, ["evaluation", str(tmp_path / "e.parquet"), "--seeds", "a,b"])
    assert "must be PROJECT/data/evaluation.parquet" in " ".join(elsewhere.output.split())
    params, table = seeds / "params.yaml", Workspace(seeds).evaluation
    text = params.read_text()
    resampled = text.replace("bootstrap: 200", "bootstrap: 100")
    further = text.replace("  models:\n", "  models:\n    new: somewhere\n")
    for path, content in ((params, resampled), (params, further), (table, None)):
        before = path.read_bytes()
        path.write_text(content) if content else path.unlink()
        said = _seeds(seeds, "--seeds", "tuned,a", ok=False)
        assert "run the stage evaluate first" in said
        assert ("no scores of new" in said) == (content == further)
        path.write_bytes(before)


def _check_legend(legend: dict, root: Path) -> None:
    assert list(legend["models"]) == ["base", "tuned", "a/copy", "guided"]
    base, copy = legend["models"]["base"], legend["models"]["a/copy"]
    assert base == copy and base["scheduler"] == "DDIMScheduler"
    assert base["fingerprint"] == content_fingerprint(root / "base")
    assert legend["models"]["guided"]["guidance"]["kind"] == "pgd"
    assert legend["rewards"]["clip"]["sha256"] and legend["rewards"]["clip"]["scale"]
    assert legend["target"]["mean_z"]["of"] == ["clip", "pickscore"]
    assert legend["test_sets"]["plain"]["kept"] == 3
    assert legend["test_sets"]["plain"]["hash"] == set_hash(["a-red-cat", "a-blue-cat", "a-cat"])
    sampling = legend["sampling"]["images"]
    assert (sampling["steps"], sampling["size"], sampling["images per prompt"]) == (1, "32 x 32 pixels", 2)


def test_diversity_is_that_of_the_images(finished: World) -> None:
    models = pl.DataFrame(read_table(finished.root / "sides/models.parquet", MODELS))
    images = read_folder(finished.root / "sides/tuned/generations").sort("sample_id")
    arrays = [
        np.asarray(Image.open(io.BytesIO(data)), float) / 255 for data in images["image"].struct["bytes"]
    ]
    distances = [
        np.sqrt(((one - other) ** 2).mean()) for one, other in zip(arrays[::2], arrays[1::2], strict=True)
    ]
    row = models.filter((pl.col("model") == "tuned") & (pl.col("test_set") == "all")).row(0, named=True)
    assert row["pixel_distance"] == pytest.approx(np.mean(distances), abs=1e-6)
    assert 0 < row["clip_distance"] < 2


def test_a_target_of_feedback_leaves_the_comparison_to_the_rewards(world: World) -> None:
    rewards = {name: str(world.root / "rewards" / name) for name in ("clip", "aesthetic")}
    world.params = _params(
        world.root,
        score={"feedback": {"stars": {"kind": "rating", "source": "stars.csv"}}},
        target={"reward": "stars"},
        evaluate={"images_per_prompt": 1, "bootstrap": 50, "rewards": rewards},
    )
    shutil.rmtree(world.root / "scores")
    rows = world.evaluate()
    assert [row["reward"] for row in rows] == ["clip", "aesthetic"] * 3
    assert not any(row["is_target"] for row in rows)
    assert not read_table(world.root / "sides/hacking.parquet", HACKING).num_rows
    metrics = json.loads((world.root / "metrics/evaluate.json").read_text())
    assert list(metrics["all"]) == ["clip", "aesthetic"]
    assert "is feedback" in (world.root / "tables/hacking.md").read_text()
    legend = read_metadata(world.root / "sides/models.parquet")["legend"]
    assert "feedback" in legend["target"]["stars"]["note"]


def test_a_gain_that_stays_with_the_target_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    world_scores = scores({"tuned": [1, -0.5, 0]}, noise=0.1)
    settings = EvaluateParams(bootstrap=100)
    made = {
        stage.MATRIX: matrix_table(world_scores, "target", settings, 0),
        stage.HACKING: hacking_table(world_scores, Roles("target", [], ["held"]), settings, 0),
    }
    with caplog.at_level("INFO", logger="tgo"):
        stage._log_results(made, ShownNames())
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "look at the images" in warned[0] and "at its cost" in warned[0]
    assert "target of tuned: +0.99" in caplog.text and "target of other: " in caplog.text


def _without_model(world: World) -> None:
    shutil.rmtree(world.root / "tuned")


def _without_test_prompts(world: World) -> None:
    _write_prompts(world.places.prompts, {})


def _with_a_prompt_in_two_sets(world: World) -> None:
    _write_prompts(world.places.prompts, {**TEST, "more": ["a cat"]})


def _with_two_sources(world: World) -> None:
    other = dataclasses.replace(world.params.evaluate, rewards={"clip": "elsewhere"})
    world.params = dataclasses.replace(world.params, evaluate=other)


def _with_a_model_that_is_not_there(world: World) -> None:
    _with_evaluate(world, models={"mine": "no such/folder at all"})


def _with_feedback_alone(world: World) -> None:
    feedback = {"stars": {"kind": "rating", "source": "stars.csv"}}
    world.params = _params(world.root, score={"feedback": feedback}, target={"reward": "stars"}, evaluate={})


def _with_a_reward_without_files(world: World) -> None:
    other = dataclasses.replace(world.params.evaluate, rewards={"pickscore": str(world.root / "nowhere")})
    world.params = dataclasses.replace(world.params, evaluate=other)


def _without_training_scores(world: World) -> None:
    shutil.rmtree(world.root / "scores")


def _without_thresholds(world: World) -> None:
    (world.root / "thresholds.parquet").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_model, "run the fine_tune stage first"),
        (_without_test_prompts, "holds no test prompt"),
        (_with_a_prompt_in_two_sets, r"'a cat' is in several test sets \(plain, more\)"),
        (_with_two_sources, "one reward has one source"),
        (_with_a_model_that_is_not_there, "the model 'mine' of the evaluation"),
        (_with_feedback_alone, "no reward to evaluate with"),
        (_with_a_reward_without_files, "pickscore"),
        (_without_training_scores, "score"),
        (_without_thresholds, "run the stage"),
    ],
)
def test_a_wrong_input_is_refused_before_anything_is_drawn(
    world: World, change: Callable[[World], None], message: str
) -> None:
    shutil.rmtree(world.root / "sides")
    change(world)
    with pytest.raises(TgoError, match=message):
        world.evaluate()
    assert not (world.root / "sides").exists()
