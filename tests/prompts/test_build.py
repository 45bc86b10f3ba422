"""Every prompt has one place; what was dropped on the way is counted."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from stages import prompts as prompts_stage
from tests.datasets.public import write_hpdv2_prompts, write_parti, write_pickapic
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, PromptsParams, parse
from tgo_pipeline.prompts import build, planned_fingerprint, prompt_id, set_hash
from tgo_pipeline.storage.tables import PROMPTS, read_metadata, read_table

MANY = [f"image number {number} of a long series" for number in range(400)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _write(name: str, *lines: str) -> str:
    Path(name).write_text("\n".join(lines) + "\n")
    return name


def _texts(table, split: str) -> dict[str, list[str]]:
    rows = [row for row in table.to_pylist() if row["split"] == split]
    return {
        source: [r["prompt"] for r in rows if r["source"] == source] for source in {r["source"] for r in rows}
    }


def test_normalises_removes_and_counts() -> None:
    train = _write("train.txt", "a cat", "", " a  cat ", "a dog", "A dog.", "a bird", "a whale")
    one, two = _write("one.txt", "a bird", "a fish", "a bird"), _write("two.txt", "a fish", "a dog")
    built = build(PromptsParams(train=train, test={"one": one, "two": two}), seed=0)
    assert built.table.schema.equals(PROMPTS, check_metadata=True)
    assert _texts(built.table, "train") == {"train": ["a cat", "A dog.", "a whale"]}
    assert _texts(built.table, "test") == {"one": ["a bird", "a fish"], "two": ["a dog"]}
    assert built.metrics["train"] == {
        "read": 7, "empty": 1, "duplicates": 1, "in_test": 2, "beyond_limit": 0, "kept": 3,
        "hash": set_hash(map(prompt_id, ["a cat", "A dog.", "a whale"])),
    }  # fmt: skip
    assert built.metrics["test"]["two"] == {
        "read": 2, "empty": 0, "duplicates": 0, "in_earlier_test_set": 1, "kept": 1,
        "hash": prompt_id(prompt_id("a dog")),
    }  # fmt: skip
    assert built.metrics["near_duplicates"] == {
        "threshold": 0.9,
        "train_prompts": 1,
        "examples": [{"similarity": 1.0, "train": "A dog.", "test": "a dog", "test_set": "two"}],
    }
    assert all(row["prompt_id"] == prompt_id(row["prompt"]) for row in built.table.to_pylist())


def test_the_fraction_is_near_and_a_prompt_keeps_its_split() -> None:
    params = PromptsParams(train=_write("few.txt", *MANY[:200]), test_fraction=0.25)
    few = build(params, seed=1).table
    many = build(PromptsParams(train=_write("many.txt", *reversed(MANY)), test_fraction=0.25), seed=1).table
    held_out = _texts(many, "test")["held_out"]
    assert 60 < len(held_out) < 140  # 100 of 400, give or take 4.6 standard deviations
    assert set(_texts(few, "test")["held_out"]) == set(held_out) & set(MANY[:200])
    assert set(_texts(build(params, seed=2).table, "test")["held_out"]) != set(
        _texts(few, "test")["held_out"]
    )


def test_the_limit_does_not_depend_on_order_and_spares_named_test_sets() -> None:
    tests = {"t": _write("t.txt", "a cat", "a dog", "a bird")}
    first = build(PromptsParams(train=_write("a.txt", *MANY), test=tests, limit=2), seed=0)
    second = build(PromptsParams(train=_write("b.txt", *reversed(MANY)), test=tests, limit=2), seed=0)
    assert set(_texts(first.table, "train")["train"]) == set(_texts(second.table, "train")["train"])
    assert first.metrics["train"]["beyond_limit"] == 398
    assert first.metrics["test"]["t"]["kept"] == 3


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_rows_of_a_table_without_a_prompt_are_left_out_with_their_place(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"id": number, "prompt": text} for number, text in enumerate(["a cat", "", "  ", None, "a dog"])]
    if kind in ("csv", "tsv"):
        pl.DataFrame(rows).write_csv(
            "t." + kind, separator="," if kind == "csv" else "\t", quote_style="never"
        )
    elif kind == "parquet":
        pl.DataFrame(rows).write_parquet("t.parquet")
    else:
        lines = [json.dumps(row) for row in rows]
        Path("t." + kind).write_text("[" + ",\n".join(lines) + "]" if kind == "json" else "\n".join(lines))
    built = build(PromptsParams(train="t." + kind, test={"t": _write("t.txt", "a fish", "")}), seed=0)
    assert _texts(built.table, "train") == {"train": ["a cat", "a dog"]}
    assert built.metrics["train"]["empty"] == 3
    assert f"t.{kind}: 3 of 5 rows have no prompt and are left out, the first is row 2" in caplog.text
    assert "t.txt" not in caplog.text


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_an_empty_source_is_refused(content: str) -> None:
    Path("empty.txt").write_text(content)
    with pytest.raises(TgoError, match=r"empty\.txt holds no prompt"):
        build(PromptsParams(train="empty.txt", test_fraction=0.5), seed=0)


def test_a_split_without_prompts_is_refused() -> None:
    same = _write("same.txt", "a cat")
    with pytest.raises(TgoError, match=r"no prompt is left for the train split .*1 in test"):
        build(PromptsParams(train=same, test={"t": same}), seed=0)
    with pytest.raises(TgoError, match=r"no prompt is left for (the train split|held_out)"):
        build(PromptsParams(train=same, test_fraction=0.5), seed=0)


def test_the_fingerprint_follows_parameters_and_content() -> None:
    params = PromptsParams(train=_write("t.txt", *MANY), test_fraction=0.5)
    first = planned_fingerprint(params, seed=0)
    assert planned_fingerprint(params, seed=0) == first
    assert planned_fingerprint(params, seed=1) != first
    assert planned_fingerprint(replace(params, limit=9), seed=0) != first
    _write("t.txt", *MANY, "one more")
    assert planned_fingerprint(params, seed=0) != first


def test_the_stage_writes_table_and_metrics_or_nothing() -> None:
    raw = {"prompts": {"train": "t.txt", "test_fraction": 0.5}, "score": {"rewards": {"clip": "demo"}}}
    raw["target"] = {"reward": "clip"}
    params = parse(Params, raw)
    with pytest.raises(TgoError, match="does not exist"):
        prompts_stage.run(params)
    assert not list(Path().rglob("*.*"))
    _write("t.txt", *MANY)
    prompts_stage.run(params)
    table = Path("data/prompts.parquet")
    assert read_table(table, PROMPTS).num_rows == 400
    assert read_metadata(table)["fingerprint"] == planned_fingerprint(params.prompts, params.seed)
    metrics = json.loads(Path("metrics/prompts.json").read_text())
    assert metrics["train"]["kept"] + metrics["test"]["held_out"]["kept"] == 400


def test_public_sets_bring_category_and_challenge_and_are_counted(tmp_path: Path) -> None:
    parti = f"parti:{write_parti(tmp_path / 'parti')}"
    styles = f"hpdv2-prompts:{write_hpdv2_prompts(tmp_path / 'styles')}"
    pick = f"pickapic:{write_pickapic(tmp_path / 'pick')}"
    params = PromptsParams(
        train=f"{pick}/train", test={"pick": f"{pick}/test_unique", "parti": parti, "hpdv2": styles}
    )
    built = build(params, seed=0)
    rows = {row["prompt"]: row for row in built.table.to_pylist()}
    assert (rows["bond"]["category"], rows["bond"]["challenge"]) == ("Abstract", "Basic")
    assert (rows["photo two"]["category"], rows["photo two"]["challenge"]) == ("photo", None)
    assert (rows["a cat"]["split"], rows["a cat"]["category"]) == ("train", None)
    assert built.metrics["train"] | {"hash": ""} == {
        "read": 5, "empty": 0, "duplicates": 2, "in_test": 1, "beyond_limit": 0, "kept": 2, "hash": "",
    }  # fmt: skip
    kept = {name: counts["kept"] for name, counts in built.metrics["test"].items()}
    assert kept == {"pick": 1, "parti": 3, "hpdv2": 8}
    for name, counts in built.metrics["test"].items():
        assert counts["hash"] == set_hash(r["prompt_id"] for r in rows.values() if r["source"] == name)


def test_the_hash_of_a_set_follows_its_prompts_and_not_their_order() -> None:
    ids = [prompt_id(text) for text in MANY[:5]]
    assert set_hash(ids) == set_hash(reversed(ids))
    assert set_hash(ids) != set_hash(ids[1:])


def test_a_repeated_prompt_has_the_first_category_that_a_row_names() -> None:
    train = _write(
        "a.csv", "prompt,category,challenge", "a cat,,", "a cat,A,", "a cat,B,Counting", "a dog,B,"
    )
    test = _write("test.txt", "a fish")
    rows = build(PromptsParams(train=train, test={"t": test}), seed=0).table.to_pylist()
    assert [(row["prompt"], row["category"], row["challenge"]) for row in rows[:2]] == [
        ("a cat", "A", "Counting"),
        ("a dog", "B", None),
    ]
