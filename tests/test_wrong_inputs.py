"""What a new user gets wrong, through the command line: one clear line, exit code 2, nothing half-written."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.project import copy_project, environment, run, set_params, stage
from tgo_pipeline.storage.tables import read_folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with its prompts built."""
    folder = copy_project(
        tmp_path / "project", prompts={"train": "demo:train", "test": {"four": "prompts.txt"}, "limit": 2}
    )
    stage(folder, "prompts")
    return folder


def refused(folder: Path, name: str) -> str:
    """Run a stage that must refuse; its one line on standard error."""
    done = stage(folder, name, ok=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.split("\n") if line.startswith(f"tgo {name}:")]
    return line


def test_a_missing_model_folder(project: Path):
    set_params(project, {"model": "/models/absent"})
    line = refused(project, "generate")
    assert "/models/absent" in line
    assert not list((project / "data").rglob("train-*"))


def test_a_misspelt_parameter(project: Path):
    set_params(project, {"generate": {"guidance_scal": 2.0}})
    assert "generate.guidance_scal is not a known key. Did you mean guidance_scale?" in refused(
        project, "generate"
    )


def test_an_empty_prompt_file(project: Path):
    (project / "empty.txt").write_text("\n  \n")
    set_params(project, {"prompts": {"train": "empty.txt"}})
    before = (project / "data/prompts.parquet").read_bytes()
    assert "empty.txt" in refused(project, "prompts")
    assert (project / "data/prompts.parquet").read_bytes() == before


def test_a_parquet_file_of_the_wrong_schema(project: Path):
    pq.write_table(pa.table({"text": ["a red circle"]}), project / "wrong.parquet")
    set_params(project, {"prompts": {"train": "wrong.parquet"}})
    line = refused(project, "prompts")
    assert "wrong.parquet" in line and "text" in line and "prompt" in line
    pq.write_table(pa.table({"sample_id": ["s"]}), project / "data/prompts.parquet")
    assert "if it was changed on purpose, remove .prompts.parquet.xxh3" in refused(project, "generate")
    (project / "data/.prompts.parquet.xxh3").unlink()
    assert "prompts.parquet has no column 'prompt_id'" in refused(project, "generate")


def test_a_truncated_image_among_good_ones(project: Path):
    """Existing images instead of sampled ones: the damaged one keeps its row and its reason."""
    folder = project / "photos"
    folder.mkdir()
    lines = ["file_name,prompt"]
    for number in range(6):
        stream = io.BytesIO()
        Image.effect_noise((32, 32), 40 + number).convert("RGB").save(stream, "PNG")
        data = stream.getvalue()
        (folder / f"{number}.png").write_bytes(data[: len(data) // 2] if number == 3 else data)
        lines.append(f"{number}.png,a blue ring on a black background number {number}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    set_params(
        project, {"generate": {"source": "images", "images": "photos"}, "score": {"max_error_rate": 0.5}}
    )
    stage(project, "generate")
    stage(project, "score")
    scores = read_folder(project / "data/scores")
    assert len(scores) == 6
    failed = scores.filter(scores["error"].is_not_null())
    assert len(failed) == 1 and failed["clip"][0] is None
    assert scores["clip"].null_count() == 1
    set_params(project, {"score": {"max_error_rate": 0.1}})
    line = refused(project, "score")
    assert "1 of 6" in line or "16.7" in line
    assert len(read_folder(project / "data/scores")) == 6, "what was scored is kept"
    assert "failed" in run(project, "tgo", "status").stdout


def test_two_runs_of_a_stage_at_once(project: Path):
    set_params(project, {"generate": {"steps": 200, "shard_size": 4}})
    command = [sys.executable, "-m", "stages.generate"]
    first = subprocess.Popen(command, cwd=project, env=environment(), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (project / "data/.generations.lock").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        line = refused(project, "generate")
        assert f"is being written by another run (process {first.pid})" in line
    finally:
        first.kill()
        first.wait()


def test_a_full_disk(project: Path):
    """A file-size limit of the kernel stands for the full disk: a write fails half way, as on one."""
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "from stages import run_stage; from pathlib import Path; run_stage('generate', Path('params.yaml'))"
    )
    done = run(project, sys.executable, "-c", script, ok=False)
    assert done.returncode == 2, done.stderr
    assert "disk is full while writing" in done.stderr
    assert not [path for path in (project / "data/generations").rglob("*") if path.is_file()]


def test_a_stage_before_its_inputs(project: Path):
    assert "run the stage" in refused(project, "score") or "generations" in refused(project, "score")
    done = run(project, "tgo", "run", "scores", ok=False)
    assert done.returncode == 2
    assert "'scores' is not a stage: it must be one of prompts, generate" in done.stderr
