"""The card of the data set: `datasets` loads what it promises, and its words are those of the tables."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

from tests.rendering.test_markdown import Page
from tests.sharing.conftest import Run
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.sharing.dataset_card import DatasetDetails, write_dataset
from tgo_pipeline.sharing.licences import given
from tgo_pipeline.storage.tables import read_folder
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.thresholds.label_stage import label_folder
from tgo_pipeline.thresholds.stage import fit_folder

LICENCE = given("other", "terms of the source", "https://example.org/terms")
ABOUT = DatasetDetails(LICENCE, title="Foxes <b>scored</b> | `all`")
PARTS = ("generations", "scores", "labels")


@pytest.fixture(scope="module")
def shared(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared folder of the run."""
    folder = tmp_path_factory.mktemp("data") / "share/dataset"
    write_dataset(run.params, run.places, ABOUT, folder)
    return folder


@pytest.fixture(scope="module")
def card(shared: Path) -> DatasetCard:
    return DatasetCard.load(shared / "README.md")


@pytest.fixture(scope="module")
def loaded(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, datasets.Dataset]:
    """Every configuration as `datasets` loads it from the folder with its card, checks of the card's numbers on."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {
        name: datasets.load_dataset(
            str(shared), name, split="train", cache_dir=cache, verification_mode="basic_checks"
        )
        for name in PARTS
    }


def test_every_configuration_loads_with_the_rows_of_its_stage(loaded: dict, run: Run) -> None:
    for name in PARTS:
        rows = read_folder(getattr(run.places, name), ["sample_id"])
        assert loaded[name]["sample_id"] == rows["sample_id"].to_list()


def test_images_and_labels_are_decoded(loaded: dict) -> None:
    assert loaded["generations"][0]["image"].size == (32, 32)
    assert loaded["labels"].features["label"].names == ["negative", "positive"]


def test_the_first_configuration_is_the_default(shared: Path) -> None:
    assert datasets.get_dataset_default_config_name(str(shared)) == "generations"
    assert datasets.get_dataset_config_names(str(shared)) == list(PARTS)


def test_the_features_on_the_card_are_those_of_the_files(card: DatasetCard, loaded: dict) -> None:
    for entry in card.data.dataset_info:
        stated = datasets.Features._from_yaml_list(entry["features"])
        assert stated == loaded[entry["config_name"]].features


def test_counts_and_sizes_are_those_of_the_real_shards(card: DatasetCard, run: Run) -> None:
    for entry in card.data.dataset_info:
        folder = getattr(run.places, entry["config_name"])
        (split,) = entry["splits"]
        assert split["name"] == "train"
        assert split["num_examples"] == len(read_folder(folder, ["sample_id"]))
        assert entry["download_size"] == sum(path.stat().st_size for path in folder.glob("*.parquet"))
        assert 0 < split["num_bytes"] == entry["dataset_size"]


def test_the_front_matter_has_licence_and_size(card: DatasetCard) -> None:
    data = card.data.to_dict()
    assert data["license"] == "other"
    assert data["license_name"] == "terms of the source"
    assert data["license_link"] == "https://example.org/terms"
    assert data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["text-to-image"]


def test_the_card_says_how_the_labels_were_made(card: DatasetCard, run: Run) -> None:
    labels = read_folder(run.places.labels)
    words = Page(card.text).words
    positive = int(labels["label"].sum())
    assert f"{len(labels)} samples have a label: {positive} positive" in words
    assert "percentile 0.5 of all scores" in words
    assert "A score equal to it counts as positive." in words
    assert "Weight: 1 + 5 · distance, in units of the scores' standard deviation." in words
    weight = labels["weight"].to_numpy()
    assert f"effective sample size {weight.sum() ** 2 / (weight**2).sum():,.0f}." in words


def test_the_card_has_the_identity_of_each_reward_and_the_meaning_of_each_column(
    card: DatasetCard, loaded: dict
) -> None:
    words = Page(card.text).words
    assert "hpsv2.1 1 fp32" in words
    assert "abababababababab" in words
    assert "/somewhere" not in str(card)
    rows = [line for line in card.text.splitlines() if line.startswith("| <code>")]
    for name in PARTS:
        for column in loaded[name].features:
            shown = column.replace("_", r"\_")
            assert any(
                line.startswith(f"| <code>{shown}</code> |") and "| – |" not in line for line in rows
            ), column


def test_a_hostile_title_is_text(card: DatasetCard) -> None:
    page = Page(card.text)
    assert "Foxes <b>scored</b> | `all`" in page.words
    assert "b" not in page.tags


def test_a_baseline_for_each_prompt_is_told_with_its_parameters(run: Run, tmp_path: Path) -> None:
    threshold = replace(run.params.threshold, baseline="prompt_soft", beta=0.3, leave_one_out=True)
    params = replace(run.params, threshold=threshold)
    card = DatasetCard.load(
        write_dataset(params, labelled_anew(params, run, tmp_path), ABOUT, tmp_path / "share")
    )
    assert "its own baseline: `prompt_soft` (beta 0.3, leave-one-out)." in card.text


def labelled_anew(params: Params, run: Run, folder: Path) -> Workspace:
    """The run with thresholds and labels of other parameters, below `folder`."""
    changed = Workspace(folder).moved(
        prompts=run.places.prompts, generations=run.places.generations, scores=run.places.scores
    )
    fit_folder(params, changed)
    label_folder(params, changed)
    return changed


@pytest.mark.parametrize(
    ("section", "change"),
    [("label", {"c": 77.0}), ("threshold", {"percentile": 0.4}), ("target", {"reward": "clip"})],
)
def test_labels_of_other_parameters_are_not_described_by_those_of_now(
    run: Run, tmp_path: Path, section: str, change: dict
) -> None:
    params = replace(run.params, **{section: replace(getattr(run.params, section), **change)})
    with pytest.raises(TgoError, match="other scores or parameters than those of now"):
        write_dataset(params, run.places, ABOUT, tmp_path / "share")
    assert not (tmp_path / "share").exists()


@pytest.mark.parametrize(
    ("place", "stage"), [("generations", "generate"), ("labels", "label"), ("thresholds", "threshold")]
)
def test_a_stage_that_has_not_run_is_named(run: Run, tmp_path: Path, place: str, stage: str) -> None:
    missing = run.places.moved(**{place: tmp_path / "none"})
    with pytest.raises(TgoError, match=f"run the {stage} stage first"):
        write_dataset(run.params, missing, ABOUT, tmp_path / "share")
    assert not (tmp_path / "share").exists()


def test_a_file_that_is_no_shard_is_named(run: Run, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    shutil.copytree(run.places.labels, labels)
    (labels / "notes.parquet").write_bytes(next(run.places.labels.glob("*.parquet")).read_bytes())
    with pytest.raises(TgoError, match="is not a shard"):
        write_dataset(run.params, run.places.moved(labels=labels), ABOUT, tmp_path / "share")
