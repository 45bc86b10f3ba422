"""Every way to give prompts, prompts of every kind, and what is said when they do not fit the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.scoring.command.conftest import AESTHETIC, CLIP, Tgo, expected, random_image, scores, write_images
from tests.scoring.command.test_inputs import write_csv

ODD = [
    "",
    "word " * 2000,
    "\U0001f98a in the \U0001f332",
    "ثعلب أحمر في الثلج",
    "a\0b",
    "  spaces  and\ttabs\n",
    'quoted "fox", comma',
    "&amp; \u201ccurly\u201d",
]


@pytest.fixture(autouse=True)
def _photos(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)


def test_one_prompt_for_all(tgo: Tgo) -> None:
    assert tgo("photos", "--prompt", "a red fox").code == 0
    right = expected([random_image(number) for number in range(3)], ["a red fox"] * 3)
    np.testing.assert_allclose(scores()["clip"].to_numpy(), right, rtol=0, atol=1e-5)
    assert scores()["prompt"].to_list() == ["a red fox"] * 3


def test_a_table_names_images_within_the_folder_as_given_or_from_where_it_is(
    tgo: Tgo, tmp_path: Path
) -> None:
    names = ["00.png", "photos/01.png", "../photos/02.png"]
    (tmp_path / "texts").mkdir()
    write_csv(tmp_path / "texts/p.csv", [[name, f"p{row}"] for row, name in enumerate(names)])
    assert tgo("photos", "--prompts", "texts/p.csv").code == 0
    assert scores()["prompt"].to_list() == ["p0", "p1", "p2"]


def test_prompts_of_every_kind_are_scored_and_kept_as_they_are(tgo: Tgo, tmp_path: Path) -> None:
    write_images(tmp_path / "more", len(ODD))
    lines = [json.dumps({"file_name": f"{row:02d}.png", "prompt": text}) for row, text in enumerate(ODD)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    assert tgo("more", "--prompts", "p.jsonl").code == 0
    assert scores()["prompt"].to_list() == ODD
    right = expected([random_image(number) for number in range(len(ODD))], ODD)
    np.testing.assert_allclose(scores()["clip"].to_numpy(), right, rtol=0, atol=1e-5)


def test_thousands_of_distinct_prompts(tgo: Tgo, tmp_path: Path) -> None:
    prompts = [f"fox number {number}" for number in range(3000)]
    data = (tmp_path / "photos/00.png").read_bytes()
    pq.write_table(pa.table({"image": [data] * 3000, "prompt": prompts}), tmp_path / "all.parquet")
    assert tgo("all.parquet").code == 0
    assert scores()["prompt"].to_list() == prompts
    some = [0, 1499, 2999]
    right = expected([random_image(0)] * 3, [prompts[row] for row in some])
    np.testing.assert_allclose(scores()["clip"].to_numpy()[some], right, rtol=0, atol=1e-5)


def test_lines_must_be_as_many_as_images(tgo: Tgo, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\n\nc\n")
    assert tgo("photos", "--prompts", "p.txt").code == 0
    assert scores()["prompt"].to_list() == ["a", "", "c"]
    for lines in ("a\nb\n", "a\nb\nc\nd\n"):
        (tmp_path / "p.txt").write_text(lines)
        done = tgo("photos", "--prompts", "p.txt")
        assert done.code == 2
        assert (
            f"p.txt has {lines.count('b') + lines.count(chr(10)) - 1} lines and there are 3 images"
            in done.line
        )


def test_images_without_a_prompt_are_named_and_rows_without_an_image_are_counted(
    tgo: Tgo, tmp_path: Path
) -> None:
    write_csv(tmp_path / "p.csv", [["00.png", "a"], ["gone.png", "b"]])
    done = tgo("photos", "--prompts", "p.csv")
    assert done.code == 2
    assert "2 of 3 images have no prompt, which clip needs: photos/01.png, photos/02.png; " in done.line
    assert "add them to p.csv" in done.line
    assert not (tmp_path / "scores.parquet").exists()
    write_csv(tmp_path / "p.csv", [[f"0{row}.png", "a"] for row in range(5)])
    done = tgo("photos", "--prompts", "p.csv")
    assert done.code == 0
    assert "p.csv: 2 of 5 rows name no image that is scored, such as 03.png" in done.log


def test_a_reward_that_looks_at_no_prompt_needs_none(tgo: Tgo) -> None:
    assert tgo("photos", rewards=AESTHETIC).code == 0
    assert scores()["prompt"].null_count() == 3
    right = expected([random_image(number) for number in range(3)], [""] * 3, AESTHETIC)
    np.testing.assert_allclose(scores()["aesthetic"].to_numpy(), right, rtol=0, atol=1e-5)
    done = tgo("photos", "--out", "other.parquet", rewards=f"{AESTHETIC},{CLIP}")
    assert done.code == 2
    assert "3 of 3 images have no prompt, which clip needs" in done.line


def test_prompts_that_contradict(tgo: Tgo, tmp_path: Path) -> None:
    write_csv(tmp_path / "p.csv", [["00.png", "a"], ["./00.png", "b"]])
    assert "p.csv, row 2: './00.png' has another prompt" in tgo("photos", "--prompts", "p.csv").line
    assert "both given" in tgo("photos", "--prompts", "p.csv", "--prompt", "a").line
    write_csv(tmp_path / "q.csv", [["00.png", "a"]], ("file", "words"))
    assert "q.csv has no column file_name and prompt; its columns are: file, words" in (
        tgo("photos", "--prompts", "q.csv").line
    )
