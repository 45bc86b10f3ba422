"""`tgo score`, images of any source in, one Parquet table of scores out; the official packages, `tgo env`, and the
comparison with them, `tgo verify-rewards`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import UNSCORED
from stages.ending import guarded
from tgo_pipeline.formats.limits import MEGAPIXELS, MEMORY_GB
from tgo_pipeline.scoring.command.help import SCORE

if TYPE_CHECKING:
    from rich.table import Table

    from tgo_pipeline.scoring.command.options import Call
    from tgo_pipeline.scoring.verify import Verdict

DIFFERENT = 1
env = typer.Typer(
    no_args_is_help=True,
    help="Interpreters of their own for rewards whose packages conflict with this one's.",
)


def score(
    path: list[str] = typer.Argument(
        metavar="PATH...",
        show_default=False,
        help="Image or video files, folders, patterns; csv, jsonl or Parquet tables; hf:ORG/NAME@REVISION/SPLIT; "
        "public data sets, as pickapic:WHERE.",
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
    prompts: str = typer.Option(
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
    frames: int = typer.Option(
        None,
        min=1,
        metavar="N",
        help="Frames of a clip that rewards of images score, by default 8: their mean.",
    ),
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
    processes: int = typer.Option(
        1, min=1, metavar="N", help="Processes that score, each on a GPU of its own."
    ),
    executor: str = typer.Option(
        "local",
        metavar="NAME",
        help="local, on this machine; ray, on a cluster; or your own as module:object.",
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


@env.command("list")
@guarded
def list_environments() -> None:
    """Print every environment, what it has, and where it is."""
    from rich.markup import escape
    from rich.table import Table

    from tgo_pipeline.rendering.terminal import show
    from tgo_pipeline.rewards.isolated.environments import describe

    shown = Table()
    for column in ("environment", "has", "is"):
        shown.add_column(column, overflow="fold")
    for row in describe():
        shown.add_row(*map(escape, row))
    show(shown)


@env.command("create")
@guarded
def create_environment(
    name: str = typer.Argument(help="A name of `tgo env list`."),
    again: bool = typer.Option(False, "--again", help="Build it again where it is there."),
    full: bool = typer.Option(
        False, "--full", help="With a torch of its own, also where this environment's can be shared."
    ),
) -> None:
    """Build an environment once, from pinned versions: on this environment's torch where that works."""
    from tgo_pipeline.executors.progress import configure_logging
    from tgo_pipeline.rendering.terminal import safe
    from tgo_pipeline.rewards.isolated.environments import create

    configure_logging()
    typer.echo(f"{name} is in {safe(str(create(name, again=again, full=full)))}.")


def verify_rewards(
    path: list[str] = typer.Argument(metavar="IMAGES...", show_default=False, help="As for `tgo score`."),
    rewards: list[str] = typer.Option(
        ["hpsv2.1", "imagereward"],
        metavar="REWARD[=SOURCE],...",
        help="hpsv2.1, hpsv2.0, imagereward, hpsv3. SOURCE is a folder or the official file; without one the official "
        "files are downloaded.",
    ),
    prompts: str = typer.Option(
        None,
        metavar="FILE",
        help="csv, jsonl or Parquet of file_name and prompt, or .txt with one line per image in order.",
    ),
    prompt: str = typer.Option(None, metavar="TEXT", help="One prompt for all images."),
    sample: int = typer.Option(50, min=1, metavar="N", help="How many images to score, evenly spread."),
    device: str = typer.Option("auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps."),
    dtype: str = typer.Option(
        "fp32", metavar="NAME", help="fp32 or fp16 here; the packages decide for themselves."
    ),
) -> None:
    """Score a sample with the built-in rewards and with the official packages, and say whether they agree.

    The packages run in the environment of `tgo env create official-rewards`, that of hpsv3 in `official-hpsv3`. Exit
    code 1: they do not agree.
    """
    from tgo_pipeline.executors.progress import configure_logging
    from tgo_pipeline.rendering.terminal import show
    from tgo_pipeline.scoring.command.options import Call
    from tgo_pipeline.scoring.verify import verify

    configure_logging()
    call = Call(path, rewards, Path(), prompts, prompt, device=device, dtype=dtype)
    verdicts = verify(call, sample)
    show(_table(verdicts))
    for verdict in verdicts:
        typer.echo(verdict.sentence)
    if not all(verdict.agree for verdict in verdicts):
        raise typer.Exit(DIFFERENT)


def _table(verdicts: list[Verdict]) -> Table:
    from rich.table import Table

    shown = Table()
    shown.add_column("reward")
    for name in (
        "images",
        "not scored",
        "greatest difference",
        "mean difference",
        "allowed",
        "ranks swapped",
    ):
        shown.add_column(name, justify="right")
    for each in verdicts:
        shown.add_row(
            each.reward,
            str(each.images),
            str(each.failed),
            f"{each.greatest:.2g}",
            f"{each.mean:.2g}",
            f"{each.allowed:.2g}",
            f"{each.swapped} of {each.pairs} pairs",
        )
    return shown
