"""The table of devices."""

from __future__ import annotations

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.planning.gpus import UTILISATION, device


def test_hours_follow_from_peak_and_utilisation() -> None:
    gpu = device("h100")
    assert gpu.hours(989e12 * 3600 * UTILISATION["half"], "bf16") == pytest.approx(1)
    assert gpu.hours(67e12 * 3600 * UTILISATION["single"], "fp32") == pytest.approx(1)


def test_the_processor_is_measured() -> None:
    here = device("cpu")
    assert here.half_tflops == here.single_tflops > 0


def test_an_unknown_gpu_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(TgoError, match=r"'A100'.*Did you mean .*A100-80.*RTX4090"):
        device("A100")
