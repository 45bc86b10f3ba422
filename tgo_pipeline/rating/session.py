"""What the page asks and is told: the next question of a rater, answers, and undo."""

from __future__ import annotations

import datetime
import secrets
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.ratings_file import VALUES, Judgement
from tgo_pipeline.rating import order, summary
from tgo_pipeline.rating.gallery import RatableImage
from tgo_pipeline.rating.store import RatingStore
from tgo_pipeline.seeds import derive_seed

KINDS = {"stars": "rating", "thumbs": "thumb", "pairs": "pair"}
"""What `--ask` asks for, and the kind of answer that it is in the ratings file."""
LONGEST_NAME = 60  # of a rater or of an answer's id: fits into a line of the summary
MOST_SECONDS = 24 * 3600
"""What an answer may have taken: of a page that was left open longer, the time says nothing."""
AHEAD = 2
"""Questions whose images the page fetches before they are asked: one, and one more where somebody answers quickly."""


@dataclass(frozen=True)
class RatingSession:
    """One way of asking about one list of images, for all raters; called from the threads of the server.

    `urgency` is what sorts the questions (lowest first); None for `random` and `fewest`.
    """

    images: Sequence[RatableImage]
    store: RatingStore
    ask: str
    fewest_first: bool
    seed: int
    urgency: np.ndarray | None = None

    @cached_property
    def questions(self) -> list[order.Question]:
        """All that can be asked, in a random order that is the same for all raters, so that they meet."""
        found = order.pairs(self.images) if self.ask == "pairs" else order.singles(self.images)
        chance = np.random.default_rng(derive_seed(self.seed, self.ask, "rate questions"))
        return [found[place] for place in chance.permutation(len(found))]

    @property
    def kind(self) -> str:
        """Of the answers, as the ratings file calls it."""
        return KINDS[self.ask]

    @property
    def size(self) -> int:
        """How many images there are."""
        return len(self.images)

    def next(self, rater: Any) -> dict[str, Any]:
        """The question that a rater has not answered, those that follow, and how far everybody is."""
        rater = checked_name(rater)
        answers = [each for each in self.store.answers if each.kind == self.kind]
        mine = {frozenset(each.images) for each in answers if each.rater == rater}
        open_ = (
            question
            for question in map(self.questions.__getitem__, self._ranked(answers))
            if frozenset(self.images[place].name for place in question) not in mine
        )
        upcoming = [
            self._described(question, rater) for question, _ in zip(open_, range(1 + AHEAD), strict=False)
        ]
        return {
            "ask": self.ask,
            "question": upcoming[0] if upcoming else None,
            "ahead": [image for question in upcoming[1:] for image in question["images"]],
            "done": len(mine & self._subjects),
            "of": len(self.questions),
        }

    def answer(self, rater: Any, question: Any, value: Any, name: Any, seconds: Any) -> dict[str, Any]:
        """Keep an answer and go on. `name` is the page's own id of it: sent twice, it counts once.

        Raises `TgoError` for what was not asked, a value that cannot be, or a disk that refuses it.
        """
        if value is not None and (isinstance(value, bool) or value not in VALUES[self.kind]):
            raise TgoError(f"{value!r:.80} is no answer to {self.ask}.")
        if not (isinstance(name, str) and 8 <= len(name) <= LONGEST_NAME and name.isalnum()):
            raise TgoError("the answer has no id: load the page again.")
        took = (
            round(float(seconds), 2)
            if isinstance(seconds, int | float) and 0 <= seconds < MOST_SECONDS
            else None
        )
        images = tuple(self.images[place].name for place in self._asked(question))
        self.store.add(Judgement(name, self.kind, images, value, checked_name(rater), took, _now()))
        return self.next(rater)

    def undo(self, rater: Any) -> dict[str, Any]:
        """Take back the last answer of a rater and ask that question again."""
        taken = self.store.undo(checked_name(rater), self.kind, self._subjects, secrets.token_hex(8), _now())
        found = self.next(rater)
        places = [self._places.get(name) for name in taken.images] if taken else []
        if taken and None not in places:
            again = self._shown(tuple(place for place in places if place is not None))
            found |= {"question": again, "undone": taken.value}
        return found | {"nothing": taken is None}

    def summary(self) -> dict[str, Any]:
        """Counts, time and agreement of all raters."""
        return summary.described(self.store.answers, self.kind)

    def raters(self) -> list[str]:
        """Everybody who has answered, by name."""
        return sorted({each.rater for each in self.store.answers})

    @cached_property
    def _places(self) -> dict[str, int]:
        return {image.name: place for place, image in enumerate(self.images)}

    @cached_property
    def _subjects(self) -> set[frozenset[str]]:
        return {frozenset(self.images[place].name for place in question) for question in self.questions}

    def _ranked(self, answers: Sequence[Judgement]) -> np.ndarray:
        if not self.fewest_first:
            return order.ranked(self.questions, self.urgency)
        counts = Counter(name for each in answers if each.value is not None for name in each.images)
        per_image = np.array([counts[image.name] for image in self.images])
        return order.ranked(self.questions, order.counted(self.questions, per_image))

    def _described(self, question: order.Question, rater: str) -> dict[str, Any]:
        return self._shown(order.first_left(question, self.images, rater, self.seed))

    def _shown(self, question: order.Question) -> dict[str, Any]:
        return {
            "id": "-".join(map(str, question)),
            "prompt": self.images[question[0]].prompt,
            "images": [f"{'clip' if self.images[place].clip else 'image'}/{place}" for place in question],
        }

    def _asked(self, question: Any) -> order.Question:
        """The places of a question that the page names."""
        parts = question.split("-") if isinstance(question, str) and len(question) < LONGEST_NAME else []
        places = tuple(int(part) for part in parts if part.isdecimal())
        if all(place < len(self.images) for place in places):
            names = frozenset(self.images[place].name for place in places)
            if len(places) == len(parts) == len(names) and names in self._subjects:
                return places
        raise TgoError(f"{question!r:.80} was not asked: load the page again.")


def checked_name(rater: Any) -> str:
    """The name of a rater as it is kept. Raises `TgoError` for none, a long one, or one that cannot be shown."""
    name = unicodedata.normalize("NFC", " ".join(rater.split())) if isinstance(rater, str) else ""
    if not name or len(name) > LONGEST_NAME or any(unicodedata.category(letter)[0] == "C" for letter in name):
        raise TgoError(f"a rater's name has 1 to {LONGEST_NAME} letters: give another one.")
    return name


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
