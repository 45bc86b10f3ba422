"""What was scored is not scored again: after a kill, with a further reward, after a change; nothing is overwritten."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from tests.rewriting import shown
from tests.scoring.command.conftest import AESTHETIC, CLIP, Tgo, random_image, scores, write_images
from tests.scoring.command.process import start
from tests.scoring.command.test_inputs import write_csv
from tgo_pipeline.demo import weights_path

COUNT = 400
PARTS = 7
"""Parts of 64 rows that COUNT images make on a CPU."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Many images, of which one cannot be read, and their prompts."""
    folder = tmp_path / "photos"
    paths = write_images(folder, COUNT)
    paths[100].write_bytes(paths[100].read_bytes()[:300])
    write_csv(tmp_path / "p.csv", [[path.name, f"fox {row % 150}"] for row, path in enumerate(paths)])
    return folder


CALL = ("photos", "--prompts", "p.csv")


def parts(folder: Path) -> dict[str, int]:
    """The finished parts of an unfinished call with their times of change."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("scores.parquet.parts/[!.]*.parquet")}


def start_and_wait(folder: Path, *arguments: str, count: int = 1) -> subprocess.Popen[str]:
    """Start a call and come back when it has finished `count` parts, and not all."""
    process = start(folder, *arguments)
    deadline_s = time.monotonic() + 120
    while len(parts(folder)) < count:
        assert process.poll() is None and time.monotonic() < deadline_s, (folder / ".log").read_text()
        time.sleep(0.001)
    return process


def kill_at(folder: Path, count: int, *arguments: str) -> dict[str, int]:
    """Kill a call when it has finished `count` parts; returns the parts that it left."""
    process = start_and_wait(folder, *arguments, count=count)
    process.kill()
    assert process.wait() == -9
    left = parts(folder)
    assert count <= len(left) < PARTS
    return left


def test_a_killed_call_goes_on_to_the_same_bits(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    rewards = ("--rewards", f"{CLIP},{AESTHETIC}")
    tgo(*CALL, *rewards, "--out", "unbroken.parquet")
    first = kill_at(tmp_path, 1, *CALL, *rewards)
    second = kill_at(tmp_path, len(first) + 1, *CALL, *rewards)
    assert not (tmp_path / "scores.parquet").exists()
    assert second.items() >= first.items()
    done = tgo(*CALL, *rewards)
    assert done.code == 3
    assert f"parts: {len(second)} done, {PARTS - len(second)} to do" in done.log
    assert (tmp_path / "scores.parquet").read_bytes() == (tmp_path / "unbroken.parquet").read_bytes()
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob(".*.lock"))
    done = tgo(*CALL, *rewards)
    assert done.code == 3
    assert "nothing to do: scores.parquet has the scores of all 400 images" in done.out
    assert "loading" not in done.log


def test_a_further_reward_is_computed_alone(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    tgo(*CALL)
    before = scores()
    done = tgo(*CALL, rewards=f"{AESTHETIC},{CLIP}")
    assert "loading aesthetic" in done.log and "loading clip" not in done.log
    assert "nothing to do" not in done.out and "400 images, " in done.out
    after = scores()
    assert after.columns == ["image", "prompt", "aesthetic", "clip", "error"]
    assert after.drop("aesthetic").equals(before)
    tgo(*CALL, "--out", "both.parquet", rewards=f"{AESTHETIC},{CLIP}")
    both = scores("both.parquet")
    assert after.drop("aesthetic").equals(both.drop("aesthetic"))
    # Together they may share one image tower, whose weights lie elsewhere in memory than those of the other.
    np.testing.assert_allclose(after["aesthetic"], both["aesthetic"], rtol=0, atol=1e-5)


def test_a_further_reward_may_be_interrupted_too(
    tgo: Tgo, tmp_path: Path, photos: Path, interrupting: str
) -> None:
    tgo(*CALL)
    both = f"{CLIP},{interrupting}"
    assert tgo(*CALL, rewards=both).code == 130
    assert parts(tmp_path)
    assert scores().columns == ["image", "prompt", "clip", "error"], "the finished table stays until the end"
    done = tgo(*CALL, rewards=both)
    assert "loading reward" in done.log and "loading clip" not in done.log
    assert "parts: 0 done" not in done.log
    tgo(*CALL, "--out", "both.parquet", rewards=both)
    assert scores().equals(scores("both.parquet"))


def test_a_changed_image_or_prompt_costs_itself(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    tgo(*CALL)
    before = scores()
    random_image(1000).save(photos / "03.png")
    done = tgo(*CALL)
    assert f"parts: {PARTS - 1} done, 1 to do (1 image)" in done.log
    assert "1 of them now" in done.out
    assert changed(before, scores()) == [before["image"].to_list().index("photos/03.png")]
    rows = [[f"{row:02d}.png", f"fox {row % 150}"] for row in range(COUNT)]
    rows[399][1] = "another fox"
    write_csv(tmp_path / "p.csv", rows)
    before = scores()
    done = tgo(*CALL)
    assert f"parts: {PARTS - 1} done, 1 to do (1 image)" in done.log
    assert changed(before, scores()) == [before["image"].to_list().index(f"photos/{rows[399][0]}")]


def test_a_changed_image_that_a_table_names_costs_itself(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    names = sorted(path.name for path in photos.iterdir())[:130]
    paths = pl.DataFrame({"image": [f"photos/{name}" for name in names], "prompt": ["a fox"] * len(names)})
    paths.write_parquet(tmp_path / "table.parquet")
    tgo("table.parquet")
    before = scores()
    assert "nothing to do" in tgo("table.parquet").out
    random_image(1000).save(photos / names[70])
    assert "parts: 2 done, 1 to do (1 image)" in tgo("table.parquet").log
    assert changed(before, scores()) == [70]


def changed(before: pl.DataFrame, after: pl.DataFrame) -> list[int]:
    """Rows whose scores differ in any bit."""
    return [
        row for row, (old, new) in enumerate(zip(before["clip"], after["clip"], strict=True)) if old != new
    ]


def test_added_and_removed_images(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    tgo("photos", "--prompt", "a fox")
    random_image(7).save(photos / "z.png")
    done = tgo("photos", "--prompt", "a fox")
    assert f"parts: {PARTS - 1} done, 1 to do (1 image)" in done.log
    assert scores()["image"][-1] == "photos/z.png"
    (photos / "z.png").unlink()
    done = tgo("photos", "--prompt", "a fox")
    assert "(0 images)" in done.log and "loading" not in done.log
    assert len(scores()) == COUNT


def test_paths_may_be_added_and_not_taken_away(tgo: Tgo, tmp_path: Path) -> None:
    names = [f"photos/{path.name}" for path in write_images(tmp_path / "photos", 3)]
    write_images(tmp_path / "more", 2)
    tgo(*names[:2], "--prompt", "a fox")
    before = scores()
    assert tgo(*names, "more", "--prompt", "a fox").code == 0
    assert len(scores()) == 5 and scores()[:2].equals(before)
    done = tgo(names[0], "more", "--prompt", "a fox")
    assert done.code == 2
    assert f"PATH was {' '.join(names)} more and is now {names[0]} more" in done.line


def test_a_table_that_something_else_changed_is_not_built_upon(tgo: Tgo, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)
    call = ("photos", "--prompt", "a fox")
    tgo(*call)
    table = pq.read_table("scores.parquet")
    pq.write_table(table.slice(0, 2), "scores.parquet")
    assert "scores.parquet exists and is not as `tgo score` writes it" in tgo(*call).line
    pq.write_table(table.sort_by([("image", "descending")]), "scores.parquet")
    done = tgo(*call, rewards=f"{CLIP},{AESTHETIC}")
    assert "the rows of scores.parquet were changed by something else" in done.line
    assert tgo(*call, "--overwrite").code == 0
    assert pq.read_table("scores.parquet").equals(table)


def test_other_weights_are_scored_again(tgo: Tgo, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    shutil.copytree(weights_path("rewards/clip"), tmp_path / "clip")
    tgo("photos", "--prompt", "a fox")
    done = tgo("photos", "--prompt", "a fox", rewards="clip=clip")
    assert "nothing to do" in done.out, "the same weights elsewhere"
    before = scores()["clip"]
    weights = load_file(tmp_path / "clip/model.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in weights.items()}, tmp_path / "clip/model.safetensors")
    done = tgo("photos", "--prompt", "a fox", rewards="clip=clip")
    assert "parts: 0 done, 1 to do" in done.log
    assert (scores()["clip"] != before).all()


def test_another_input_is_refused_unless_told_to_start_over(tgo: Tgo, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    write_images(tmp_path / "others", 3)
    tgo("photos", "--prompt", "a fox")
    before = (tmp_path / "scores.parquet").read_bytes()
    done = tgo("others", "--prompt", "a fox")
    assert done.code == 2
    assert "scores.parquet holds scores of another input: PATH was photos and is now others" in done.line
    done = tgo("photos", "--prompt", "a dog")
    assert "--prompt was 'a fox' and is now 'a dog'" in done.line
    done = tgo("photos", "--prompt", "a fox", rewards=AESTHETIC)
    assert "scores.parquet also holds the scores of clip" in done.line
    assert (tmp_path / "scores.parquet").read_bytes() == before
    assert shown(tmp_path) == ["others", "photos", "scores.parquet"]
    assert tgo("others", "--prompt", "a dog", "--overwrite", rewards=AESTHETIC).code == 0
    assert scores().columns == ["image", "prompt", "aesthetic", "error"]
    assert len(scores()) == 3


def test_an_interrupted_start_over_goes_on_without_starting_over_again(
    tgo: Tgo, tmp_path: Path, photos: Path, interrupting: str
) -> None:
    write_images(tmp_path / "others", 3)
    tgo("others", "--prompt", "a fox")
    done = tgo(*CALL, "--overwrite", rewards=interrupting)
    assert done.code == 130
    assert "interrupted; what was finished is kept, run it again to continue" in done.err
    assert len(scores()) == 3, "the old table stays until the new one is there"
    assert "scores.parquet.parts holds scores of another input" in tgo("others", "--prompt", "a fox").line
    done = tgo(*CALL, rewards=interrupting)
    assert "parts: 0 done" not in done.log
    assert len(scores()) == COUNT


def test_a_call_that_is_running_is_left_alone(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    process = start_and_wait(tmp_path, *CALL, "--rewards", CLIP)
    done = tgo(*CALL)
    process.kill()
    process.wait()
    assert done.code == 2
    assert f"is being written by another run (process {process.pid})" in done.line
