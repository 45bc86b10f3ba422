"""Which group every sample belongs to, as whole numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.baselines import NOWHERE

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from tgo_pipeline.params import ThresholdParams
    from tgo_pipeline.storage.workspace import Workspace


class Membership:
    """The groups of `baseline: group`: their names in order, and the number of each sample's."""

    def __init__(self, params: ThresholdParams, workspace: Workspace) -> None:
        """Look the groups of `params.group` up, in the prompts or (model) in the generations."""
        self.level = params.group or ""
        if self.level == "model":
            self.key, self._where, known = "sample_id", workspace.generations, _models(workspace.generations)
        else:
            self.key, self._where = "prompt_id", workspace.prompts
            known = _prompts(workspace.prompts, self.level)
        groups = known[self.level]
        self.names: list[str] = groups.drop_nulls().unique().sort().to_list()
        self._codes = known.select(self.key).with_columns(code=groups.rank("dense") - 1)
        self._asked = self._found = 0

    def codes(self, table: pa.Table) -> np.ndarray:
        """The number of each row's group (N,), `NOWHERE` for none."""
        import polars as pl

        keys = pl.DataFrame(table.select([self.key]))
        found = keys.join(self._codes, on=self.key, how="left", maintain_order="left")["code"]
        self._asked, self._found = self._asked + len(found), self._found + len(found) - found.null_count()
        return found.cast(pl.Int32).fill_null(NOWHERE).to_numpy()

    def require_found(self) -> None:
        """Raise `TgoError` if none of the rows belongs to a group."""
        if not self._found:
            raise TgoError(
                f"threshold.group is {self.level}, but {self._where} names the {self.level} of none of the "
                f"{self._asked} samples: choose another group, or baseline: global."
            )


def _prompts(path: Path, group: str) -> pl.DataFrame:
    import polars as pl

    from tgo_pipeline.storage.tables import PROMPTS, read_table

    table = pl.DataFrame(read_table(path, PROMPTS, ["prompt_id", group]).select(["prompt_id", group]))
    return table.unique("prompt_id", keep="first", maintain_order=True)


def _models(folder: Path) -> pl.DataFrame:
    from tgo_pipeline.storage.tables import read_folder

    return read_folder(folder, ["sample_id", "model"]).unique("sample_id", keep="first", maintain_order=True)


def groups_fingerprint(params: ThresholdParams, prompts: Path) -> str | None:
    """What the groups depend on; None where there are none. Scores follow their generations already."""
    from tgo_pipeline.storage.fingerprints import content_fingerprint
    from tgo_pipeline.storage.tables import read_metadata

    if params.group not in ("source", "category"):
        return None
    if not prompts.is_file():
        raise TgoError(f"{prompts} does not exist: run the prompts stage first.")
    return read_metadata(prompts).get("fingerprint") or content_fingerprint(prompts)
