"""What importing the package costs, and what it must not need."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
sys.modules["polars"] = sys.modules["pyarrow"] = None  # a bare GPU machine
import fine_tune.data.labels, fine_tune.objectives, fine_tune.policies, fine_tune.stage, stages.fine_tune
heavy = {"torch", "diffusers", "transformers", "dvclive"} & set(sys.modules)
assert not heavy, heavy
import fine_tune.data, fine_tune.training.log, fine_tune.training.loop, fine_tune.training.validation
"""


def test_importing_is_light_and_needs_no_table_library() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
