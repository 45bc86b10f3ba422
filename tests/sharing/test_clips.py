"""Cards of a run of clips: `datasets` loads what the card promises, and a model card shows how clips are drawn."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image

from tests.report.test_clips import noise, turn_into_clips
from tests.sharing.conftest import Run
from tests.sharing.finished import finish, places
from tgo_pipeline.formats.video_files import read_frames
from tgo_pipeline.sharing.dataset_card import DatasetDetails, write_dataset
from tgo_pipeline.sharing.licences import given
from tgo_pipeline.sharing.model_card import ModelDetails, write_model

LICENCE = given("openrail++")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("clips") / "run"
    size = {
        "images_per_prompt": 4,
        "guidance_scale": 5.0,
        "steps": 50,
        "frames": 5,
        "width": 32,
        "height": 32,
    }
    params = finish(folder, "full", generate=size)
    turn_into_clips(places(folder))
    return Run(folder, params)


def test_the_shared_data_set_has_clips(clips: Run, tmp_path: Path) -> None:
    card = DatasetCard.load(
        write_dataset(clips.params, clips.places, DatasetDetails(LICENCE), tmp_path / "data")
    )
    assert card.data.to_dict()["task_categories"] == ["text-to-video"]
    (info,) = [each for each in card.data["dataset_info"] if each["config_name"] == "generations"]
    kinds = {feature["name"]: feature["dtype"] for feature in info["features"]}
    assert (kinds["video"], kinds["preview"], kinds["frames"]) == ("video", "video", "int32")
    assert "48 clips, drawn by" in card.text and "every level of every frame" in card.text
    loaded = datasets.load_dataset(
        str(tmp_path / "data"), "generations", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert type(loaded.features["video"]) is datasets.Video
    for name in ("video", "preview"):  # to decode them, datasets wants torchcodec
        loaded = loaded.cast_column(name, datasets.Video(decode=False))
    assert (read_frames(loaded[3]["video"]["bytes"])[0] == noise(3)).all()


def test_the_model_card_draws_and_writes_a_clip(clips: Run, tmp_path: Path) -> None:
    card = ModelCard.load(write_model(clips.params, clips.places, ModelDetails(LICENCE), tmp_path / "model"))
    assert card.data.to_dict()["pipeline_tag"] == "text-to-video"
    assert {each.task_type for each in card.data.eval_results} == {"text-to-video"}
    assert (
        "num_frames=5).frames[0]" in card.text and 'export_to_video(frames, "clip.mp4", fps=16)' in card.text
    )
    assert "on clips that were scored by" in card.text and "Middle frames: base model above" in card.text
    (grid,) = (tmp_path / "model").glob("*.png")
    assert Image.open(grid).size[0] > 192
