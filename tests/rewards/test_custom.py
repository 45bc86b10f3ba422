"""Rewards that users bring: functions, classes, packages; and what is said of those that do not work."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stages import run_stage
from tests.plugins.modules import project_folder
from tests.plugins.packages import install
from tests.rewards import tiny
from tests.scoring.test_stage import write_generations
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import load_params
from tgo_pipeline.plugins import kinds
from tgo_pipeline.plugins.folder import looking
from tgo_pipeline.rewards import fingerprint, load_reward, require, score_all, specs
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.tables import read_folder

DOCUMENTATION = Path(__file__).parents[2] / "docs/REWARDS.md"
IMAGES = [tiny.smooth_image(40, 30), tiny.smooth_image(20, 50), tiny.smooth_image(8, 8)]
PROMPTS = ["a red cat", "blue", ""]
MODULE = """
import numpy, torch

def width(images, prompts):
    return [image.width for image in images]

width.scale, width.typical_range, width.needs_prompt = "pixels", (1, 4096), False

def words(images, prompts):
    assert all(type(prompt) is str for prompt in prompts)
    return numpy.array([len(prompt.split()) for prompt in prompts])

def mean(images, prompts):
    return torch.tensor([numpy.asarray(image).mean() for image in images])

class Scaled:
    version = "2"
    def __init__(self, source, device):
        self.factor, self.scale = float(open(source).read()), f"pixels on {device}"
    def __call__(self, images, prompts):
        return [self.factor * image.width for image in images]

class Nested:
    height = staticmethod(lambda images, prompts: [image.height for image in images])

def short(images, prompts): return [1.0]
def text(images, prompts): return ["0.5"] * len(images)
def none(images, prompts): return None
def rows(images, prompts): return numpy.ones((len(images), 2))
def nan(images, prompts): return [float("nan") if image.width == 20 else 1.0 for image in images]
def broken(images, prompts): return [1 / 0 for _ in images]
def exact(images, prompts): raise KeyError
class Unbuilt:
    def __init__(self, source, device): raise OSError("no weights here")
class Deaf:
    def __init__(self, source, device): pass
number = 3

def sides(images, prompts):
    return [(image.width, image.height, len(prompt)) for image, prompt in zip(images, prompts)]
sides.parts = {"height": "rows of pixels", "words": "letters of the prompt"}

class Shares:
    parts: dict = {"height": "share of its height"}
    def __init__(self, source, device): pass
    def __call__(self, images, prompts):
        return torch.tensor([[image.width, image.height if image.width != 20 else float("nan")] for image in images])

class Late:
    def __init__(self, source, device): self.parts = {"height": "rows"}
    def __call__(self, images, prompts): return [(1.0, 2.0) for _ in images]
def narrow(images, prompts): return [(1.0, 2.0) for _ in images]
narrow.parts = {"a": "first", "b": "second"}
def lone(images, prompts): return [1.0 for _ in images]
lone.parts = {"a": "first"}
def computed(images, prompts): return narrow(images, prompts)
computed.parts = dict(a="first")
def dotted(images, prompts): return narrow(images, prompts)
dotted.parts = {"a.b": "first"}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `mine.py` in it; its modules are forgotten afterwards."""
    with project_folder(tmp_path, monkeypatch, mine=MODULE):
        yield tmp_path


def test_a_function_of_the_current_folder() -> None:
    reward = load_reward("mine:width")
    scores = reward.score(IMAGES, PROMPTS)
    assert scores.dtype == np.float32 and scores.tolist() == [40, 20, 8]
    assert (reward.name, reward.scale, reward.typical_range) == ("width", "pixels", (1, 4096))
    assert reward.score(IMAGES).tolist() == [40, 20, 8], "it says that it needs no prompt"
    assert reward.identity["reward"] == "mine:width"


def test_arrays_tensors_and_attributes_of_classes_will_do() -> None:
    assert load_reward("mine:words").score(IMAGES, PROMPTS).tolist() == [3, 1, 0]
    means = [np.asarray(image).mean() for image in IMAGES]
    assert load_reward("mine:mean").score(IMAGES, PROMPTS) == pytest.approx(means)
    assert load_reward("mine:Nested.height").score(IMAGES, PROMPTS).tolist() == [30, 50, 8]


def test_a_class_is_built_once_with_its_source(folder: Path) -> None:
    (folder / "factor.txt").write_text("0.5")
    reward = load_reward("mine:Scaled=factor.txt")
    assert reward.score(IMAGES, PROMPTS).tolist() == [20, 10, 4]
    assert reward.scale == "pixels on cpu"


def test_a_subclass_of_the_seam_keeps_its_own_preparation(folder: Path) -> None:
    weights = tiny.write("clip", folder / "weights")
    (folder / "whole.py").write_text(
        "from tgo_pipeline.rewards import load_reward\n"
        "class Mine:\n"
        "    def __new__(cls, source, device):\n"
        "        return load_reward('clip', source, device)\n"
    )
    reward = load_reward(f"whole:Mine={weights}")
    expected = tiny.build("clip").score(IMAGES, PROMPTS)
    assert reward.score(IMAGES, PROMPTS) == pytest.approx(expected, abs=1e-6)
    assert reward.identity["dtype"] == "fp32"


def test_it_is_scored_beside_networks_in_one_pass(folder: Path) -> None:
    rewards = {
        "mine": load_reward("mine:words"),
        "clip": load_reward("clip", str(tiny.write("clip", folder / "clip"))),
    }
    scores = score_all(rewards, IMAGES * 20, PROMPTS * 20, batch_size=7)
    assert scores.columns["mine"].tolist() == [3, 1, 0] * 20
    assert scores.columns["clip"] == pytest.approx(
        np.tile(tiny.build("clip").score(IMAGES, PROMPTS), 20), abs=1e-6
    )


def test_a_number_that_is_not_finite_is_an_error_of_that_image_alone() -> None:
    scores = score_all({"mine": load_reward("mine:nan")}, IMAGES, PROMPTS)
    assert np.isnan(scores.columns["mine"]).tolist() == [False, True, False]
    assert scores.errors == {1: "mine gave nan"}
    with pytest.raises(TgoError, match="image 1 of 3 cannot be scored: nan gave nan"):
        load_reward("mine:nan").score(IMAGES, PROMPTS)


def test_a_function_or_a_class_may_give_further_numbers() -> None:
    found = load_reward("mine:sides").score_parts(IMAGES, PROMPTS)
    assert {name: values.tolist() for name, values in found.items()} == {
        "sides": [40, 20, 8],
        "sides.height": [30, 50, 8],
        "sides.words": [9, 4, 0],
    }
    assert load_reward("mine:sides").score(IMAGES, PROMPTS).tolist() == [40, 20, 8]
    shares = score_all({"own": load_reward("mine:Shares")}, IMAGES, PROMPTS, parts=True)
    assert shares.columns["own"].tolist() == [40, 20, 8], "a number that lacks takes no other with it"
    np.testing.assert_array_equal(shares.columns["own.height"], np.array([30, np.nan, 8], np.float32))
    assert shares.errors == {1: "own.height gave nan"}


def test_the_columns_of_further_numbers_are_known_without_running_code(folder: Path) -> None:
    (folder / "passing.py").write_text("from mine import sides\n")
    with looking():
        given = specs.resolve_all({"sides": "mine:sides", "own": "mine:Shares", "other": "passing:sides"})
        filled = specs.columns(given)
    assert list(filled) == [
        *("sides", "sides.height", "sides.words"),
        *("own", "own.height"),
        *("other", "other.height", "other.words"),
    ]
    assert "mine" not in sys.modules
    reward = load_reward("mine:sides")
    assert reward.describe_part("height")["scale"] == "rows of pixels"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Late", "has the parts height once it is loaded, and its file states no parts: write `parts = "),
        ("narrow", r"gave \(1.0, 2.0\) for image 0 of a batch: expected 3 numbers, the score and a, b"),
        ("lone", "gave 1.0 for image 0 of a batch: expected 2 numbers, the score and a"),
        (
            "computed",
            r"mine:computed: parts is dict\(a='first'\): write names and meanings out, such as parts = ",
        ),
        ("dotted", r"parts is {'a.b': 'first'}: write names"),
    ],
)
def test_further_numbers_that_cannot_be_columns_are_refused(name: str, reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        load_reward(f"mine:{name}").score(IMAGES, PROMPTS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("short", "reward short gave 1 scores for 3 images"),
        ("text", "gave '0.5' for image 0 of a batch, which is not a number"),
        ("none", "gave NoneType for 3 images: expected a list of as many numbers"),
        ("rows", r"gave \[1.0, 1.0\] for image 0 of a batch, which is not a number"),
        ("broken", r"raised ZeroDivisionError: division by zero \(mine.py, line \d+\)"),
        ("exact", r"raised KeyError \(mine.py"),
    ],
)
def test_what_a_function_does_wrong_is_said(name: str, reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        load_reward(f"mine:{name}").score(IMAGES, PROMPTS)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("absent:width", "there is no module 'absent', neither installed nor in"),
        ("mine.deeper:width", "there is no module 'mine.deeper'|'mine' is not a package"),
        ("mine:absent", "mine has no 'absent'; it has .*width"),
        ("mine:Nested.absent", "mine has no 'Nested.absent'"),
        ("mine:number", "mine:number gives int, which cannot be called"),
        ("mine:Deaf", "mine:Deaf gives Deaf, which cannot be called"),
        ("mine:Unbuilt", r"mine:Unbuilt\(None, 'cpu'\) raised OSError: no weights here"),
        ("mine:width=weights.pt", "is a function, which has no source"),
        ("unfinished:f", r"importing unfinished raised SyntaxError"),
        ("leaving:f", r"importing leaving raised SystemExit: 0 \(leaving.py, line 2\)"),
        ("needy:f", "needy needs 'a_package_that_nobody_has', which is not installed"),
    ],
)
def test_what_cannot_be_loaded_says_why(spec: str, reason: str, folder: Path) -> None:
    (folder / "unfinished.py").write_text("def f(images, prompts)\n")
    (folder / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "needy.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(TgoError, match=reason) as refused:
        load_reward(spec)
    assert "\n" not in str(refused.value)


def test_memory_that_runs_out_inside_is_left_to_the_engine(folder: Path) -> None:
    (folder / "hungry.py").write_text(
        "import torch\n"
        "def f(images, prompts):\n"
        "    if len(images) > 2: raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "    return [float(len(images))] * len(images)\n"
    )
    assert load_reward("hungry:f").score(IMAGES, PROMPTS).max() <= 2


def test_the_fingerprint_is_that_of_code_version_and_source(folder: Path) -> None:
    (folder / "factor.txt").write_text("0.5")

    def now(spec: str) -> str:
        sys.modules.pop("mine", None)
        return fingerprint(spec)

    plain = content_fingerprint(folder / "mine.py")
    assert now("mine:width") == fingerprint_of(reward="mine:width", version="", code=[plain], source=None)
    first, scaled = now("mine:width"), now("mine:Scaled=factor.txt")
    assert first == now("mine:width") and first != now("mine:words")
    (folder / "factor.txt").write_text("0.7")
    assert now("mine:Scaled=factor.txt") != scaled
    (folder / "mine.py").write_text(MODULE + "\n# changed\n")
    assert now("mine:width") != first
    (folder / "passing.py").write_text("from mine import width\n")
    passed = now("passing:width")
    (folder / "mine.py").write_text(MODULE)
    assert now("passing:width") != passed, "the module that defines it counts"
    with pytest.raises(TgoError, match="has no 'gone'"):
        require("mine:gone")


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an entry point, really installed into a folder on the path."""
    names = {"wide": "my_rewards:width", "clip": "my_rewards:words"}
    target = install(
        folder / "packages", "my-rewards", {"my_rewards/__init__.py": MODULE}, {"tgo_pipeline.rewards": names}
    )
    monkeypatch.syspath_prepend(str(target))
    return target


def test_an_installed_package_has_rewards_with_names_of_their_own(package: Path) -> None:
    reward = load_reward("wide")
    assert reward.score(IMAGES, PROMPTS).tolist() == [40, 20, 8]
    assert reward.identity["reward"] == "wide"
    assert specs.resolve("wide", None) == specs.Spec("wide", "wide")
    assert fingerprint("wide") != fingerprint("mine:width")
    assert specs.canonical("clip") == "clip/openai-l14", "a name of this package stays what it is"
    with pytest.raises(TgoError, match=r"Choose from .*wide"):
        load_reward("narrow")
    other = package / "other-1.dist-info"
    other.mkdir()
    kinds._entry_points.cache_clear()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[tgo_pipeline.rewards]\nwide = other:width\n")
    with pytest.raises(TgoError, match="two installed packages offer a reward named 'wide'"):
        load_reward("wide")


def documented() -> str:
    """The example of the documentation, as it stands there."""
    text = DOCUMENTATION.read_text()
    found = re.search(r"`contrast\.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_documented_example_runs_through_the_pipeline(folder: Path) -> None:
    """Scores, thresholds and labels with columns whose names no file could have."""
    code = documented()
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (folder / "contrast.py").write_text(code)
    (folder / "data").mkdir()
    write_generations(folder / "data/generations")
    columns = {"contrast": "contrast:contrast", "contrast:contrast": None, "clip/openai-l14": "demo"}
    (folder / "params.yaml").write_text(
        yaml.safe_dump(
            {
                "prompts": {"test": {"set": "prompts.txt"}},
                "score": {"rewards": columns},
                "target": {"reward": "contrast:contrast"},
                "runtime": {"device": "cpu"},
            }
        )
    )
    assert load_params().score.rewards == columns
    for stage in ("score", "threshold", "label", "report"):
        run_stage(stage, Path("params.yaml"))
    scores = read_folder(folder / "data/scores")
    assert scores["error"].null_count() == len(scores)
    assert scores["contrast"].to_list() == scores["contrast:contrast"].to_list()
    assert scores["contrast"].std() > 0  # type: ignore[operator]
    drawn = sorted(path.name for path in (folder / "plots/thresholds").glob("*.svg"))
    assert len(drawn) == 3 and "contrast.svg" in drawn
    assert "contrast:contrast" in (folder / "report.html").read_text()
    assert torch.isfinite(torch.tensor(read_folder(folder / "data/labels")["weight"].to_list())).all()
