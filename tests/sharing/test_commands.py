"""`tgo card` and `tgo push --dry-run` as a user types them, in a finished run's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from typer.testing import CliRunner

from stages import USER_ERROR
from stages.cli import app
from tests.sharing.conftest import Run


@pytest.fixture
def folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder to write into, and to be in."""
    shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("share"))
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def tgo(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


def set_param(folder: Path, **values: object) -> None:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}, sort_keys=False))


def test_both_cards_of_the_small_world_need_no_licence_to_be_given(folder: Path) -> None:
    assert tgo("card", "--model-repo", "me/fox", "--dataset-repo", "me/fox-data")[0] == 0
    model, data = ModelCard.load("share/model/README.md"), DatasetCard.load("share/dataset/README.md")
    assert (model.data.license, data.data.license) == ("apache-2.0", "apache-2.0")
    assert model.data.datasets == ["me/fox-data"]
    assert 'load_dataset("me/fox-data", "labels")' in data.text
    code, said = tgo("push", "model", "me/fox", "--dry-run")
    assert code == 0
    assert "unet/diffusion_pytorch_model.safetensors" in said


def test_a_push_after_another_training_asks_for_new_cards(folder: Path) -> None:
    assert tgo("card")[0] == 0
    label = next((folder / "data/labels").glob("*.parquet"))
    label.unlink()
    code, said = tgo("push", "dataset", "me/fox-data", "--dry-run")
    assert code == USER_ERROR
    assert "was made of another run than the one that is here now" in said
    assert tgo("push", "dataset", "me/fox-data", "--dry-run", "--from", "share/dataset")[0] == 0
    code, said = tgo("push", "dataset", "me/fox-data", "--dry-run", "--from", "share/model")
    assert (code, "holds a model, not a dataset" in said) == (USER_ERROR, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("card", "poster"), "'poster' is nothing to make a card of: it must be model, dataset or both"),
        (("card", "--license", "apache2"), "Did you mean apache-2.0?"),
        (("card", "--params", "none.yaml"), "none.yaml does not exist"),
        (("card", "model", "--to", "params.yaml"), "params.yaml is a file: name a folder with --to"),
        (("push", "poster", "me/fox"), "'poster' is nothing to push: it must be model or dataset"),
        (("push", "model", "me/fox"), "has no README.md: run `tgo card model` first"),
    ],
)
def test_wrong_inputs_are_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    code, said = tgo(*arguments)
    assert code == USER_ERROR
    assert message in said
    assert not (folder / "share").exists()


def test_an_unknown_licence_is_asked_for_before_anything_is_written(folder: Path) -> None:
    set_param(folder, model="org/base")
    code, said = tgo("card")
    assert code == USER_ERROR
    assert "the licence of the model is not known" in said
    assert "--license" in said
    code, said = tgo("card", "--license", "mit")
    assert code == USER_ERROR
    assert "the licence of the data set is not known" in said
    assert not (folder / "share").exists()
