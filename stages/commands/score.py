"""`tgo score`: images of any source in, one Parquet table of scores out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import UNSCORED
from tgo_pipeline.formats.limits import MEGAPIXELS, MEMORY_GB
from tgo_pipeline.scoring.command.help import SCORE

if TYPE_CHECKING:
    from tgo_pipeline.scoring.command.options import Call


def score(
    path: list[str] = typer.Argument(
        metavar="PATH...",
        show_default=False,
        help="Image files, folders, patterns; csv, jsonl or Parquet tables; hf:ORG/NAME@REVISION/SPLIT; public data "
        "sets, as pickapic:WHERE.",
    ),
    rewards: list[str] = typer.Option(
        metavar="REWARD[=SOURCE],...",
        show_default=False,
        help="hpsv2.1, hpsv2.0, pickscore, imagereward, clip, clip/laion-h14-hpspad, aesthetic, or your own as "
        "module:function. SOURCE is a folder, the official file, org/name@revision on the hub, or demo (tiny weights "
        "to try it); without one the official files are downloaded.",
    ),
    out: Path = typer.Option(
        Path("scores.parquet"),
        metavar="FILE",
        help="The file to write: .parquet, or .csv or .jsonl, which has its .parquet beside it.",
    ),
    report: Path = typer.Option(
        None,
        metavar="FILE.html",
        help="A page to write too: every image with its scores, best, worst, disagreement.",
    ),
    prompts: Path = typer.Option(
        None,
        metavar="FILE",
        help="csv, jsonl or Parquet of file_name and prompt, or .txt with one line per image in order.",
    ),
    prompt: str = typer.Option(None, metavar="TEXT", help="One prompt for all images."),
    image_column: str = typer.Option(
        None, metavar="NAME", help="The column of images, if not image, file_name or path."
    ),
    prompt_column: str = typer.Option(
        None, metavar="NAME", help="The column of prompts, if not prompt, caption or text."
    ),
    device: str = typer.Option("auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps."),
    dtype: str = typer.Option("auto", metavar="NAME", help="fp32 or fp16; auto is fp16 on a GPU, else fp32."),
    batch_size: int = typer.Option(
        None, min=1, metavar="N", help="Images at once, if not what memory allows."
    ),
    workers: int = typer.Option(
        None, min=0, metavar="N", help="Processes that decode images, if not one per core beside a GPU."
    ),
    max_image_megapixels: float = typer.Option(
        MEGAPIXELS, metavar="N", help="Images of more million pixels are not read."
    ),
    image_memory_gb: float = typer.Option(
        MEMORY_GB, metavar="N", help="What images that are decoded at a time may take."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Start over, and replace what is at --out."),
) -> None:
    given = dict(locals())  # a call has its options' names
    from tgo_pipeline.scoring.command.options import Call

    raise typer.Exit(_score(Call(paths=given.pop("path"), **given)))


def _score(call: Call) -> int:
    """Score, show the summary and return the exit code."""
    from tgo_pipeline.executors.progress import configure_logging
    from tgo_pipeline.rendering.terminal import show
    from tgo_pipeline.scoring.command import export, run, summary

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    configure_logging()
    outcome = run.score(call)
    export.export(call)
    scores = summary.summarise(call.table, call.out)
    show(summary.show(scores, outcome), summary.WIDE)
    if call.report is not None:
        from tgo_pipeline.report.scored import build

        build(call, call.report)
    return UNSCORED if scores.failed else 0


score.__doc__ = SCORE
