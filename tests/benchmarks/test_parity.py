"""The comparison with the official code: its checkpoints, its judgement, its page; and, where the official packages
are installed, a small comparison itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.model import CLIP
from PIL import Image
from safetensors import safe_open
from transformers import CLIPConfig, CLIPModel

from benchmarks.parity import compare as comparing
from benchmarks.parity import run as parity
from benchmarks.parity.__main__ import _write
from benchmarks.parity.checkpoints import Checkpoints, write_checkpoints
from benchmarks.parity.networks import NETWORKS, clip_shapes, image_reward_shapes, open_clip_config
from benchmarks.parity.report import page, summary
from benchmarks.parity.samples import MODES, Samples, make_samples
from tgo_pipeline.hub.checkpoint import read_weights
from tgo_pipeline.rewards.isolated.environments import DONE, ENVIRONMENTS

OFFICIAL = ENVIRONMENTS["official-rewards"].folder
FEW = ("square", "long_side_224", "rgba"), ("simple", "typographic", "long")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"), "tiny", seed=3)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return make_samples(tmp_path_factory.mktemp("samples"), seed=3)


def _parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def test_full_size_is_the_official_networks() -> None:
    full = NETWORKS["full"]
    hps, openai, blip = clip_shapes(full.vit_h), clip_shapes(full.vit_l), image_reward_shapes(full.blip)
    assert (len(hps), _parameters(hps)) == (686, 986_109_441)
    assert _parameters(openai) == 427_616_513
    position_ids = full.blip.positions
    assert (len(blip) + 1, _parameters(blip) + position_ids) == (625, 446_666_465)


@pytest.mark.parametrize("size", NETWORKS)
def test_keys_and_shapes_are_those_of_the_libraries(size: str) -> None:
    network = NETWORKS[size].vit_h
    with torch.device("meta"):
        theirs = CLIP(**open_clip_config(network)).state_dict()  # type: ignore[arg-type]
    assert {key: tuple(value.shape) for key, value in theirs.items()} == clip_shapes(network)


def test_a_clip_model_has_the_keys_of_hugging_face(checkpoints: Checkpoints) -> None:
    for folder in ("pickscore", "clip"):
        with torch.device("meta"):
            theirs = CLIPModel(CLIPConfig.from_pretrained(checkpoints.folder / folder)).state_dict()
        with safe_open(checkpoints.folder / folder / "model.safetensors", "pt") as file:
            assert {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()} == {  # noqa: SIM118
                key: tuple(value.shape) for key, value in theirs.items()
            }


@pytest.mark.parametrize("name", comparing.TOLERANCE)
def test_a_reward_loads_from_its_official_file(name: str, checkpoints: Checkpoints, samples: Samples) -> None:
    own = parity.ours(name, checkpoints, samples.only(("square", "rgba", "sliver"), ("simple", "empty")))
    assert len(own.scores) == 6
    assert np.isfinite(list(own.scores.values())).all()
    assert own.scores["square", "simple"] != own.scores["rgba", "simple"]
    assert own.prepared["square"].shape == (3, 224, 224)


def test_openai_s_file_and_the_clip_model_hold_the_same_numbers(checkpoints: Checkpoints) -> None:
    openai = read_weights(checkpoints.folder / "clip/ViT-L-14.pt")
    hugging_face = read_weights(checkpoints.folder / "clip/model.safetensors")
    query = hugging_face["vision_model.encoder.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(
        openai["visual.transformer.resblocks.1.attn.in_proj_weight"][:64].float(), query.float()
    )
    assert set(dict(openai)) == set(clip_shapes(NETWORKS["tiny"].vit_l))


def test_checkpoints_are_kept_for_the_same_seed_and_written_anew_for_another(tmp_path: Path) -> None:
    file = write_checkpoints(tmp_path, "tiny", 1).source("hpsv2.1")
    first = file.read_bytes()
    file.write_bytes(b"kept")
    assert write_checkpoints(tmp_path, "tiny", 1).source("hpsv2.1").read_bytes() == b"kept"
    assert write_checkpoints(tmp_path, "tiny", 2).source("hpsv2.1").read_bytes() not in (b"kept", first)
    assert write_checkpoints(tmp_path, "tiny", 1).source("hpsv2.1").read_bytes() == first


def test_the_official_packages_find_their_files_in_the_hub_cache(checkpoints: Checkpoints) -> None:
    for repository, file in (
        ("xswu/HPSv2", "HPS_v2.1_compressed.pt"),
        ("xswu/HPSv2", "HPS_v2_compressed.pt"),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "open_clip_pytorch_model.bin"),
        ("yuvalkirstain/PickScore_v1", "model.safetensors"),
        ("bert-base-uncased", "vocab.txt"),
    ):
        found = try_to_load_from_cache(repository, file, cache_dir=checkpoints.hub)
        assert isinstance(found, str) and Path(found).is_file(), (repository, file)


def test_samples_repeat_with_their_seed_and_cover_every_kind(samples: Samples, tmp_path: Path) -> None:
    again, other = make_samples(tmp_path / "a", 3), make_samples(tmp_path / "b", 4)
    assert again.prompts == samples.prompts != other.prompts
    for name, path in samples.images.items():
        assert path.read_bytes() == again.images[name].read_bytes()
        assert Image.open(path).mode == MODES.get(name, "RGB")
    assert samples.images["square"].read_bytes() != other.images["square"].read_bytes()
    twins = {name: Image.open(path) for name, path in samples.twins.items()}
    assert {twin.mode for twin in twins.values()} == {"RGB"}
    assert twins["long_side_224"].size == (224, 224)
    assert twins["turned"].size == Image.open(samples.images["turned"]).size[::-1]


def _agreeing() -> tuple[dict[str, object], dict[str, np.ndarray], comparing.Ours]:
    """An official answer and ours for ImageReward, equal in everything: two images, one of them transparent."""
    pixels = {"square": np.zeros((3, 2, 2), np.float32)}
    pairs = [
        {"image": "square", "prompt": "simple", "score": 0.25, "exact": 0.2500001, "error": None},
        {"image": "small", "prompt": "simple", "score": -0.5, "exact": -0.5, "error": None},
        {"image": "rgba", "prompt": "simple", "score": 9.0, "exact": 9.0, "error": None},
        {"image": "sliver", "prompt": "simple", "score": None, "error": "RuntimeError: too thin"},
    ]
    ranks = {
        "simple": {"images": ["square", "small", "rgba"], "scores": [0.25, -0.5, 9.0], "ranks": [2, 3, 1]}
    }
    answer: dict[str, object] = {"pairs": pairs, "tokens": {"simple": [101, 7, 102]}, "ranks": ranks}
    scores = {"square": 0.25, "small": -0.5, "rgba": 1.0, "sliver": 0.5}
    ours = comparing.Ours(
        {(image, "simple"): score for image, score in scores.items()},
        {"square": np.zeros((3, 2, 2), np.float32)},
        {"simple": [101, 7, 102, 0, 0]},
    )
    return answer, pixels, ours


def test_agreement_is_agreement() -> None:
    found = comparing.compare("imagereward", *_agreeing())
    assert found.problems == []
    assert (found.pairs, found.difference, found.pixels, found.prompts) == (2, 0.0, 0.0, 1)
    assert found.spread == pytest.approx(0.375)
    assert found.official_to_exact == pytest.approx(1e-7, rel=1e-3)
    assert found.crashes == {"sliver": "RuntimeError: too thin"}
    assert found.by_design == {"rgba": 8.0}


def test_every_deviation_is_flagged() -> None:
    answer, pixels, ours = _agreeing()
    deviations = {
        "has 0.2501": comparing.Ours(
            {**ours.scores, ("square", "simple"): 0.2501}, ours.prepared, ours.tokens
        ),
        "nan": comparing.Ours({**ours.scores, ("sliver", "simple"): math.nan}, ours.prepared, ours.tokens),
        "has nan": comparing.Ours({**ours.scores, ("small", "simple"): math.nan}, ours.prepared, ours.tokens),
        "prepared otherwise": comparing.Ours(ours.scores, {"square": pixels["square"] + 1e-3}, ours.tokens),
        "prepared otherwise, by up to inf": comparing.Ours(
            ours.scores, {"square": pixels["square"][:, :1]}, ours.tokens
        ),
        "token ids": comparing.Ours(ours.scores, ours.prepared, {"simple": [101, 8, 102, 0, 0]}),
        "token ids [101, 7, 102, 0, 5]": comparing.Ours(
            ours.scores, ours.prepared, {"simple": [101, 7, 102, 0, 5]}
        ),
    }
    for expected, deviating in deviations.items():
        problems = comparing.compare("imagereward", answer, pixels, deviating).problems
        assert any(expected in problem for problem in problems), (expected, problems)


def test_another_order_in_the_list_call_is_flagged() -> None:
    answer, pixels, ours = _agreeing()
    answer["ranks"]["simple"]["ranks"] = [3, 2, 1]  # type: ignore[index]
    problems = comparing.compare("imagereward", answer, pixels, ours).problems
    assert problems == ["imagereward: the list call ranks prompt simple otherwise"]


def test_an_official_side_that_scored_nothing_is_no_agreement() -> None:
    answer, pixels, ours = _agreeing()
    answer["pairs"] = [{"image": "square", "prompt": "simple", "score": None, "error": "OSError: no file"}]
    answer["ranks"] = {}
    assert "scored no pair" in comparing.compare("imagereward", answer, pixels, ours).problems[0]


@pytest.mark.parametrize(("reward", "flagged"), [("hpsv2.1", True), ("imagereward", False)])
def test_a_padded_twin_stands_for_hpsv2_s_image_only(reward: str, flagged: bool) -> None:
    pairs = [
        {"image": name, "prompt": "simple", "score": score, "error": None}
        for name, score in (("square", 0.1), (f"long_side_224{comparing.TWIN}", 0.2))
    ]
    ours = comparing.Ours({("square", "simple"): 0.1, ("long_side_224", "simple"): 0.3}, {}, {})
    found = comparing.compare(reward, {"pairs": pairs, "tokens": {}, "ranks": {}}, {}, ours)
    assert bool(found.problems) is flagged


def _results() -> dict[str, dict[str, object]]:
    answer, pixels, ours = _agreeing()
    wrong = comparing.Ours({**ours.scores, ("square", "simple"): 0.5}, ours.prepared, ours.tokens)
    samples = Samples({"square": Path("a.png")}, {}, {"simple": "a"})
    return {
        "tiny": parity._result(
            "tiny", 5, samples, [comparing.compare("imagereward", answer, pixels, ours)], {"torch": "2"}
        ),
        "full": parity._result(
            "full", 6, samples, [comparing.compare("imagereward", answer, pixels, wrong)], {"torch": "2"}
        ),
    }


def test_the_page_shows_numbers_errors_and_what_is_wrong() -> None:
    results = _results()
    text = page(results)
    assert "| imagereward | 2 | 0 | 1.0e-05 | 0.38 |" in summary(results["tiny"])
    assert "seed 5" in text and "seed 6" in text
    assert "| sliver | imagereward | `RuntimeError: too thin` |" in text
    assert "imagereward 8.00" in text
    assert "- **Wrong:** imagereward: square with prompt simple has 0.5, not 0.25" in text


def test_a_run_replaces_only_its_own_size(tmp_path: Path) -> None:
    results = _results()
    _write(tmp_path, results)
    _write(tmp_path, {"tiny": {**results["tiny"], "seed": 8}})
    kept = json.loads((tmp_path / "benchmarks/parity.json").read_text())
    assert {size: result["seed"] for size, result in kept.items()} == {"tiny": 8, "full": 6}
    assert "seed 8" in (tmp_path / "docs/PARITY.md").read_text()


@pytest.mark.skipif(
    not (OFFICIAL / DONE).is_file(),
    reason="the official packages are not installed: `make parity` builds their environment",
)
def test_scores_are_those_of_the_official_packages(tmp_path: Path) -> None:
    result = parity.run(OFFICIAL / "bin/python", tmp_path, "tiny", 11, FEW)
    assert result["problems"] == []
    rows = {row["reward"]: row for row in result["rewards"]}
    assert rows.keys() == comparing.TOLERANCE.keys()
    assert {"rgba", "long_side_224"} <= rows["hpsv2.1"]["crashes"].keys()
    assert "prompt long" in rows["clip/openai-l14"]["crashes"]
    assert rows["imagereward"]["pairs"] == 9
