"""What the samples of a data set are compared with: their own prompt or group, the proxy set's, or the global tau."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.runtime import share_of_cores
from tgo_pipeline.params import TARGET_COMBINATIONS, Params
from tgo_pipeline.thresholds.baselines import NOWHERE, least_size, own_values, per_group
from tgo_pipeline.thresholds.groups import Membership
from tgo_pipeline.thresholds.streams.blocks import blocks, numbers
from tgo_pipeline.thresholds.streams.by_prompt import Rows, RowScores, ends_of
from tgo_pipeline.thresholds.streams.groups import Groups
from tgo_pipeline.thresholds.targets import NEED_UNITS, ScoreUnit, combined, finite, measures

if TYPE_CHECKING:
    from tgo_pipeline.params import ThresholdParams
    from tgo_pipeline.storage.workspace import Workspace

log = logging.getLogger("tgo")
TARGET, PLACE = "target", "place"
Target = Callable[[pa.Table], np.ndarray]
"""From a block of scores to the target scores of its rows (N,), NaN for none."""


def target_of(params: Params, reference: Sequence[Path], taus: Mapping[str, float]) -> Target:
    """How target scores come from those of the rewards; combinations are measured against the `reference` shards.

    With `mean_rank` the rewards' scores of the reference are in memory, 4 bytes each.
    """
    kind, rewards = params.target.reward, params.target_rewards
    if kind not in TARGET_COMBINATIONS:
        return lambda table: numbers(table, kind)
    units, kept = {name: ScoreUnit(name) for name in rewards}, {name: [] for name in rewards}
    for table in blocks(reference, rewards) if kind in NEED_UNITS else ():
        for name, unit in units.items():
            values = finite(numbers(table, name))
            unit.add(values)
            if kind == "mean_rank":
                kept[name].append(values.astype(np.float32))
    measured = measures(kind, units, lambda name: np.sort(np.concatenate(kept.pop(name))), taus)
    return lambda table: combined({name: numbers(table, name) for name in rewards}, measured)


class Own:
    """What the rows of score shards are compared with by `rule`, where that is not the global tau alone."""

    def __init__(
        self,
        rule: ThresholdParams,
        target: Target,
        params: Params,
        workspace: Workspace,
        files: Sequence[Path],
        reference: Sequence[Path],
        room: Path,
    ) -> None:
        """Baselines are made of the `reference` shards: `files`, or a proxy set. `room` is an empty folder."""
        self._rule, self._target, self._params, self._room = rule, target, params, room
        self._is_proxy = list(files) != list(reference)
        self.values: np.ndarray | None = None
        """Of all rows (N,), as `own_values` has them, in memory: 8 bytes a row. None with `baseline: global`."""
        if rule.baseline == "group":
            self.values = self._of_groups(files, reference, workspace)
        elif rule.baseline != "global":
            self.values = self._of_prompts(files, reference)

    def _of_groups(
        self, files: Sequence[Path], reference: Sequence[Path], workspace: Workspace
    ) -> np.ndarray:
        scores, owners = self._by_group(reference, workspace)
        known = ~np.isnan(scores) & (owners != NOWHERE)
        groups, order = Groups.ordered(scores[known], owners[known])
        taus = np.full(int(owners.max(initial=0)) + 2, np.nan)  # the last stays so, for NOWHERE
        enough = groups.sizes >= least_size(self._rule, is_own=not self._is_proxy)
        taus[owners[known][order[groups.starts]]] = np.where(enough, per_group(groups, self._rule), np.nan)
        return taus[self._by_group(files, workspace)[1] if self._is_proxy else owners]

    def _by_group(self, files: Sequence[Path], workspace: Workspace) -> tuple[np.ndarray, np.ndarray]:
        """Target scores and numbers of groups of all rows (N,)."""
        membership = Membership(self._rule, workspace)
        columns = [membership.key, *self._params.target_rewards]
        found = [(self._target(table), membership.codes(table)) for table in blocks(files, columns)]
        membership.require_found()
        scores, owners = (np.concatenate(each) for each in zip(*found, strict=True))
        return scores, owners

    def _of_prompts(self, files: Sequence[Path], reference: Sequence[Path]) -> np.ndarray:
        ends = ends_of([*files, *reference] if self._is_proxy else files)
        own = self._by_prompt(files, ends, "own")
        proxy = self._by_prompt(reference, ends, "proxy") if self._is_proxy else None
        self._scores = own if proxy is None else proxy
        values = np.full(own.count, np.nan)
        for rows in own.partitions():
            scores, owners, places = _known(own, rows, own.ids(rows))
            among = None
            if proxy is not None:
                among = _known(proxy, proxy.partitions()[rows.partition], own.ids(rows))[:2]
            values[places] = own_values(scores, owners, self._rule, among)
        return values

    def _by_prompt(self, files: Sequence[Path], ends: pa.Array, name: str) -> RowScores:
        folder, seen = self._room / name, 0
        folder.mkdir()

        def keep(table: pa.Table) -> dict[str, np.ndarray]:
            nonlocal seen
            seen += table.num_rows
            return {TARGET: self._target(table), PLACE: np.arange(seen - table.num_rows, seen)}

        threads = share_of_cores(self._params.runtime)
        return RowScores.read(files, self._params.target_rewards, keep, folder, threads, ends)

    @cached_property
    def ordered(self) -> np.ndarray:
        """All target scores of the reference, in order, in memory: 8 bytes each."""
        parts = [self._scores.numbers(rows, TARGET) for rows in self._scores.partitions()]
        return np.sort(finite(np.concatenate(parts)))

    def require_some(self, missing: int, count: int) -> None:
        """Raise `TgoError` where no sample has a baseline of its own, and say how many of `count` have none."""
        what = "group" if self._rule.baseline == "group" else "prompt"
        if missing == count:
            where = "the proxy set" if self._is_proxy else "the scores"
            raise TgoError(
                f"threshold.baseline is {self._rule.baseline}, but no {what} of the {count} samples has enough scores "
                f"in {where} for a baseline of its own: raise generate.images_per_prompt, or use baseline: global."
            )
        if missing:
            log.warning(
                "%d of %d samples are compared with the global tau: they have no %s with enough scores for a baseline",
                missing,
                count,
                what,
            )


def _known(scores: RowScores, rows: Rows, ids: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The finite target scores of rows, the places of their prompts in `ids` (`NOWHERE`: none), and their own."""
    owners = pc.call_function("index_in", [scores.ids(rows)], pc.SetLookupOptions(ids))
    owners = owners.fill_null(NOWHERE).to_numpy().astype(np.int64)
    values = scores.numbers(rows, TARGET)
    known = np.isfinite(values)
    return values[known], np.repeat(owners, scores.sizes(rows))[known], scores.numbers(rows, PLACE)[known]
