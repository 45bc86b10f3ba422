"""Exports: names that try to break out of their format, legends, and published numbers that are marked as such."""

import csv
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from tests.evaluation.worlds import scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.hacking import Roles, hacking_table
from tgo_pipeline.evaluation.statistics.matrix import matrix_table
from tgo_pipeline.evaluation.statistics.means import models_table
from tgo_pipeline.evaluation.tables import published
from tgo_pipeline.evaluation.tables.export import SCHEMAS, export, source, text
from tgo_pipeline.evaluation.tables.legend import facts_text
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.params.parsing import read_data
from tgo_pipeline.rendering import latex, markdown, sheets
from tgo_pipeline.storage.tables import read_metadata, read_table, write_table
from tgo_pipeline.storage.workspace import Workspace

HOSTILE = (
    "a|b & 50% of_$x$ {y} ~^\\input{/etc/passwd} <script>alert(1)</script> [l](javascript:x) `c` **d** #1\n| --- |\r\n"
    "\\\\ \\end{document} =cmd()\",,'' -- ?` \u202egnp.\u202c \x00\x1b[31m 名前 é " + "long " * 100
)
SHA = "0123456789abcdef" * 4
LEGEND = {
    "rewards": {"target": {"reward": "hpsv2.1", "version": "2.1", "sha256": SHA, "scale": "raw cosine"}},
    "target": {},
    "test_sets": {"plain": {"source": HOSTILE, "kept": 12, "hash": "12ab"}},
    "models": {"base": {"model": "org/name", "revision": "abc", "scheduler": "DDIMScheduler"}},
    "sampling": {"images": {"steps": 50}},
    "statistics": {},
    "software": {},
}


def write(folder: Path, models: tuple[str, ...] = ("base", "tuned", HOSTILE), **metadata: object) -> Path:
    """The tables of an evaluation, as the stage lays them out."""
    world = scores({"tuned": [0.8, 0.4, -0.4]}, models=models)
    params = EvaluateParams(bootstrap=100)
    made = {
        "evaluation": evaluation_table(world.pairs("base", "tuned"), "target", params),
        "models": models_table(world, "target", params, 0),
        "matrix": matrix_table(world, "target", params, 0),
        "hacking": hacking_table(world, Roles("target", [], ["held", "oracle"]), params, 0),
    }
    for name, table in made.items():
        path = source(name, folder / "evaluation.parquet", folder / "evaluation")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(table, path, {"confidence": 0.95, "excluded": 0, "legend": LEGEND} | metadata)
    places = {"evaluation": folder / "evaluation.parquet", "evaluation_images": folder / "evaluation"}
    export(Workspace(folder).moved(**places))
    return folder / "tables"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("exports"), published=True)


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_table_of_markdown_has_one_width_and_no_html(tables: Path, name: str) -> None:
    content = (tables / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^\|.*\n)+", content, re.MULTILINE)
    assert blocks
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
        assert re.fullmatch(r"\|( --- \|)+( ---: \|)*", block.splitlines()[1])
    assert "<" not in content and not re.search(r"(?<!\\)\](?=\(|\[)", content)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", content)
    assert "## Legend" in content and SHA[:16] in content and SHA[:17] not in content


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_latex_is_balanced_and_every_row_has_its_columns(tables: Path, name: str) -> None:
    content = (tables / f"{name}.tex").read_text(encoding="utf-8")
    assert content.count("\\begin{document}") == content.count("\\end{document}") == 1
    assert content.rstrip().endswith("\\end{document}")
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", content):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    tabulars = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", content, re.DOTALL)
    assert len(tabulars) == content.count("\\begin{tabular}") == content.count("\\tablecaption{") > 0
    for form, body in tabulars:
        for line in body.splitlines():
            if line and line != "\\hline":
                assert line.endswith(" \\\\")
                assert len(re.findall(r"(?<!\\)&", line)) == len(form) - 1, line
    body = content.split("\\makeatother", 1)[1]
    assert not re.search(r"(?<!\\)[#$_^~%]", body.replace("$\\pm$", "").replace("$-$", ""))
    assert all(ord(character) < 128 or 0xC0 <= ord(character) < 0x100 for character in content)
    used = set(re.findall(r"\\([A-Za-z]+)", body))
    assert used <= {
        *(
            "begin",
            "end",
            "hline",
            "section",
            "subsection",
            "begingroup",
            "endgroup",
            "tablecaption",
            "textbf",
            "textit",
            "par",
            "scriptsize",
            "smallskip",
        ),
        *("textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "dots"),
        *("textquotedbl", "textasciigrave", "textendash"),
    }


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_csv_and_parquet_hold_every_row_with_all_digits(tables: Path, name: str) -> None:
    table = read_table(tables / f"{name}.parquet", SCHEMAS[name])
    assert table.num_rows
    with (tables / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    kinds = {field.name: field.type for field in table.schema}
    for line, row in zip(lines, table.to_pylist(), strict=True):
        for column, cell in line.items():
            value = row[column]
            if value is None:
                assert cell == ""
            elif pa.types.is_floating(kinds[column]):
                assert float(cell) == value
            else:
                assert cell == str(sheets.cell(value))
    assert read_metadata(tables / f"{name}.parquet")["legend"] == LEGEND
    assert json.loads((tables / f"{name}.legend.json").read_text(encoding="utf-8")) == LEGEND


def test_published_numbers_stand_apart_and_only_on_demand(tables: Path, tmp_path: Path) -> None:
    for name in ("models", "matrix"):
        shown = (tables / f"{name}.md").read_text()
        headings = [line for line in shown.splitlines() if line.startswith("## Published, not measured here")]
        assert headings and "Published by arXiv" in shown
        assert "ublished" not in (tables / f"{name}.csv").read_text()
        assert len(read_table(tables / f"{name}.parquet")) == len(
            read_table(tables / f"../evaluation/{name}.parquet")
        )
    plain = write(tmp_path, models=("base", "tuned"))
    assert not [path for path in plain.glob("*.md") if "Published" in path.read_text()]


def test_published_numbers_are_complete_and_say_where_they_are_from() -> None:
    for block in published.blocks():
        assert block.source and block.caveats and len(block.digits) == len(block.places)
        assert all(len(values) == len(block.places) for values in block.values.values())
    rates = next(block for block in published.blocks() if "Diffusion-KTO against" in block.title)
    for values in rates.values.values():
        assert all(round(value * 5, 6).is_integer() for value in values[:5] if value is not None)
    assert "swapped" in next(b for b in published.blocks() if "Table 2" in b.source).caveats


BLOCK = "{table: models, title: T, source: s, caveats: c, columns: {A: [x, y]}, values: {m: [1, 2]}, digits: [1, 1]}"


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("m: [1, 2]", "m: [1]", r"blocks\[0\]\.'T' has 2 columns, and 1 entries for m"),
        ("digits: [1, 1]", "digits: [1]", r"blocks\[0\]\.'T' has 2 columns, and 1 entries for digits"),
        ("m: [1, 2]", "m: [1, high]", r"blocks\[0\]\.values\.m\[1\] is 'high': it must be a number"),
        ("table: models", "table: means", r"blocks\[0\]\.table is 'means': it must be one of models, matrix"),
        ("caveats: c, ", "", r"blocks\[0\]\.caveats is missing"),
    ],
)
def test_a_mistake_in_published_numbers_names_the_file_and_the_place(
    tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(f"blocks: [{BLOCK}]")
    assert len(read_data(path, published._File).blocks) == 1
    path.write_text(f"blocks: [{BLOCK.replace(right, wrong)}]")
    with pytest.raises(TgoError, match=rf"published\.yaml: {message}"):
        read_data(path, published._File)


def test_published_columns_are_those_of_the_rewards_that_are_evaluated() -> None:
    shown = published.sheets("matrix", ["hpsv2.1", "clip/openai-l14"])
    columns = [column for sheet in shown for column in sheet.columns]
    assert {"Pick-a-Pic hpsv2", "PartiPrompts clip"} <= set(columns)
    assert not any("aesthetic" in column for column in columns)
    assert [sheet.title for sheet in published.sheets("models", [])] == []


def test_a_single_pair_needs_no_square(tmp_path: Path) -> None:
    tables = write(tmp_path, models=("base", "tuned"))
    shown = (tables / "matrix.md").read_text()
    assert "Model against" not in shown and "pairs of models" in shown
    assert shown.count("| tuned | base |") == 3 * 3 + 3


def test_a_table_without_a_target_says_why_it_is_empty(tmp_path: Path) -> None:
    write_table(
        hacking_table(scores(), None, EvaluateParams(), 0), tmp_path / "h.parquet", {"confidence": 0.95}
    )
    for form in ("md", "tex"):
        shown = text("hacking", tmp_path / "h.parquet", form)
        assert "is feedback" in shown and "(evaluate.rewards)." in shown  # to its end


def test_another_table_or_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="evaluation, models, matrix, hacking"):
        source("ratings", tmp_path, tmp_path)
    with pytest.raises(TgoError, match="md, tex, csv"):
        text("models", tmp_path, "xls")
    with pytest.raises(TgoError, match="does not exist"):
        text("models", tmp_path / "models.parquet", "md")


def test_facts_are_a_line_without_what_is_unknown() -> None:
    facts = {
        "model": "x",
        "revision": None,
        "words": {},
        "guidance": {"kind": "pgd", "strength": 2.0},
        "of": ["a", "b"],
    }
    assert facts_text(facts) == "model: x; guidance: (kind: pgd; strength: 2.0); of: a, b"


def test_escapes_leave_plain_names_alone() -> None:
    for escape in (markdown.escape, latex.escape):
        assert escape("SD 1.5 (DPO), step 78") == "SD 1.5 (DPO), step 78"
        assert len(escape("x" * 10_000)) < 200
    assert markdown.escape("mean_z") == "mean\\_z" and latex.escape("mean_z") == "mean\\_z"
    assert latex.escape("\\ & %") == "\\textbackslash{} \\& \\%"
    assert latex.escape("a--b") == "a-{}-b"
    assert latex.escape("−0.51") == "$-$0.51"
    assert io.StringIO(markdown.escape("a\nb")).readlines() == ["a b"]
