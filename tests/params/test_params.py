"""Parameters: what is accepted, what is refused, and what the refusal says."""

import re
from pathlib import Path

import pytest
import yaml

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, load_params

ROOT = Path(__file__).parents[2]


def write(folder: Path, changes: dict) -> Path:
    """A copy of the shipped parameters with dotted keys changed."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for dotted, value in changes.items():
        *sections, key = dotted.split("/")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_the_shipped_parameters_are_valid():
    params = load_params(ROOT / "params.yaml")
    assert isinstance(params, Params)
    assert params.target_rewards == ["hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"threshold/percentle": 0.5},
            r"threshold\.percentle is not a known key.*Did you mean percentile\?.*Allowed",
        ),
        ({"treshold": {}}, r"treshold is not a known key.*Did you mean threshold\?"),
        ({"threshold/percentile": 50}, r"threshold\.percentile is 50.*between 0 and 1.*write 0\.5"),
        ({"threshold/percentile": 1}, r"threshold\.percentile is 1: .*strictly between 0 and 1"),
        ({"threshold/percentile": -0.1}, r"strictly between 0 and 1"),
        ({"threshold/percentile": "half"}, r"threshold\.percentile is 'half': it must be a number"),
        ({"threshold/percentile": 10**400}, r"threshold\.percentile is 10{400}: it must be a finite number"),
        ({"model": 7, "seed": "x" * 100_000}, r"seed is 'x{600,1000} … x+'|model is 7"),
        ({"threshold/percentile": float("nan")}, r"threshold\.percentile is nan: it must be a finite number"),
        ({"threshold/source": "proxy"}, r"threshold\.proxy is empty although source is proxy"),
        ({"generate/steps": 12.5}, r"generate\.steps is 12\.5: it must be a whole number"),
        ({"generate/steps": True}, r"generate\.steps is True: it must be a whole number"),
        ({"generate/steps": 0}, r"generate\.steps is 0: it must be above 0"),
        ({"generate/source": "images"}, r"generate\.images is empty"),
        ({"label/ties": "both"}, r"label\.ties is 'both': it must be one of positive, negative"),
        ({"label/c": -1}, r"label\.c is -1\.0: it must be 0 or more"),
        (
            {"fine_tune/objective": "tg0"},
            r"fine_tune\.objective: unknown objective 'tg0'\. Did you mean tgo\? There are tgo, sft.*cpgd, or name",
        ),
        ({"fine_tune/lora": {"rank": 0}}, r"fine_tune\.lora\.rank is 0: it must be above 0"),
        ({"fine_tune/lora": 4}, r"fine_tune\.lora is 4: it must be a mapping"),
        ({"target/reward": "beauty"}, r"target\.reward is 'beauty': it must be one of hpsv2\.1, .*majority"),
        ({"target/rewards": ["beauty"]}, r"target\.rewards names 'beauty', which the scores lack"),
        ({"threshold/baseline": "prompt_soft"}, r"threshold\.baseline is prompt_soft and beta is not given"),
        ({"threshold/baseline": "group"}, r"threshold\.baseline is group and group is None"),
        ({"threshold/group": "model"}, r"threshold\.baseline is global and group is 'model'"),
        ({"threshold/jackknife": True}, r"threshold\.jackknife is on, but baseline is global"),
        ({"threshold/leave_one_out": True}, r"threshold\.leave_one_out is on, but baseline is global"),
        ({"evaluate/models": {"base": "x"}}, r"evaluate\.models has one named 'base'"),
        (
            {"score/feedback": {"clip": {"source": "a.csv", "kind": "score"}}},
            r"score\.feedback\.clip: the scores have a column of this name",
        ),
        (
            {"score/feedback": {"stars": {"source": "a.csv", "kind": "stars"}}},
            r"score\.feedback\.stars\.kind is 'stars': it must be one of rating, thumb, pair, score",
        ),
        (
            {"score/feedback": {"stars": {"source": "a.csv", "kind": "rating", "low": 5, "high": 1}}},
            r"score\.feedback\.stars\.low is 5 and high is 1",
        ),
        ({"score/rewards": {}}, r"score\.rewards is empty"),
        ({"score/rewards": ["clip"]}, r"score\.rewards is \['clip'\]: it must be a mapping"),
        ({"score/max_error_rate": 2}, r"score\.max_error_rate is 2\.0: it must be from 0 to 1"),
        ({"prompts/test": {}}, r"prompts\.test and test_fraction are both empty"),
        ({"prompts/test": {"all": "demo:plain"}}, r"prompts\.test has a set named 'all'"),
        ({"prompts/test": {" ": "demo:plain"}}, r"prompts\.test has a set named ' ': give it a name"),
        ({"prompts/test": {"a\x1b": "demo:plain"}}, r"prompts\.test has a set named 'a\\x1b'"),
        (
            {"prompts/test": {"\xe9": "demo:plain", "e\u0301": "demo:style"}},
            r"prompts\.test has sets named .*, which look alike",
        ),
        (
            {"target/rewards": ["clip"], "target/reward": "clip"},
            r"target\.reward is 'clip', which combines nothing",
        ),
        ({"revision": "main"}, r"revision is given, but demo has none"),
        ({"runtime/processes": 0}, r"runtime\.processes is 0: it must be above 0"),
        (
            {"fine_tune/noise_levels": "all"},
            r"noise_levels is 'all': it must be a list, or auto or importance\.",
        ),
        ({"fine_tune/noise_levels": [0.4, 0.2]}, r"noise_levels is \[0\.4, 0\.2\]: it must be the lowest"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(TgoError, match=message) as caught:
        load_params(write(tmp_path, changes))
    assert "params.yaml" in str(caught.value)


def test_a_learning_rate_in_bare_scientific_notation_is_a_number(tmp_path: Path):
    path = write(tmp_path, {"fine_tune/learning_rate": "1e-5"})
    assert load_params(path).fine_tune.learning_rate == 1e-5


def test_a_missing_or_broken_file_is_named(tmp_path: Path):
    with pytest.raises(TgoError, match=r"absent\.yaml does not exist"):
        load_params(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(TgoError, match=r"broken\.yaml: it is not YAML"):
        load_params(broken)
    broken.write_text("- a\n")
    with pytest.raises(TgoError, match="holds list, not a mapping"):
        load_params(broken)


def test_only_runtime_is_untracked():
    """Every section that changes numbers is a parameter of some stage in dvc.yaml, and `runtime` of none."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    listed = [name for stage in stages.values() for name in stage.get("params", []) if isinstance(name, str)]
    tracked = {re.split(r"\.", name)[0] for name in listed}
    assert tracked == set(Params.__dataclass_fields__) - {"runtime"}


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    path.write_text(text.replace("evaluate:", "evaluate:\n  models: {dpo: one, dpo: two}"))
    with pytest.raises(TgoError, match=r"params\.yaml: line \d+: dpo is there twice; keep one of them"):
        load_params(path)
    path.write_text(text + "\nseed: 1\n")
    with pytest.raises(TgoError, match="seed is there twice"):
        load_params(path)


def test_a_parameter_file_is_utf_8(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_bytes("report: {title: \u00e9}".encode("latin-1"))
    with pytest.raises(TgoError, match="not text in UTF-8"):
        load_params(path)
