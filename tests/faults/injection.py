"""Hostile prompts, titles, names and file names through the whole pipeline, then into every output.

    python -m tests.faults.injection [--work FOLDER] [--parts report,exports,terminal]

A small run is made whose prompts, test sets, rewards, models and title hold script tags, quotes, template syntax, CSS,
formulas, TeX, Markdown, mark-up of `rich` and escape sequences. Then

  report    the page in a headless Chromium: everything is clicked; no script of an input runs, nothing is asked of the
            network; with its Content-Security-Policy, without it, and with an injection that must be seen
  exports   tables/*.csv, *.tex and *.md, the plots' csv, and the cards of `tgo card`
  terminal  what commands print: no escape sequence, no control or direction character

Prints a line of JSON for each finding. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.faults import workspaces
from tests.faults.children import fork, wait, warm
from tests.faults.hostile import CONTROL, EXERCISE, HTML, NAMES, PAYLOADS
from tests.faults.workspaces import STAGES
from tests.report.browser import Browser, find_browser
from tests.rewriting import forget_digest
from tgo_pipeline.demo import world

PARTS = ("report", "exports", "terminal")
FORMULA = re.compile(r"[=+\-@\t\r]")
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|-?inf|-")
TEX = re.compile(r".{0,40}\\(input|write18|include|immediate|openin|def)\b.{0,40}")
MARKDOWN = {
    "HTML": r"<(script|img|svg|iframe|b class|i class|base|meta|form|a href)\b",
    "a javascript: link": r"(?<!\\)\]\(javascript:",
    "an image from elsewhere": r"(?<!\\)!\[[^\]]*(?<!\\)\]\(http",
    "an address that becomes a link": r"(?<![&#\w])https?://127",
    "control characters": CONTROL.pattern,
}
"""What a card must not have of an input."""
COMMANDS = (
    ["status"],
    ["plan"],
    ["doctor"],
    ["thresholds"],
    ["thresholds", "--explain"],
    ["evaluation"],
    ["evaluation", "--table", "models"],
    ["evaluation", "--matrix"],
    ["evaluation", "--table", "hacking"],
    ["evaluation", "--format", "md"],
    ["evaluation", "--format", "tex"],
    ["evaluation", "--format", "csv"],
    ["card", "--data-license", "mit", "--license", "mit"],
    ["push", "model", "a/b", "--dry-run"],
    ["push", "dataset", "a/b", "--dry-run"],
    ["score", "odd", "--rewards", "clip=demo", "--prompt", "x", "--out", "s.parquet"],
    ["score", "odd", "--rewards", "clip=demo", "--out", "t.parquet"],
    ["score", "odd/\x1b[31mnone.png", "--rewards", "clip=demo", "--prompt", "x"],
    ["score", "odd", "--rewards", "\x1b[31mclip", "--prompt", "x"],
    ["run", "\x1b[31mscore"],
    ["\x1b[31mrun"],
    ["status", "--params", "\x1b[31mp.yaml"],
    ["plan", "--gpus", "\x1b[31m"],
    ["evaluation", "--format", "\x1b[31m"],
    ["thresholds", "--explain", "--reward", "\x1b[31mx[/x]"],
    ["run", "report"],
)
FILES = (
    "\x1b[31mred.png",
    "a\nb.png",
    "[red]x.png",
    "\x1b]0;t\x07.png",
    "\u202egnp.exe.png",
    "<script>.png",
    "=1+1.png",
)


class Injection:
    """A hostile project, and what is found in its outputs."""

    def __init__(self, work: Path) -> None:
        self._folder = work / "project"
        self._work = work
        self.findings: list[dict] = []
        self._said: dict[str, str] = {}

    def finding(self, part: str, what: str, detail: object) -> None:
        """Note and print it."""
        self.findings.append({"part": part, "finding": what, "detail": detail})
        print(json.dumps(self.findings[-1]), flush=True)

    def make(self) -> bool:
        """Run every stage; whether all of them end well."""
        folder = workspaces.make(self._folder)
        rows = [
            {"prompt": text, "category": text[:60]}
            for text in [*world.captions("plain", "train")[:4], *PAYLOADS]
        ]
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        for number in range(len(NAMES["set"])):
            some = [
                {"prompt": f"{text} t", "category": text[:40], "challenge": text[-40:]}
                for text in PAYLOADS[number::4][:8]
            ]
            (folder / f"test{number}.jsonl").write_text("\n".join(map(json.dumps, some)) + "\n")
        (folder / "params.yaml").write_text(yaml.safe_dump(_params(), allow_unicode=True))
        for stage in STAGES:
            if self._tgo(["run", stage]) != 0:
                return False
            if stage == "generate":
                _spoil(folder)
        return True

    def _tgo(self, words: list[str], allowed: tuple[int, ...] = (0,)) -> int | None:
        """Run a command and keep what it says."""
        name, log = ascii(" ".join(words)), self._work / "said.txt"
        log.unlink(missing_ok=True)
        code = wait(fork(self._folder, words, log), 400)
        self._said[name] = log.read_bytes().decode("utf-8", "replace") if log.exists() else ""
        if code not in allowed or "Traceback" in self._said[name]:
            self.finding("terminal", f"tgo {name} ends with {code}", self._said[name][-600:])
        return code

    def terminal(self) -> None:
        odd = self._folder / "odd"
        odd.mkdir()
        for number, name in enumerate(FILES):
            (odd / name).write_bytes(b"broken" if number % 2 else b"P6 1 1 255\n\x00\x00\x00")
        (odd / "metadata.csv").write_text('file_name,prompt\n"\x1b[31mred.png",x\n"nothing\x1b[2J.png",y\n')
        for words in COMMANDS:
            self._tgo(list(words), (0, 2, 3))
        for name, text in self._said.items():
            if found := CONTROL.search(text.replace("\r\n", "\n")):
                around = text[max(0, found.start() - 60) : found.start() + 60]
                self.finding("terminal", f"{name}: control characters are printed", ascii(around))

    def exports(self) -> None:
        for path in [*(self._folder / "tables").glob("*.csv"), *(self._folder / "plots").glob("*.csv")]:
            cells = [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
            if runs := [cell for cell in cells if FORMULA.match(cell) and not NUMBER.fullmatch(cell)]:
                self.finding("exports", f"{path.name}: cells that a spreadsheet runs", sorted(set(runs))[:4])
            if acts := [cell for cell in cells if CONTROL.search(cell)]:
                self.finding("exports", f"{path.name}: control characters", ascii(acts[:3]))
        for path in (self._folder / "tables").glob("*.tex"):
            text = path.read_text()
            if found := TEX.search(text):
                self.finding("exports", f"{path.name}: a TeX command of an input", found[0])
            if odd := sorted({c for c in text if ord(c) > 255 or (ord(c) < 32 and c != "\n")}):
                self.finding("exports", f"{path.name}: characters that TeX lacks", ascii(odd[:20]))
        for path in [*(self._folder / "tables").glob("*.md"), *(self._folder / "share").rglob("*.md")]:
            self._markdown(path)

    def _markdown(self, path: Path) -> None:
        text = path.read_text()
        outside = re.sub(r"(?s)```.*?```", "", re.sub(r"(?s)\A---\n.*?\n---\n", "", text))
        for kind, pattern in MARKDOWN.items():
            if found := re.search(f".{{0,60}}{pattern}.{{0,40}}", outside):
                self.finding("exports", f"{path.name}: {kind} of an input", ascii(found[0]))
        if text.startswith("---\n") and yaml.safe_load(text.split("---\n")[1]).get("license") == "evil":
            self.finding("exports", f"{path.name}: front matter of an input", text[:300])

    def report(self) -> None:
        page = self._folder / "report.html"
        if find_browser() is None:
            print("report is skipped: no Chromium is installed")
            return
        bare = self._folder / "bare.html"
        bare.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text()))
        control = self._folder / "control.html"
        control.write_text(
            bare.read_text().replace("</main>", f"{HTML}<img src=http://127.0.0.1:9/p></main>", 1)
        )
        for file in (page, bare):
            for what, detail in _looked(file):
                self.finding("report", f"{file.name}: {what}", detail)
        if len(_looked(control)) < 3:
            self.finding("report", "an injection is not seen", _looked(control))


def _params() -> dict:
    """Parameters whose names and title are hostile."""
    params = yaml.safe_load(workspaces.PARAMS)
    rewards = {
        name: ("clip=demo" if place % 2 else "pickscore=demo") for place, name in enumerate(NAMES["reward"])
    }
    params["prompts"] = {
        "train": "train.jsonl",
        "test": {name: f"test{i}.jsonl" for i, name in enumerate(NAMES["set"])},
    }
    params["generate"] |= {"steps": 2, "shard_size": 40}
    params["score"] = {"rewards": rewards, "max_error_rate": 1.0}
    params["fine_tune"] |= {"steps": 2, "batch_size": 8, "validation": {"every": 2, "prompts": 1}}
    params["evaluate"] |= {"images_per_prompt": 1, "models": dict.fromkeys(NAMES["model"], "demo")}
    params["evaluate"]["rewards"] = {"<i class=pwned>held": "aesthetic=demo"}
    params["report"] = {"title": HTML + "\u202e{{7*7}}\x1b[31m </title><b class=pwned>"}
    return params


def _spoil(folder: Path) -> None:
    """Let some images be text, so that errors come with them."""
    path = min((folder / "data/generations").glob("[!.]*.parquet"))
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows[:3]:
        row["image"] = {"bytes": HTML.encode(), "path": HTML}
    rows[3]["image"] = {"bytes": b"P6\n1 1\n" + HTML.encode(), "path": "\x1b[31mx"}
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    forget_digest(path)


def _looked(page: Path) -> list[tuple[str, object]]:
    """What an input has become in a page that is used: (what, detail)."""
    with Browser() as browser, browser.open(page) as tab:
        found = json.loads(tab.run(EXERCISE.strip()))
        requests = tab.requests
    looked = {
        "a script of an input ran": found["pwned"],
        "mark-up of an input became elements": found["elements"],
        "there are event handlers": found["on"],
        "links lead out": found["links"],
        "the network was asked": requests[:5],
        "the page is wider than its window": found["overflow"] > 0,
    }
    return [(what, detail) for what, detail in looked.items() if detail]


def main(arguments: list[str] | None = None) -> int:
    """Make the hostile run and look at its outputs; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="the folder of the project (default: a temporary one)")
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        shutil.rmtree(work / "project", ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        warm()
        injection = Injection(work)
        if injection.make():
            for part in sorted(options.parts.split(","), key=("terminal", "exports", "report").index):
                getattr(injection, part)()
        print(json.dumps({"payloads": len(PAYLOADS), "findings": len(injection.findings)}))
        return int(bool(injection.findings))


if __name__ == "__main__":
    sys.exit(main())
