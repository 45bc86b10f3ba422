"""Stop a training whose negative side runs away: the loss rewards it without end, and the model breaks."""

from __future__ import annotations

from collections.abc import Mapping

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import GuardParams

POLICY, REFERENCE = "policy_error_negative", "reference_error_negative"


class Guard:
    """Watches the ratio of policy to reference error on negative samples, as a mean over the last updates."""

    def __init__(self, params: GuardParams) -> None:
        self._params = params
        self._ratios: list[float] = []

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a step. Raises `TgoError` if the mean of the last `patience` ratios is too high."""
        limit = self._params.negative_error
        if limit is None or POLICY not in metrics or not metrics.get(REFERENCE):
            return
        self._ratios = [*self._ratios, metrics[POLICY] / metrics[REFERENCE]][-self._params.patience :]
        mean = sum(self._ratios) / len(self._ratios)
        if len(self._ratios) == self._params.patience and mean > limit:
            raise TgoError(
                f"after step {step} the model's error on negative samples is {mean:.2f} times the reference's, as a "
                f"mean over {self._params.patience} updates (fine_tune.guard.negative_error is {limit:g}): it unlearns "
                "instead of improving, and the last checkpoint is kept. Lower fine_tune.learning_rate, raise "
                "fine_tune.temperature (a softer tie lets the negative side push less), or set the guard to null."
            )

    def state(self) -> list[float]:
        """What it remembers, for a checkpoint."""
        return list(self._ratios)

    def load_state(self, ratios: list[float]) -> None:
        """Go on from what `state` gave."""
        self._ratios = list(ratios)
