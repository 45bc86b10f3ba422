"""The card of a tuned model: read back by the hub's own library, and checked against the tables it was made of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import UndefinedError
from PIL import Image

from tests.rendering.test_markdown import Page
from tests.report.workspace import HOSTILE, LONG
from tests.sharing.conftest import Run
from tests.sharing.finished import write_tuned
from tgo_pipeline.errors import TgoError
from tgo_pipeline.sharing.card import render
from tgo_pipeline.sharing.images import Grid, before_after
from tgo_pipeline.sharing.licences import given
from tgo_pipeline.sharing.loading import ResultSource
from tgo_pipeline.sharing.model_card import ModelDetails, model_card, write_model
from tgo_pipeline.storage.tables import read_table

LICENCE = given("openrail++")
ABOUT = ModelDetails(LICENCE, repo="me/fox", dataset="me/fox-data")


@pytest.fixture(scope="module")
def shared(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared folder of the run."""
    folder = tmp_path_factory.mktemp("model") / "share/model"
    write_model(run.params, run.places, ABOUT, folder)
    return folder


@pytest.fixture(scope="module")
def card(shared: Path) -> ModelCard:
    return ModelCard.load(shared / "README.md")


def test_the_front_matter_says_what_the_hub_sorts_by(card: ModelCard) -> None:
    data = card.data.to_dict()
    assert data["license"] == "openrail++"
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert data["datasets"] == ["me/fox-data"]
    assert {"text-to-image", "tgo", "tgo-pipeline"} <= set(data["tags"])
    assert "base_model" not in data  # the embedded model is on no hub


def test_the_model_index_has_the_numbers_of_the_evaluation_table(card: ModelCard, run: Run) -> None:
    rows = [row for row in read_table(run.places.evaluation).to_pylist() if row["test_set"] != "all"]
    assert len(card.data.eval_results) == 2 * len(rows)
    found = {(each.dataset_name, each.metric_name): each for each in card.data.eval_results}
    for row in rows:
        won = found[row["test_set"], f"{row['reward']}: win rate against the base model"]
        mean = found[row["test_set"], f"{row['reward']}: mean score"]
        assert won.metric_value == pytest.approx(row["win_rate"], abs=1e-6)
        assert won.metric_args["low"] == pytest.approx(row["win_rate_low"], abs=1e-6)
        assert mean.metric_value == pytest.approx(row["tuned_mean"], abs=1e-6)
        assert won.task_type == "text-to-image"


def test_the_tables_show_every_reward_with_its_interval_and_its_part(card: ModelCard, run: Run) -> None:
    row = next(
        row
        for row in read_table(run.places.evaluation).to_pylist()
        if (row["test_set"], row["reward"]) == ("all", "oracle")
    )
    words = Page(card.text).words
    assert f"{row['win_rate']:.1%} [{row['win_rate_low']:.1%}, {row['win_rate_high']:.1%}]" in words
    assert "oracle (held out)" in words
    assert "mean_z (target)" in words
    assert "pickscore (part of the target)" in words


def test_the_legend_is_the_evaluation_s_without_the_folders_of_this_machine(card: ModelCard) -> None:
    words = Page(card.text).words
    for said in ("cosine similarity", "ab" * 8, "cd" * 8, "of its sample id"):
        assert said in words
    assert "ab" * 32 not in words
    for private in ("/somewhere", "/home/someone", str(Path.cwd())):
        assert private not in str(card)


def test_the_shared_folder_is_the_model_with_its_card_and_no_second_copy(shared: Path, run: Run) -> None:
    for path in run.places.model.rglob("*"):
        if path.is_file():
            assert (shared / path.relative_to(run.places.model)).samefile(path)
    assert {path.name for path in shared.iterdir() if not path.name.startswith(".")} == {
        "README.md",
        "before_after.png",
        *(path.name for path in run.places.model.iterdir()),
    }


def test_folders_of_this_machine_stay_out_of_what_is_shared(run: Run, tmp_path: Path) -> None:
    base, tuned = tmp_path / "private/base", tmp_path / "tuned"
    base.mkdir(parents=True)
    params = replace(run.params, model=str(base))
    write_tuned(tuned, params, "lora")
    bare = run.places.moved(model=tuned, evaluation=tmp_path / "none")
    for about, shown in ((ABOUT, "base"), (replace(ABOUT, base_model="org/base"), "org/base")):
        card = write_model(params, bare, about, tmp_path / "share")
        assert json.loads((tmp_path / "share/tgo.json").read_text())["base"] == shown
        assert f'from_pretrained("{shown}")' in card.read_text()
        for path in (tmp_path / "share").rglob("*.*"):
            assert str(tmp_path).encode() not in path.read_bytes()
    assert json.loads((tuned / "tgo.json").read_text())["base"] == str(base)


def test_a_run_whose_target_is_feedback_shows_the_other_rewards(run: Run, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(run.places.evaluation)
    place = table.column_names.index("is_target")
    no_target = table.set_column(place, table.schema.field(place), [[False] * len(table)])
    pq.write_table(no_target, tmp_path / "evaluation.parquet")
    bare = run.places.moved(evaluation=tmp_path / "evaluation.parquet")
    words = Page(ModelCard.load(write_model(run.params, bare, ABOUT, tmp_path / "share")).text).words
    assert "on 48 test prompts: the held-out oracle rose" in words
    assert "(target)," not in words


def test_the_lines_on_the_card_load_the_model_and_draw(run: Run, tmp_path: Path) -> None:
    written = write_model(run.params, run.places, ModelDetails(LICENCE), tmp_path / "share")
    lines = ModelCard.load(written).text.split("```python\n")[1].split("```")[0]
    scope: dict = {}
    exec(lines, scope)
    assert scope["image"].size == (32, 32)


def test_the_grid_has_the_base_above_the_tuned_model(shared: Path, run: Run) -> None:
    from tgo_pipeline.report.thumbnails import read_images
    from tgo_pipeline.rewards.engine.decode import decode

    grid = before_after(run.places, run.params.seed)
    assert grid is not None
    saved = np.asarray(Image.open(shared / "before_after.png"))
    assert (saved == np.asarray(grid.image)).all()
    for row, side in enumerate(("base", "tuned")):
        folder = run.places.side(side, "generations")
        ids = read_table(next(folder.glob("*.parquet")), columns=["sample_id", "prompt"]).to_pylist()
        wanted = next(each["sample_id"] for each in ids if each["prompt"] == grid.prompts[0])
        original = np.asarray(decode(read_images(folder, [wanted])[wanted][1]))
        corner = saved[row * 196 : row * 196 + 192 : 6, 0:192:6]
        assert (corner == original).all()


def test_a_hostile_title_and_hostile_prompts_are_text(run: Run) -> None:
    grid = Grid([HOSTILE, LONG], Image.new("RGB", (8, 8)))
    described = json.loads((run.places.model / "tgo.json").read_text())
    about = replace(ABOUT, title=f"{HOSTILE}\n---\nlicense: mit")
    content = model_card(
        run.params, described, about, None, grid, run.places.model, ResultSource("me/fox", True)
    )
    card = ModelCard(content)
    assert card.data.license == "openrail++"
    page = Page(card.text)
    assert not set(page.tags) & {"script", "iframe", "style", "svg"}
    assert [value for name, value in page.attributes if name == "src"] == ["before_after.png"]
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>document.documentElement" in page.words


def test_a_run_without_evaluation_says_so_and_has_no_model_index(run: Run, tmp_path: Path) -> None:
    bare = run.places.moved(evaluation=tmp_path / "none", evaluation_images=tmp_path / "none")
    card = ModelCard.load(write_model(run.params, bare, ABOUT, tmp_path / "share"))
    assert "It was not evaluated." in card.text
    assert card.data.eval_results is None
    assert not (tmp_path / "share/before_after.png").exists()


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        (
            "lora",
            ['DiffusionPipeline.from_pretrained("org/base", revision="abc")', 'load_lora_weights("me/fox")'],
        ),
        ("guidance", ['load_pipeline(snapshot_download("me/fox"))', "pipeline.guidance.strength = 1.0"]),
    ],
)
def test_adapters_and_modules_are_loaded_in_their_own_way(
    run: Run, tmp_path: Path, method: str, lines: list[str]
) -> None:
    params = replace(run.params, model="org/base", revision="abc")
    write_tuned(tmp_path / "tuned", params, method)
    bare = run.places.moved(model=tmp_path / "tuned", evaluation=tmp_path / "none")
    card = ModelCard.load(write_model(params, bare, ABOUT, tmp_path / "share"))
    for line in lines:
        assert line in card.text
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", "adapter")
    assert ("lora" in data["tags"]) == (method == "lora")


def test_parameters_that_the_result_was_not_made_with_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="was made with seed 7, and the parameters say 8"):
        write_model(replace(run.params, seed=8), run.places, ABOUT, tmp_path / "share")
    assert not (tmp_path / "share").exists()


def test_numbers_of_another_model_are_refused(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "tuned"
    shutil.copytree(run.places.model, other)
    (other / "scheduler/scheduler_config.json").write_text("{}")
    with pytest.raises(TgoError, match=r"is of another model than .*: run the evaluate stage again"):
        write_model(run.params, run.places.moved(model=other), ABOUT, tmp_path / "share")


def test_what_is_missing_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="run the fine_tune stage first"):
        write_model(run.params, run.places.moved(model=tmp_path / "none"), ABOUT, tmp_path / "share")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TgoError, match=r"no tgo\.json"):
        write_model(run.params, run.places.moved(model=tmp_path / "empty"), ABOUT, tmp_path / "share")


def test_a_folder_of_other_files_is_never_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(TgoError, match="holds files that `tgo card` did not write"):
        write_model(run.params, run.places, ABOUT, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_a_card_written_again_replaces_the_earlier_one_whole(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "share"
    write_model(run.params, run.places, ABOUT, folder)
    (folder / "left-over.safetensors").touch()
    write_model(run.params, run.places, replace(ABOUT, title="Second"), folder)
    assert not (folder / "left-over.safetensors").exists()
    assert "# Second" in (folder / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")] == []
    shutil.rmtree(folder)
    assert (run.places.model / "model_index.json").is_file()


def test_a_title_in_the_template_s_own_language_is_text(run: Run) -> None:
    described = json.loads((run.places.model / "tgo.json").read_text())
    about = replace(ABOUT, title="{{ 6 * 7 }} {% raw %} {# none #}")
    place = ResultSource("me/fox", True)
    content = model_card(run.params, described, about, None, None, run.places.model, place)
    assert "{{ 6 * 7 }} {% raw %} {# none #}" in Page(ModelCard(content).text).words


def test_a_fact_that_a_template_lacks_is_an_error(run: Run) -> None:
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render(ModelCard, "model.md.jinja", ModelCardData(), method="full")
