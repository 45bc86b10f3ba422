"""The command line `tgo`: score images, run stages, see how far they are, inspect thresholds and results."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import INTERRUPTED, PIPELINE, STAGES, UNSCORED, USER_ERROR, run_command, run_stage
from stages.commands import doctor
from stages.commands import plan as planning
from stages.commands import recipe as recipes
from stages.commands import share as sharing
from tgo_pipeline import __version__
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rendering.terminal import WIDE
from tgo_pipeline.rendering.terminal import show as show_table
from tgo_pipeline.scoring.command.help import SCORE
from tgo_pipeline.storage.workspace import HERE

if TYPE_CHECKING:
    from tgo_pipeline.scoring.command.options import Call

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a text-to-image model with human preference, without paired data.",
)
demo = typer.Typer(no_args_is_help=True, help="The embedded small world.")
app.add_typer(demo, name="demo")
app.add_typer(recipes.app, name="recipe")
sharing.add_to(app)
planning.add_to(app)
doctor.add_to(app)

PARAMS = typer.Option(Path("params.yaml"), "--params", help="The parameter file.")


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


@app.command(help=SCORE)
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
    out: Path = typer.Option(Path("scores.parquet"), metavar="FILE", help="The Parquet file to write."),
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
    overwrite: bool = typer.Option(False, "--overwrite", help="Start over, and replace what is at --out."),
) -> None:
    from tgo_pipeline.scoring.command.options import Call

    call = Call(
        paths=path,
        rewards=rewards,
        out=out,
        prompts=prompts,
        prompt=prompt,
        image_column=image_column,
        prompt_column=prompt_column,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        overwrite=overwrite,
    )
    raise typer.Exit(_score(call))


def _score(call: Call) -> int:
    """Score, show the summary and return the exit code."""
    from tgo_pipeline.executors.progress import configure_logging
    from tgo_pipeline.scoring.command import run, summary
    from tgo_pipeline.storage.shards import Interrupted

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    configure_logging()
    try:
        outcome = run.score(call)
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("tgo score: interrupted; what was finished is kept, make the same call to go on.\n")
        return INTERRUPTED
    scores = summary.summarise(call.out)
    show_table(summary.show(scores, outcome), summary.WIDE)
    return UNSCORED if scores.failed else 0


@app.command()
def run(
    stage: str = typer.Argument(help=f"One of {', '.join(STAGES)}."),
    params: Path = PARAMS,
) -> None:
    """Run one stage: the same work as `dvc repro -s STAGE` and `python -m stages.STAGE`."""
    if stage not in PIPELINE:
        raise TgoError(f"{stage!r} is not a stage: it must be one of {', '.join(STAGES)}.")
    run_stage(stage, params)


@app.command()
def status(params: Path = PARAMS) -> None:
    """Show the shards of every stage that are done, stale or to do, and the samples that failed."""
    from stages.commands.status import table
    from tgo_pipeline.params import load_params

    show_table(table(load_params(params)))


@app.command()
def thresholds(
    path: Path = typer.Argument(HERE.thresholds, help="The thresholds table."),
    explain: bool = typer.Option(False, "--explain", help="Say whether one threshold is enough, and why."),
    reward: str = typer.Option(
        None, metavar="NAME", help="With --explain: the reward to explain, if not the target."
    ),
) -> None:
    """Print the threshold statistics of every reward."""
    if explain or reward is not None:
        from tgo_pipeline.thresholds.adequacy.view import show as show_adequacy

        show_table(show_adequacy(path.with_name(HERE.adequacy.name), reward), width=100)
        return
    from tgo_pipeline.thresholds.view import show

    show_table(show(path))


@app.command()
def evaluation(
    path: Path = typer.Argument(HERE.evaluation, help="The evaluation table."),
    table: str = typer.Option(
        "evaluation", metavar="NAME", help="evaluation (tuned against base), models, matrix or hacking."
    ),
    matrix: bool = typer.Option(False, "--matrix", help="Every model against every other: --table matrix."),
    form: str = typer.Option(
        None, "--format", metavar="NAME", help="md, tex or csv, instead of a table for the terminal."
    ),
) -> None:
    """Print the tuned model against the base model, or another table of the evaluation, with intervals."""
    from tgo_pipeline.evaluation.tables.terminal import WIDTHS, text, view

    name = "matrix" if matrix else table
    if form is not None:
        typer.echo(text(name, path, form), nl=False)
    else:
        show_table(view(name, path), WIDTHS.get(name, WIDE))


@app.command()
def presets() -> None:
    """Print the published values of every objective by model, and the paper or code that each is from."""
    from tgo_pipeline.params.presets import table

    show_table(table())


@app.command()
def sweep(
    strengths: str = typer.Option("0,0.5,1,2,4", metavar="LIST", help="Strengths of guidance, with commas."),
    images_per_prompt: int = typer.Option(4, min=2, metavar="N", help="Images of each test prompt."),
    params: Path = PARAMS,
) -> None:
    """Draw the test prompts with preference guidance of several strengths: rewards, diversity and their plots."""
    from stages.commands.sweep import run
    from tgo_pipeline.evaluation.sweep.view import WIDE, show
    from tgo_pipeline.params import load_params

    run_command("sweep", lambda: run(load_params(params), strengths, images_per_prompt))
    show_table(show(HERE.sweep), WIDE)


@demo.command("train")
def demo_train(
    output: Path = typer.Option(Path("demo-weights"), help="The folder for the new weights."),
    seed: int = typer.Option(0, help="The seed of everything."),
) -> None:
    """Train the small world's two base models and five reward models from nothing (an hour and a half on two cores)."""
    from tgo_pipeline.demo_training.train import train

    train(output, seed=seed)


def main() -> None:
    """Entry point: an error of the input is one line on standard error and exit code 2."""
    try:
        app()
    except TgoError as error:
        sys.stderr.write(f"tgo: {error}\n")
        raise SystemExit(USER_ERROR) from None


if __name__ == "__main__":
    main()
