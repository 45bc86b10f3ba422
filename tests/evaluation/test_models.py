"""Which models an evaluation has, where their samples lie, and what becomes of those that are no longer named."""

import dataclasses
from pathlib import Path

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.models import evaluation_rewards, has_diversity, remove_others, sides
from tgo_pipeline.params import Params, parse
from tgo_pipeline.storage.shards import parts_folder
from tgo_pipeline.storage.workspace import HERE, Workspace

SCORE = {"rewards": {"pickscore": "demo"}}


def params(**sections: object) -> Params:
    return parse(Params, {"prompts": {"test": {"plain": "demo:plain"}}, "score": SCORE, **sections})


def _sides(models: dict[str, str]) -> list[tuple[str, str, str | None, str]]:
    found = sides(params(evaluate={"models": models}), HERE)
    return [(side.name, side.model, side.revision, side.folder.name) for side in found]


def test_base_and_tuned_come_first_and_a_hub_id_has_its_revision(tmp_path: Path) -> None:
    folder = tmp_path / "with@sign"
    folder.mkdir()
    assert _sides({"dpo": "org/name@abc", "sft": "org/name", "mine": str(folder)}) == [
        ("base", "demo", None, "base"),
        ("tuned", "models/tuned", None, "tuned"),
        ("dpo", "org/name", "abc", "dpo"),
        ("sft", "org/name", None, "sft"),
        ("mine", str(folder), None, "mine"),
    ]


def test_any_name_has_a_folder_of_its_own_inside() -> None:
    names = ["../up", "a/b", "a:b", ".hidden", "名前", "a b"]
    places = [place for *_, place in _sides(dict.fromkeys(names, "demo"))]
    assert len(set(places)) == len(places)
    assert not [place for place in places if "/" in place or place.startswith(".")]


@pytest.mark.parametrize("name", ["", "  ", "models.parquet", "Base"])
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(TgoError, match="Rename it"):
        _sides({name: "demo"})


def _shard(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()


def test_models_that_are_not_named_any_more_lose_their_samples_and_nothing_else_does(tmp_path: Path) -> None:
    for name in ("base", "tuned", "old"):
        _shard(tmp_path / name / "generations/test-00000-of-00001.parquet")
    _shard(tmp_path / "old/scores/.tmp-12-test-00000-of-00001.parquet")
    _shard(parts_folder(tmp_path / "old/generations/test-00001-of-00002.parquet") / "00000-00064.parquet")
    _shard(tmp_path / "mine/generations/photo.png")
    _shard(tmp_path / "notes/text/a.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "matrix.parquet").touch()
    chosen = sides(params(), Workspace().moved(evaluation_images=tmp_path))
    remove_others(chosen, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("base", "empty", "matrix.parquet", "mine", "notes", "tuned")
    ]


def test_feedback_alone_is_nothing_to_evaluate_with() -> None:
    feedback = {"stars": {"kind": "rating", "source": "stars.csv"}}
    only = params(score={"feedback": feedback}, target={"reward": "stars"})
    with pytest.raises(TgoError, match=r"no reward to evaluate with.*evaluate\.rewards"):
        evaluation_rewards(only)
    named = dataclasses.replace(only, evaluate=dataclasses.replace(only.evaluate, rewards={"clip": "demo"}))
    assert evaluation_rewards(named) == {"clip": "demo"}
    same = dataclasses.replace(
        only, evaluate=dataclasses.replace(only.evaluate, rewards={"stars": "clip=demo"})
    )
    with pytest.raises(
        TgoError, match=r"evaluate\.rewards\.stars: score\.feedback has a column of this name"
    ):
        evaluation_rewards(same)


@pytest.mark.parametrize(
    ("images", "shard", "expected"), [(1, 4, False), (2, 4, True), (4, 4, True), (5, 4, False)]
)
def test_diversity_needs_several_images_in_one_shard(images: int, shard: int, expected: bool) -> None:
    found = params(evaluate={"images_per_prompt": images}, generate={"shard_size": shard})
    assert has_diversity(found) is expected
