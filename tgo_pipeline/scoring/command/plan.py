"""Which parts a call has, and which rewards each of them lacks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from tgo_pipeline.errors import TgoError
from tgo_pipeline.images import ImageSource
from tgo_pipeline.plugins.kinds import REWARD
from tgo_pipeline.rewards import REWARDS, load_reward
from tgo_pipeline.rewards.specs import Spec, canonical
from tgo_pipeline.scoring.command.parts import Part, Unprompted, listed_parts, streamed_part
from tgo_pipeline.scoring.command.prompts import PromptLookup
from tgo_pipeline.scoring.command.results import Results

log = logging.getLogger("tgo")


class CallPlan:
    """The parts of all sources. `columns` says which reward fills each column, `wanted` the columns' fingerprints.

    Raises `TgoError` if images lack a prompt that a reward needs; of a stream that shows only when it is read.
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        prompts: PromptLookup,
        results: Results,
        columns: Mapping[str, Spec],
        wanted: Mapping[str, str],
    ) -> None:
        self._sources, self._prompts, self._results = sources, prompts, results
        self._columns, self._wanted = columns, wanted
        self._listed: dict[int, list[Part]] = {}
        self.streaming = False
        """Whether there is more to do than can be known before a stream is read."""
        self._list()
        results.expect(set(self._fingerprints()))

    def _fingerprints(self) -> Iterator[str]:
        """Those of all parts; of a stream those of parts that are scored."""
        for place, source in enumerate(self._sources):
            if source.count is None:
                size = self._results.part_rows
                parts = (
                    streamed_part(source, start, size, self._prompts) for start in itertools.count(0, size)
                )
                yield from itertools.takewhile(self._results.has, (part.fingerprint for part in parts))
            else:
                yield from (part.fingerprint for part in self._listed[place])

    def _list(self) -> None:
        """Cut every source but streams into parts."""
        unprompted, first = Unprompted(), 0
        for place, source in enumerate(self._sources):
            if source.count is not None:
                size = self._results.part_rows
                self._listed[place] = listed_parts(
                    source, source.count, self._prompts, size, first, unprompted
                )
                first += source.count
        if unprompted.count > unprompted.left_open or unprompted.count == first > 0:
            self.check_unneeded(f"{unprompted.count:,} of {first:,} images have", unprompted.examples)
        if len(self._listed) == len(self._sources):
            self._prompts.finish(first)

    @cached_property
    def needing(self) -> list[str]:
        """The columns of rewards that look at the prompt."""
        return [name for name, spec in self._columns.items() if _needs_prompt(spec)]

    def check_unneeded(self, which: str, examples: Sequence[str]) -> None:
        """Raise `TgoError`, with the images that have no prompt, unless no reward looks at it."""
        if self.needing:
            rewards = dict.fromkeys(self._columns[name].column for name in self.needing)
            raise TgoError(
                f"{which} no prompt, which {', '.join(rewards)} needs: {', '.join(examples)}; "
                f"{self._prompts.advice}."
            )

    def parts(self, *, opening: bool = False) -> Iterator[Part]:
        """Every part in order. Of a stream only those that are scored already, unless it may be opened."""
        for place, source in enumerate(self._sources):
            if source.count is None:
                yield from self._streamed(source, opening)
            else:
                yield from self._listed[place]

    def _streamed(self, source: ImageSource, opening: bool) -> Iterator[Part]:
        size = self._results.part_rows
        for start in itertools.count(0, size):
            part = streamed_part(source, start, size, self._prompts)
            found = self._results.find(part, self._wanted)
            if found is None and not opening:
                self.streaming = True
                return
            if found is None and source.at_end(start):
                return
            yield part
            if found.last if found else source.at_end(start + size):
                return

    def _missing(self, part: Part) -> list[str]:
        """The rewards that a part was not scored with yet."""
        found = self._results.find(part, self._wanted)
        return [name for name in self._wanted if found is None or name not in found.rewards]

    def survey(self) -> tuple[list[str], int | None]:
        """The rewards that any part lacks, and how many images lack one (None with a stream); logs both."""
        lacking = [(part, self._missing(part)) for part in self.parts()]
        waiting = [(part, missing) for part, missing in lacking if missing]
        count = sum(self._results.lacking(part, missing, self._wanted) for part, missing in waiting)
        rest = ", and a stream to its end" if self.streaming else ""
        log.info(
            "parts: %d done, %d to do (%s)%s",
            *(len(lacking) - len(waiting), len(waiting), images(count), rest),
        )
        wanting = {name for _, missing in lacking for name in missing}
        if self.streaming:
            return list(self._wanted), None
        return [name for name in self._wanted if name in wanting], count


def _needs_prompt(spec: Spec) -> bool:
    """Whether a reward looks at the prompt; loads only rewards of other authors to know it."""
    name = canonical(spec.reward)
    if name not in REWARDS:
        return load_reward(spec).needs_prompt
    return REWARD.find(name).needs_prompt


def images(count: int) -> str:
    """A number of images in words."""
    return f"{count:,} image{'s' * (count != 1)}"
