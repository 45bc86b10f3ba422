"""The target score of images that were drawn for an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.params import TARGET_COMBINATIONS, Params

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Target:
    """The target score with what it is measured against: the scores that tau came from."""

    name: str
    rewards: list[str]
    reference: pl.DataFrame
    taus: Mapping[str, float]

    @classmethod
    def read(cls, params: Params, *, scores: Path, thresholds: Path) -> Target:
        from tgo_pipeline.thresholds.table import read_thresholds, taus
        from tgo_pipeline.thresholds.targets import read_scores, reference_folder

        reference = read_scores(reference_folder(params.threshold, scores), params.target_rewards)
        return cls(params.target.reward, params.target_rewards, reference, taus(read_thresholds(thresholds)))

    def add_to(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` with the target score as a column; a target that is a single reward is there already."""
        import polars as pl

        from tgo_pipeline.thresholds.targets import target_scores

        if self.name not in TARGET_COMBINATIONS:
            return frame
        values = target_scores(frame, self.name, self.rewards, self.reference, self.taus)
        return frame.with_columns(pl.Series(self.name, values))
