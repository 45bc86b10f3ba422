"""Load any model: a pipeline, an adapter on one, or a base that preference guides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tgo_pipeline.generators.guidance import load_guided
from tgo_pipeline.generators.location import described_guidance
from tgo_pipeline.generators.pipelines import open_pipeline
from tgo_pipeline.params.checks import Precision

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from tgo_pipeline.generators.networks.held import Held


def load_pipeline(
    model: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    without: Sequence[str] = (),
    precision: Precision = "fp32",
    held: Held | None = None,
    described: Sequence[str] = (),
) -> DiffusionPipeline:
    """Load `model` onto `device`, all networks in `precision`: what `open_pipeline` opens, or a guided pipeline.

    `held` and `described` are for unguided pipelines alone. Raises what `open_pipeline` and `guided_pipeline` raise.
    """
    if guided := described_guidance(model):
        return load_guided(*guided, device, precision)
    return open_pipeline(model, revision, device, without, precision, held, described)
