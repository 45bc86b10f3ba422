"""Stop a training whose errors run away: a loss may reward it without end, and the model breaks."""

from __future__ import annotations

from collections.abc import Mapping

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import GuardParams

NEGATIVE, POSITIVE = "negative", "positive"


class Guard:
    """Watches the policy's error over the reference's, as a mean over the last updates.

    On negative samples; for an objective that binds the difference of the sides alone, whose errors may both rise, on
    both of them together and with a limit of its own.
    """

    def __init__(self, params: GuardParams, *, both_sides: bool = False) -> None:
        self._patience = params.patience
        self._sides = (NEGATIVE, POSITIVE) if both_sides else (NEGATIVE,)
        self._key = "both_errors" if both_sides else "negative_error"
        self._limit: float | None = getattr(params, self._key)
        self._ratios: list[float] = []

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a step. Raises `TgoError` if the mean of the last `patience` ratios is too high."""
        policy, reference = (
            [metrics.get(f"{model}_error_{side}") for side in self._sides]
            for model in ("policy", "reference")
        )
        limit = self._limit
        if limit is None or None in policy or None in reference or not sum(reference):  # type: ignore[arg-type]
            return
        ratio = sum(policy) / sum(reference)  # type: ignore[arg-type]
        self._ratios = [*self._ratios, ratio][-self._patience :]
        mean = sum(self._ratios) / len(self._ratios)
        if len(self._ratios) == self._patience and mean > limit:
            where = "both sides" if len(self._sides) == 2 else "negative samples"
            raise TgoError(
                f"after step {step} the model's error on {where} is {mean:.2f} times the reference's, as a mean over "
                f"{self._patience} updates (fine_tune.guard.{self._key} is {limit:g}): it unlearns instead of "
                "improving, and the last checkpoint is kept. Lower fine_tune.learning_rate, raise "
                "fine_tune.temperature (a softer tie lets the negative side push less), or set the guard to null."
            )

    def state(self) -> list[float]:
        """What it remembers, for a checkpoint."""
        return list(self._ratios)

    def load_state(self, ratios: list[float]) -> None:
        """Go on from what `state` gave."""
        self._ratios = list(ratios)
