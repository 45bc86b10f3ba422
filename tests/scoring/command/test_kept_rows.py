"""What did not change keeps its scores to the bit, on every processor: it is not scored again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rewriting import forget_digest
from tests.scoring.command.conftest import AESTHETIC, CLIP, Tgo, random_image, scores, write_images
from tests.scoring.command.test_inputs import write_csv
from tgo_pipeline.scoring.command.results import KEYS, LABELS
from tgo_pipeline.storage.tables import read_footer, read_metadata
from tgo_pipeline.storage.tables import write_table as write_table_of

COUNT = 70
"""A part of 64 rows and one of 6."""
COUNTING, COUNTED = "counting:counted", "counted"
BOTH = f"{CLIP},{COUNTING}"
CALL = ("photos", "--prompts", "p.csv")
Since = Callable[[], list[str]]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Images with prompts of several lengths: a network sees other shapes when one of them changes."""
    paths = write_images(tmp_path / "photos", COUNT)
    write_prompts(tmp_path, paths)
    return paths


def write_prompts(folder: Path, paths: list[Path], **changed: str) -> None:
    """One prompt for each image, `changed` ones by the image's stem with an underscore before it."""
    prompts = {path.name: changed.get(f"_{path.stem}", prompt(row)) for row, path in enumerate(paths)}
    write_csv(folder / "p.csv", [list(pair) for pair in prompts.items()])


def prompt(row: int) -> str:
    return f"fox {row}" + " of red" * (row % 5)


def write_table(path: Path, paths: list[Path], **changed: str) -> None:
    """The images' bytes and prompts as one Parquet file, written later than any before."""
    rows = [{"image": path.read_bytes(), "prompt": prompt(row)} for row, path in enumerate(paths)]
    for row, text in changed.items():
        rows[int(row[1:])]["prompt"] = text
    pq.write_table(pa.Table.from_pylist(rows), path)


def differing(
    before: pl.DataFrame, after: pl.DataFrame, names: tuple[str, ...] = ("clip", COUNTED)
) -> set[str]:
    """The prompts of rows whose scores are not those that the prompt had before, to the bit."""
    known = dict(zip(before["prompt"], before.select(names).iter_rows(), strict=True))
    return {
        text
        for text, row in zip(after["prompt"], after.select(names).iter_rows(), strict=True)
        if known.get(text) != row
    }


def test_one_changed_prompt_sends_one_row(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    tgo(*CALL, rewards=BOTH)
    assert len(counting()) == COUNT
    before = scores()
    write_prompts(tmp_path, photos, _03="a much longer prompt than any of the others in its part")
    done = tgo(*CALL, rewards=BOTH)
    assert "parts: 1 done, 1 to do (1 image)" in done.log
    assert "1 image scored" in done.log and "70 images, 1 of them now" in done.out
    changed = "a much longer prompt than any of the others in its part"
    assert counting() == [changed]
    assert differing(before, scores()) == {changed}
    assert scores()["image"].equals(before["image"])


def test_one_changed_image_sends_one_row(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    tgo(*CALL, rewards=BOTH)
    counting()
    before = scores()
    random_image(1000, (90, 20)).save(photos[65])
    done = tgo(*CALL, rewards=BOTH)
    assert "parts: 1 done, 1 to do (1 image)" in done.log
    assert counting() == [prompt(65)]
    assert differing(before, scores()) == {prompt(65)}


def test_an_image_before_all_others_sends_itself_and_taking_it_away_sends_none(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    """Every part has other rows then."""
    tgo(*CALL, rewards=BOTH)
    counting()
    before = scores()
    random_image(7).save(tmp_path / "photos/+.png")
    write_csv(tmp_path / "p.csv", [["+.png", "first"], *([p.name, prompt(n)] for n, p in enumerate(photos))])
    done = tgo(*CALL, rewards=BOTH)
    assert "parts: 1 done, 1 to do (1 image)" in done.log
    assert counting() == ["first"]
    assert scores()["image"].to_list() == ["photos/+.png", *before["image"]]
    assert scores()[1:].equals(before)
    (tmp_path / "photos/+.png").unlink()
    done = tgo(*CALL, rewards=BOTH)
    assert "parts: 2 done, 0 to do (0 images)" in done.log and "loading" not in done.log
    assert "70 images, all scored before" in done.out
    assert counting() == [] and scores().equals(before)


def test_rows_of_a_table_are_known_by_the_images_in_it(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    """The table is another file, and its rows move by one; one prompt is new, and one image."""
    write_table(tmp_path / "t.parquet", photos)
    tgo("t.parquet", rewards=BOTH)
    assert len(counting()) == COUNT
    before = scores()
    random_image(1000).save(photos[20])
    write_table(tmp_path / "t.parquet", photos[1:], _40="another fox")
    rows = pq.read_table(tmp_path / "t.parquet")
    prompts = [prompt(row) for row in range(1, COUNT)]
    prompts[40] = "another fox"
    pq.write_table(rows.set_column(1, "prompt", pa.array(prompts)), tmp_path / "t.parquet")
    done = tgo("t.parquet", rewards=BOTH)
    assert "69 images, 2 of them now" in done.out
    assert counting() == [prompt(20), "another fox"]
    assert differing(before, scores()) == {prompt(20), "another fox"}
    assert scores()["image"].to_list() == [f"t.parquet:{row}" for row in range(69)]


def test_a_table_of_paths_that_is_written_again_sends_none(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    table = pl.DataFrame(
        {"image": [f"photos/{path.name}" for path in photos], "prompt": map(prompt, range(COUNT))}
    )
    table.write_parquet(tmp_path / "t.parquet")
    tgo("t.parquet", rewards=BOTH)
    counting()
    before = scores()
    table[::-1].write_parquet(tmp_path / "t.parquet")
    os.utime(tmp_path / "t.parquet", (1, 1))
    done = tgo("t.parquet", rewards=BOTH)
    assert "parts: 2 done, 0 to do (0 images)" in done.log
    assert counting() == []
    assert scores().drop("image").equals(before[::-1].drop("image"))


def test_a_new_reward_and_a_new_prompt_at_once(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    tgo(*CALL, rewards=BOTH)
    counting()
    before = scores()
    write_prompts(tmp_path, photos, _66="another fox")
    tgo(*CALL, rewards=f"{BOTH},{AESTHETIC}")
    assert differing(before, scores()) == {"another fox"}, (
        "a row that is scored for one reward keeps the others"
    )
    assert scores()["aesthetic"].null_count() == 0


def test_rewards_that_come_in_turn_each_send_one_row(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("clip", "aesthetic", COUNTED)
    rewards = f"{CLIP},{AESTHETIC},{COUNTING}"
    monkeypatch.setattr("tgo_pipeline.scoring.memory._available_bytes", lambda: 1.0)
    tgo(*CALL, rewards=rewards)
    counting()
    before = scores()
    write_prompts(tmp_path, photos, _03="another fox")
    done = tgo(*CALL, rewards=rewards)
    assert done.log.count("image scored") + done.log.count("images scored") == 3, "one part, once a reward"
    assert counting() == ["another fox"]
    assert differing(before, scores(), names) == {"another fox"}


def test_what_an_interrupted_call_finished_is_kept_when_a_prompt_changes(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since, interrupting: str
) -> None:
    rewards = f"{COUNTING},{interrupting}"
    assert tgo(*CALL, rewards=rewards).code == 130
    got = counting()
    assert got[:64] == [prompt(row) for row in range(64)]
    write_prompts(tmp_path, photos, _03="another fox")
    tgo(*CALL, rewards=rewards)
    assert counting()[0] == "another fox"
    assert scores()[COUNTED].to_list()[:4] == [0, 1, 2, len(got)]


def test_a_call_after_a_change_that_is_interrupted_goes_on_to_the_same_bits(
    tgo: Tgo, tmp_path: Path, interrupting: str
) -> None:
    """Also where two rows are the same: a row that the broken call scored is not taken for one of the unbroken."""
    paths = write_images(tmp_path / "photos", 6) * 40
    write_table(tmp_path / "t.parquet", paths)
    tgo("t.parquet")
    random_image(1000, (90, 20)).save(paths[3])
    table = pa.table(
        {"image": [path.read_bytes() for path in paths], "prompt": ["a fox", "two red foxes"] * 120}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    shutil.copy(tmp_path / "scores.parquet", tmp_path / "unbroken.parquet")
    both = f"{CLIP},{interrupting}"
    assert tgo("t.parquet", rewards=both).code == 130
    assert list(tmp_path.glob("scores.parquet.parts/[!.]*.parquet"))
    assert tgo("t.parquet", rewards=both).code == 0
    assert tgo("t.parquet", "--out", "unbroken.parquet", rewards=both).code == 0
    assert (tmp_path / "scores.parquet").read_bytes() == (tmp_path / "unbroken.parquet").read_bytes()


def test_an_image_that_cannot_be_read_keeps_its_reason(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    photos[5].write_bytes(b"no image")
    assert tgo(*CALL, rewards=BOTH).code == 3
    counting()
    before = scores()
    write_prompts(tmp_path, photos, _03="another fox")
    assert tgo(*CALL, rewards=BOTH).code == 3
    assert counting() == ["another fox"]
    assert scores()["error"].to_list() == before["error"].to_list()
    assert scores()["error"][5] == "not a known image format"


def test_a_reason_goes_with_the_reward_that_gave_it(
    tgo: Tgo, tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward is changed so that it can score what it could not before."""
    monkeypatch.syspath_prepend(tmp_path)
    for number, score in enumerate(("float('nan')", "1.0")):
        name = f"moody{number}"
        (tmp_path / f"{name}.py").write_text(
            f"def moody(images, prompts):\n    return [{score}] * len(images)\n"
        )
        done = tgo(*CALL, rewards=f"{CLIP},{name}:moody")
        assert done.code == (0 if number else 3)
    assert scores()["moody"].to_list() == [1.0] * COUNT
    assert scores()["error"].null_count() == COUNT


def as_an_older_version_wrote(path: Path) -> None:
    """Leave out of a table what says which rows it has."""
    table, about = pq.read_table(path), read_metadata(path)
    assert read_footer(path, KEYS) and about.pop(LABELS)
    write_table_of(table, path, about)


def test_a_table_of_an_older_version_is_built_upon(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    tgo(*CALL, rewards=BOTH)
    counting()
    before = scores()
    as_an_older_version_wrote(tmp_path / "scores.parquet")
    forget_digest(tmp_path / "scores.parquet")
    assert "nothing to do" in tgo(*CALL, rewards=BOTH).out
    write_prompts(tmp_path, photos, _03="another fox")
    assert "1 done, 1 to do (64 images)" in tgo(*CALL, rewards=BOTH).log
    assert len(counting()) == 64, "a part as a whole, since it was not written what its rows are of"
    assert scores()[64:].equals(before[64:])
    kept = scores()
    write_prompts(tmp_path, photos, _03="another fox", _67="one more")
    assert "1 done, 1 to do (1 image)" in tgo(*CALL, rewards=BOTH).log, "rows of kept parts have keys by now"
    assert counting() == ["one more"]
    assert differing(kept, scores()) == {"one more"}


def test_rows_that_something_else_moved_are_not_kept(
    tgo: Tgo, tmp_path: Path, photos: list[Path], counting: Since
) -> None:
    tgo(*CALL, rewards=BOTH)
    table = pq.read_table("scores.parquet")
    pq.write_table(table.sort_by([("image", "descending")]), "scores.parquet")
    write_prompts(tmp_path, photos, _03="another fox")
    done = tgo(*CALL, rewards=BOTH)
    assert done.code == 2
    assert (
        "the rows of scores.parquet were changed by something else, or are damaged: start over" in done.line
    )


def test_the_columns_of_the_table_are_what_they_were(tgo: Tgo, tmp_path: Path, photos: list[Path]) -> None:
    tgo(*CALL)
    found: dict[str, Any] = dict(scores().schema)
    assert found == {"image": pl.String, "prompt": pl.String, "clip": pl.Float32, "error": pl.String}
