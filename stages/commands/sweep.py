"""What `tgo sweep` does: guide models/tuned, or what generate.guidance names, with several strengths. No DVC stage."""

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage.workspace import HERE


def run(params: Params, strengths: str, images_per_prompt: int) -> None:
    """Draw, score and compare; `strengths` are numbers with commas between them."""
    from tgo_pipeline.evaluation.sweep.sweep import sweep

    sweep(params, HERE, _numbers(strengths), images_per_prompt=images_per_prompt)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise TgoError(
            f"strengths is {text!r}: it must be numbers with commas between them ({error})."
        ) from error
