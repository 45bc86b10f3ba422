"""Digests of what the parameters name: they follow every file, and nothing else."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages import STAGES, evaluate, fine_tune, generate, label, prompts, score, threshold
from stages.inputs import run
from tests.datasets import public
from tests.thresholds.shards import write_scores
from tgo_pipeline.inputs import named_files
from tgo_pipeline.params import Params, parse
from tgo_pipeline.storage.workspace import HERE

LARGE = 5 << 20
DEMO: dict[str, Any] = {
    "prompts": {"train": "prompts.txt", "test": {"plain": "demo:plain"}},
    "score": {"rewards": {"clip": "demo"}},
    "target": {"reward": "clip"},
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with one of everything that parameters can name."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a cat\na dog\n")
    Path("ratings.csv").write_text("file_name,rating\na.png,3\n")
    Path("own.py").write_text("def score(images, prompts): ...\n")
    pipeline(Path("base"))
    pipeline(Path("other"))
    Path("module.safetensors").write_bytes(b"weights")
    write_scores(Path("proxy"), {"clip": [1.0, 2.0]}, shards=1)
    photos(Path("photos"))
    return tmp_path


def pipeline(folder: Path) -> None:
    """What is looked at of a pipeline's folder: an index, and files of any content."""
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    (folder / "unet/weights.safetensors").write_bytes(folder.name.encode() * (LARGE // len(folder.name)))


def photos(folder: Path) -> None:
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "metadata.csv").write_text("file_name,prompt\n0.png,a cat\n1.png,a dog\n")


def parsed(**sections: Mapping[str, Any] | str | None) -> Params:
    return parse(Params, {**DEMO, **sections})


def touch(path: str, content: bytes = b"#") -> Callable[[], None]:
    """A change that adds to a file."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes() + content) and None


IMAGES = {"generate": {"source": "images", "images": "photos"}}
GUIDED = {"generate": {"guidance": {"kind": "pgd", "positive": "module.safetensors"}}}
OWN = {"score": {"rewards": {"clip": "demo", "mine": "own:score"}}}
RATED = {
    "score": {"rewards": {"clip": "demo"}, "feedback": {"stars": {"source": "ratings.csv", "kind": "rating"}}}
}
PROXY = {"threshold": {"source": "proxy", "proxy": "proxy"}}
COMPARED = {"evaluate": {"models": {"other": "other"}}}
WEIGHTS = "base/unet/weights.safetensors"


@pytest.mark.parametrize(
    ("sections", "change", "seen_by"),
    [
        ({}, touch("prompts.txt"), {"prompts"}),
        ({"model": "base"}, touch(WEIGHTS), {"generate", "fine_tune", "evaluate"}),
        (GUIDED, touch("module.safetensors"), {"generate"}),
        (IMAGES, touch("photos/1.png"), {"generate"}),
        (IMAGES, touch("photos/metadata.csv", b"1.png,a fox\n"), {"generate"}),
        (IMAGES, lambda: Path("photos/0.png").unlink(), {"generate"}),
        (OWN, touch("own.py"), {"score", "evaluate"}),
        (RATED, touch("ratings.csv"), {"score"}),
        (
            PROXY,
            lambda: write_scores(Path("proxy"), {"clip": [1.0, 2.0]}, shards=1, fingerprint="b") and None,
            {"threshold", "label", "evaluate"},
        ),
        (COMPARED, touch("other/unet/weights.safetensors"), {"evaluate"}),
        (COMPARED, lambda: shutil.rmtree("other"), {"evaluate"}),
        ({"model": "base"}, touch("prompts.txt"), {"prompts"}),
    ],
)
def test_a_changed_file_is_seen_by_the_stages_that_read_it(
    sections: dict[str, Any], change: Callable[[], None], seen_by: set[str]
):
    params = parsed(**sections)
    before = entries(params)
    assert entries(params) == before
    change()
    after = entries(params)
    assert {name for name in STAGES if before[name] != after[name]} == seen_by
    assert all(before[name]["versions"] == after[name]["versions"] for name in STAGES)


def entries(params: Params) -> dict[str, Any]:
    """What inputs.yaml holds after the stage."""
    import yaml

    run(params)
    return yaml.safe_load(HERE.inputs.read_text())


def test_what_is_not_read_is_not_looked_at():
    """Images, modules and a proxy set that the parameters do not name; rewards, where tau stays as it is."""
    params = parsed()
    assert generate.inputs(params)["files"].keys() == {"model"}
    assert threshold.inputs(params)["files"] == label.inputs(params)["files"] == {}
    assert fine_tune.inputs(params)["files"].keys() == {"model"}
    again = parsed(fine_tune={"reestimate": {}})
    assert fine_tune.inputs(again)["files"].keys() == {"model", "score.rewards.clip"}
    assert set(generate.inputs(parsed(**IMAGES))["versions"]) == {"images"}
    assert set(score.inputs(parsed(**RATED))["versions"]) == {"score", "feedback"}


def test_what_comes_with_the_package_is_digested_too():
    params = parsed(evaluate={"published": True}, fine_tune={"preset": "tgo/sd15"})
    files = evaluate.inputs(params)["files"] | fine_tune.inputs(params)["files"]
    for key, written in {
        "model": "demo",
        "score.rewards.clip": "clip=demo",
        "evaluate.published": "true",
        "fine_tune.preset": "tgo/sd15",
    }.items():
        name, digest = files[key].split(" ")
        assert name == written and len(digest) == 16


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "address", ["pickapic:hf:yuvalkirstain/pickapic_v2@0123456/train", "hf:organisation/name@0123456/train"]
)
def test_what_is_on_the_hub_is_its_address(address: str):
    params = parsed(
        model="organisation/model",
        revision="89abcde",
        prompts={"train": address, "test_fraction": 0.5, "test": {}},
        generate={"source": "images", "images": address},
        score={
            "rewards": {"pickscore": None, "clip": "organisation/clip@0123456"},
            "feedback": {"preferred": {"source": address, "kind": "pair"}},
        },
        evaluate={"models": {"another": "organisation/another@0123456"}},
    )
    assert prompts.inputs(params)["files"] == {"prompts.train": address}
    assert generate.inputs(params)["files"] == {"generate.images": address}
    scored = score.inputs(params)["files"]
    assert scored["score.feedback.preferred"] == address
    assert scored["score.rewards.clip"].startswith("clip=organisation/clip@0123456 ")
    assert named_files.UNREADABLE not in scored["score.rewards.pickscore"]
    compared = evaluate.inputs(params)["files"]
    assert compared["model"].startswith("organisation/model@89abcde ")
    assert compared["evaluate.models.another"].startswith("organisation/another@0123456 ")


@pytest.mark.parametrize(
    ("write", "address", "change"),
    [
        (public.write_pickapic, "pickapic:set/train", "train-00001"),
        (public.write_hpdv2, "hpdv2:set/train", "3.jpg"),
    ],
)
def test_a_local_copy_of_a_public_set_is_followed(
    write: Callable[[Path], Path], address: str, change: str, project: Path
):
    """By its files, and by its images where they are files of their own."""
    write(Path("set"))
    params = parsed(generate={"source": "images", "images": address})
    before = named_files.images(params)
    assert named_files.UNREADABLE not in before["generate.images"]
    file = next(file for file in sorted(Path("set").rglob("*")) if file.is_file() and change in str(file))
    file.write_bytes(file.read_bytes() + b"\0")
    assert named_files.images(params) != before


def test_what_is_missing_does_not_stop_the_other_stages():
    params = parsed(model="not/there/at/all", evaluate={"models": {"gone": "./gone"}})
    Path("prompts.txt").unlink()
    assert prompts.inputs(params)["files"]["prompts.train"] == f"prompts.txt {named_files.UNREADABLE}"
    found = evaluate.inputs(params)["files"]
    assert found["model"] == f"not/there/at/all {named_files.UNREADABLE}"
    assert found["evaluate.models.gone"] == f"./gone {named_files.UNREADABLE}"


def test_the_result_of_the_project_itself_is_left_to_dvc(project: Path):
    """Its digest would be that of the run before, and the next one would evaluate again for nothing."""
    pipeline(HERE.model / "positive")
    params = parsed(evaluate={"models": {"positive": "models/tuned/positive"}})
    before = evaluate.inputs(params)
    assert before["files"]["evaluate.models.positive"] == "models/tuned/positive"
    (HERE.model / "positive/unet/weights.safetensors").write_bytes(b"others")
    assert evaluate.inputs(params) == before
