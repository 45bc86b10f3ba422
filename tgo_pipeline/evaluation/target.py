"""The target score of images that were drawn for an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgo_pipeline.params import TARGET_COMBINATIONS, Params
from tgo_pipeline.storage.workspace import Workspace

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
    def read(cls, params: Params, workspace: Workspace) -> Target:
        """The target of the parameters with the scores and thresholds of the workspace that it was fitted on."""
        from tgo_pipeline.thresholds.table import read_thresholds, taus
        from tgo_pipeline.thresholds.targets import read_scores, reference_folder

        reference = read_scores(reference_folder(params.threshold, workspace.scores), params.target_rewards)
        fitted = taus(read_thresholds(workspace.thresholds))
        return cls(params.target.reward, params.target_rewards, reference, fitted)

    def add_to(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` with the target score as a column; a target that is a single reward is there already."""
        import polars as pl

        from tgo_pipeline.thresholds.targets import target_scores

        if self.name not in TARGET_COMBINATIONS:
            return frame
        values = target_scores(frame, self.name, self.rewards, self.reference, self.taus)
        return frame.with_columns(pl.Series(self.name, values))
