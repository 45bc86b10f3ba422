"""The pipeline through DVC, as the README shows it, on toy parameters."""

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import networkx
import pytest
import yaml
from dvc.repo import Repo

from stages import PIPELINE, STAGES, inputs
from tests.project import ROOT, run, set_params, stage
from tests.stage_numbers import GOLDEN, alarm, finished_project, measure
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import load_params
from tgo_pipeline.storage.tables import read_folder, read_table

TOY_PROMPTS = {"prompts": {"train": "demo:train", "test": {"plain": "demo:plain"}, "limit": 12}}
NO_OP_LIMIT_S = 60
"""Far above the few seconds of an idle machine: a test that waits for a stage to run again takes minutes."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro`."""
    return finished_project(tmp_path_factory.mktemp("dvc") / "project")


def ran(output: str) -> list[str]:
    """The stages that DVC says it runs."""
    return [line.split("'")[1] for line in output.split("\n") if line.startswith("Running stage")]


def test_everything_is_there_and_git_sees_only_the_lock_file(project: Path):
    assert (project / "report.html").stat().st_size > 100_000
    labels, scores = read_folder(project / "data/labels"), read_folder(project / "data/scores")
    assert set(labels["sample_id"]) == set(scores["sample_id"])
    assert len(labels) == 48
    left = run(project, "git", "status", "--porcelain").stdout.split("\n")
    assert [line for line in left if line] == ["?? dvc.lock"]


def test_a_second_repro_runs_nothing(project: Path):
    start = time.monotonic()
    output = run(project, "dvc", "repro").stdout
    assert ran(output) == ["inputs"]
    assert output.count("didn't change, skipping") == len(STAGES)
    assert time.monotonic() - start < NO_OP_LIMIT_S


def test_numbers_change_only_with_a_version(project: Path):
    """If this fails because a change is meant to change results: see tests/stage_numbers.py."""
    assert alarm(json.loads(GOLDEN.read_text()), measure(project)) is None


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("score", "near"), 0.5, "the numbers of score have changed, and the version of its code has not"),
        (("threshold", "exact"), "none", "the numbers of threshold have changed"),
        (("label", "entry", "versions"), 0, "label has .* is of .*: write the file again"),
    ],
)
def test_the_alarm_names_the_first_stage_that_differs(where: tuple[str, ...], value: object, message: str):
    recorded = json.loads(GOLDEN.read_text())
    now = copy.deepcopy(recorded)
    place = now
    for key in where:
        place = place[key]
    first = next(iter(place))
    place[first] = place[first] + value if isinstance(value, float) else value
    now["evaluate"]["near"] = {}  # what follows from the first difference is not named
    with pytest.raises(AssertionError, match=message):
        assert alarm(recorded, now) is None
    assert alarm(recorded, recorded) is None


def test_tables_are_all_that_stages_read_besides_parameters(project: Path):
    """No stage depends on the library's source files: an installed package has none in the project."""
    with Repo(str(project)) as repo:
        stages = list(repo.index.stages)
        outs = {out.fs_path for each in stages for out in each.outs}
        read = {dep.fs_path for each in stages for dep in each.deps}
    assert read - outs == {str(project / "params.yaml")}


def changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The stages that differ from dvc.lock, apart from the first, which always runs."""
    monkeypatch.chdir(project)
    inputs.run(load_params())
    with Repo(str(project)) as repo:
        return set(repo.status()) - {"inputs"}


def followed_by(project: Path, stages: set[str]) -> set[str]:
    """These stages and all that DVC runs after them, since they read what these write."""
    with Repo(str(project)) as repo:
        reads = networkx.relabel_nodes(repo.index.graph, lambda each: each.name)
    return stages | {name for each in stages for name in networkx.ancestors(reads, each)}


def add_to(name: str, text: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda project, _: (project / name).write_text((project / name).read_text() + text) and None


@pytest.mark.parametrize(
    ("change", "direct", "first"),
    [
        (lambda *_: None, set(), None),
        (add_to("prompts.txt", "\na green ring on a white background"), {"prompts"}, "prompts"),
        (add_to("own.py", "\n# changed\n"), {"score", "evaluate"}, "score"),
        (
            lambda _, patch: patch.setattr("tgo_pipeline.thresholds.label_stage.VERSION", 99),
            {"label"},
            "label",
        ),
    ],
    ids=["nothing", "a file of prompts", "a reward of one's own", "the version of label"],
)
def test_a_change_runs_what_depends_on_it_and_nothing_before(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    direct: set[str],
    first: str | None,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    kept = {name: (project / name).read_text() for name in ("prompts.txt", "own.py")}
    try:
        change(project, monkeypatch)
        assert changed(project, monkeypatch) == direct
    finally:
        for name, text in kept.items():
            (project / name).write_text(text)
        monkeypatch.undo()
    after = STAGES[STAGES.index(first) :] if first else ()
    assert followed_by(project, direct) == set(after)
    assert followed_by(project, {"inputs"}) == set(PIPELINE)


def test_another_version_of_label_runs_label_alone_until_its_labels_differ(project: Path, tmp_path: Path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    source = folder / "tgo_pipeline/thresholds/label_stage.py"
    source.write_text(source.read_text().replace("\nVERSION = ", "\nVERSION = 1000 + "))
    done = run(folder, "dvc", "repro", "label", variables={"PYTHONPATH": str(folder)})
    assert ran(done.stdout) == ["inputs", "label"]
    status = json.loads(run(folder, "dvc", "status", "--json").stdout)
    assert set(status) == {"inputs", "fine_tune", "report"}


def test_a_project_of_an_earlier_pipeline_runs_once_more_says_so_and_keeps_its_images(
    project: Path, tmp_path: Path
):
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    del lock["stages"]["inputs"]
    for each in lock["stages"].values():
        del each["params"]["inputs.yaml"]
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    (folder / "inputs.yaml").unlink()
    shutil.rmtree(folder / ".dvc/cache/runs")  # else DVC takes what it has run with the same parameters
    done = run(folder, "dvc", "repro", "generate")
    assert ran(done.stdout) == ["inputs", "prompts", "generate"]
    assert "dvc.lock is of an earlier version of dvc.yaml: every stage runs once more" in done.stderr
    assert "data/generations: 12 done, 0 stale, 0 to do" in done.stderr
    assert (
        "inputs" in yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    )  # with which it is not said again


def test_metrics_and_plots_are_shown(project: Path):
    metrics = json.loads(run(project, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert {"metrics/threshold.json", "metrics/label.json", "metrics/evaluate.json"} <= set(metrics)
    shown = run(project, "dvc", "plots", "show", "--out", "shown").stdout
    page = Path(shown.strip().removeprefix("file://")).read_text()
    for title in ("Confidence weights", "Win rate against the base model", "Implicit accuracy", "Loss"):
        assert title in page


def test_status_says_what_is_done_and_what_a_change_makes_stale(project: Path):
    done = run(project, "tgo", "status").stdout
    assert "shards of data/scores" in done
    assert [line.split("│")[1].strip() for line in done.split("\n") if line.startswith("│")] == list(STAGES)
    original = (project / "params.yaml").read_text()
    try:
        set_params(project, {"label": {"c": 1.0}})
        changed = run(project, "tgo", "status").stdout
    finally:
        (project / "params.yaml").write_text(original)
    row = next(line for line in changed.split("\n") if "label" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["0", "12", "0"]


@pytest.mark.parametrize("command", [("dvc", "repro", "-f", "-s", "threshold"), ("tgo", "run", "threshold")])
def test_every_way_of_running_a_stage_gives_the_same_table(project: Path, command: tuple[str, ...]):
    before = read_table(project / "data/thresholds.parquet")
    stage(project, "threshold")
    assert read_table(project / "data/thresholds.parquet") == before
    run(project, *command)
    assert read_table(project / "data/thresholds.parquet") == before


def test_no_way_of_running_a_stage_builds_on_what_is_stale(project: Path, tmp_path: Path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    original = (folder / "params.yaml").read_text()
    set_params(folder, {"generate": {"steps": 3}})
    ways = (("tgo", "run", "score"), ("python", "-m", "stages.score"), ("dvc", "repro", "-f", "-s", "score"))
    for way in ways:
        done = run(folder, *way, ok=False)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        (said,) = [line for line in done.stderr.split("\n") if line.startswith("tgo score:")]
        assert "the results of generate are not those of the parameters" in said and "12 stale" in said
        assert "run `tgo run generate` first" in said
    for way in (*ways[2:], ("tgo", "run", "score")):
        assert "going on all the same" in run(folder, *way, variables={"TGO_ALLOW_STALE": "1"}).stderr
    assert "going on all the same" in run(folder, "tgo", "run", "score", "--allow-stale").stderr
    shown = " ".join(run(folder, "tgo", "status", variables={"COLUMNS": "400"}).stdout.split())
    assert shown.count("built on results that are not up to date: generate") == 5  # evaluate is stale itself
    (folder / "params.yaml").write_text(original)
    run(folder, "tgo", "run", "report")
    shard = min((folder / "data/labels").glob("*.parquet"))
    kept = shard.read_bytes()
    shard.unlink()
    done = run(folder, "tgo", "run", "report", ok=False)
    assert done.returncode == 2 and "the results of label are not those" in done.stderr
    shard.write_bytes(kept)
    assert "0 are damaged" in run(folder, "tgo", "status", "--verify").stdout
    shard.write_bytes(kept[:60] + bytes([kept[60] ^ 1]) + kept[61:])
    done = run(folder, "tgo", "status", "--verify", ok=False)
    assert done.returncode == 2 and f"data/labels/{shard.name} is damaged" in done.stderr


def test_the_terminal_tables(project: Path):
    thresholds = run(project, "tgo", "thresholds").stdout
    evaluation = run(project, "tgo", "evaluation").stdout
    for name in ("hpsv2.1", "mean_z"):
        assert name in thresholds
    for name in ("oracle", "mean_z"):
        assert name in evaluation


def test_an_experiment_changes_one_parameter(project: Path):
    run(project, "dvc", "exp", "run", "-S", "threshold.percentile=0.7", "label")
    rows = read_table(project / "data/thresholds.parquet").to_pylist()
    assert {row["percentile"] for row in rows} == {0.7}
    assert yaml.safe_load((project / "params.yaml").read_text())["threshold"]["percentile"] == 0.7
    shown = json.loads(run(project, "dvc", "exp", "show", "--json").stdout)
    assert len(shown) >= 2


def test_every_stage_of_the_pipeline_has_a_file():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == PIPELINE
    assert all((ROOT / "stages" / f"{name}.py").is_file() for name in PIPELINE)
    for name in STAGES:
        assert stages[name]["params"][-1] == {"inputs.yaml": [name]}


def test_dvc_says_at_once_which_sections_it_would_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By itself it does when it comes to the stage, which may be days later."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in ("report", "revision"):
        del content[name]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(TgoError, match=r"lacks revision, report, .*write `revision: null`, `report: {}` for"):
        inputs.run(load_params())
    assert not (tmp_path / "inputs.yaml").exists()


PACKAGES = ("tgo_pipeline", "stages", "fine_tune")
"""What pyproject.toml puts into the wheel."""


def test_an_installed_package_runs_in_an_empty_folder(tmp_path: Path):
    """With copies of the packages alone, as a wheel has them."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / "site" / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "empty"
    folder.mkdir()
    installed = {"PYTHONPATH": str(tmp_path / "site")}
    where = "import stages.inputs, tgo_pipeline; print(stages.__file__, tgo_pipeline.__file__)"
    found = run(folder, "python", "-c", where, variables=installed).stdout.split()
    assert all(file.startswith(str(tmp_path / "site")) for file in found)
    run(folder, "git", "init", "-q")
    run(folder, "python", "-m", "stages.cli", "init", "--recipe", "sd15", variables=installed)
    written = run(folder, "git", "ls-files", "-o", "--directory", "--exclude-standard").stdout.split()
    assert sorted(written) == [".dvc/", ".dvcignore", ".gitignore", "README.md", "dvc.yaml", "params.yaml"]
    set_params(folder, {"model": "demo", "revision": None, **TOY_PROMPTS})
    refused = run(folder, "dvc", "repro", "prompts", variables=installed, ok=False)
    assert "this git repository has no commit" in refused.stderr
    for command in (["add", "-A"], ["commit", "-q", "-m", "start"]):
        run(folder, "git", *command)
    done = run(folder, "dvc", "repro", "prompts", variables=installed)
    assert ran(done.stdout) == ["inputs", "prompts"]
    assert (folder / "data/prompts.parquet").is_file()
    assert run(folder, "git", "status", "--porcelain").stdout == "?? dvc.lock\n"
    templates = {path.name for path in (folder / ".dvc/plots").iterdir()}
    assert templates == {path.name for path in (ROOT / ".dvc/plots").iterdir()}
