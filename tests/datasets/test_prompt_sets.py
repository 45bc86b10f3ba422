"""PartiPrompts, the HPDv2 benchmark and VidProM."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.public import write_hpdv2_prompts, write_parti, write_vidprom
from tests.datasets.streams import rows
from tgo_pipeline.datasets import open_dataset
from tgo_pipeline.datasets.schemas import PROMPT_ROWS
from tgo_pipeline.errors import TgoError


def _prompts(address: str) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in rows(open_dataset(address).prompts(), PROMPT_ROWS)]


PARTI = [
    ("bond", "Abstract", "Basic"),
    ('"G I G G L E" painted in thick letters', "Illustrations", "Writing & Symbols"),
    ('a 12" ruler', "Artifacts", "Quantity"),
]


def test_parti_keeps_quotes_category_and_challenge(tmp_path: Path) -> None:
    root = write_parti(tmp_path / "parti")
    assert _prompts(f"parti:{root}") == _prompts(f"parti:{root}/PartiPrompts.tsv") == PARTI


def test_parti_as_parquet(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    columns = dict(zip(("Prompt", "Category", "Challenge"), zip(*PARTI, strict=True), strict=True))
    pq.write_table(
        pa.table({**columns, "Note": [""] * 3}), tmp_path / "data" / "train-00000-of-00001-ab.parquet"
    )
    assert _prompts(f"parti:{tmp_path}") == PARTI


def test_styles_are_the_category(tmp_path: Path) -> None:
    root = write_hpdv2_prompts(tmp_path / "set")
    found = _prompts(f"hpdv2-prompts:{root}")
    assert [row[1] for row in found] == [
        s for s in ("anime", "concept-art", "paintings", "photo") for _ in range(2)
    ]
    assert found[2] == ("concept-art one", "concept-art", None)
    assert _prompts(f"hpdv2-prompts:{root}/photo") == found[6:]
    assert _prompts(f"hpdv2-prompts:{root}/benchmark/photo.json") == found[6:]
    (root / "benchmark/photo.json").unlink()
    with pytest.raises(TgoError, match=r"has no photo\.json or benchmark/photo\.json"):
        _prompts(f"hpdv2-prompts:{root}")
    with pytest.raises(TgoError, match="no style 'manga': it is one of anime, concept-art"):
        _prompts(f"hpdv2-prompts:{root}/manga")
    (root / "benchmark/anime.json").write_text(json.dumps(["one", {"prompt": "two"}]))
    with pytest.raises(TgoError, match=r"anime\.json, record 1 is dict, not text"):
        _prompts(f"hpdv2-prompts:{root}/anime")


def test_vidprom_prompts_may_span_lines(tmp_path: Path) -> None:
    root = write_vidprom(tmp_path / "set")
    assert [row[0] for row in _prompts(f"vidprom:{root}")] == ['a "red" fox,\nrunning', "a dog"]
    assert [row[0] for row in _prompts(f"vidprom:{root}/semantic_unique")] == ["a dog"]
    with pytest.raises(TgoError, match=r"has no VidProM_other\.csv"):
        _prompts(f"vidprom:{root}/other")


def test_prompt_sets_have_nothing_else(tmp_path: Path) -> None:
    dataset = open_dataset(f"parti:{write_parti(tmp_path / 'parti')}")
    for stream in (dataset.listing, dataset.images, dataset.comparisons, dataset.ratings):
        with pytest.raises(TgoError, match=r"has no .*: PartiPrompts does not come with them"):
            stream()


def test_a_changed_header_is_named(tmp_path: Path) -> None:
    root = write_parti(tmp_path / "parti")
    file = root / "PartiPrompts.tsv"
    file.write_text(file.read_text().replace("Challenge", "Difficulty", 1))
    with pytest.raises(
        TgoError, match=r"no column 'Challenge'; its columns are: Prompt, Category, Difficulty, Note"
    ):
        _prompts(f"parti:{root}")
    with pytest.raises(TgoError, match="has no split 'test'"):
        _prompts(f"parti:{root}/test")
