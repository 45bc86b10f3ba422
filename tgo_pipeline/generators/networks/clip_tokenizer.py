"""CLIP's tokenizer as models whose index names `CLIPTokenizer` were published with it (`clip_prompts`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import normalizers, pre_tokenizers
from transformers import CLIPTokenizer

from tgo_pipeline.generators.networks.clip_prompts import TOKENIZER, words

END = "\x00"
"""Between the words that the library gets: ftfy leaves none in a text."""


class PublishedCLIPTokenizer(CLIPTokenizer):
    """transformers' byte pairs of words that are cleaned and split as the published tokenizer did."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        backend = self.backend_tokenizer
        self._theirs = backend.normalizer, backend.pre_tokenizer
        self._ours = (
            normalizers.Sequence([]),
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(END, "removed"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            ),
        )
        self._split_as(self._ours)

    def _split_as(self, way: Any) -> None:
        self.backend_tokenizer.normalizer, self.backend_tokenizer.pre_tokenizer = way

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The one door of every way to encode: `tokenizer(...)`, `encode`, `tokenize`."""
        return super()._encode_plus(self._published(text), self._published(text_pair), **options)

    def _published(self, text: Any) -> Any:
        """A text, or each of a list. Tokens that were added to the vocabulary, such as the end of a text, stay."""
        if isinstance(text, (list, tuple)):
            return [self._published(each) for each in text]
        if not isinstance(text, str):
            return text
        added = self.added_tokens_encoder
        parts = re.split(f"({'|'.join(map(re.escape, sorted(added, key=len, reverse=True)))})", text)
        return "".join(part if part in added else END.join(words(part)) for part in parts)

    def save_pretrained(self, *arguments: Any, **options: Any) -> Any:
        """Write the library's own files: other programs read them with the library's own class."""
        self._split_as(self._theirs)
        try:
            return super().save_pretrained(*arguments, **options)
        finally:
            self._split_as(self._ours)


# A pipeline that is saved names the classes of its parts, and others can load transformers' own alone.
PublishedCLIPTokenizer.__name__ = TOKENIZER
PublishedCLIPTokenizer.__module__ = CLIPTokenizer.__module__


def load_tokenizers(
    folder: Path, components: Mapping[str, str], without: Iterable[str]
) -> dict[str, CLIPTokenizer]:
    """The tokenizers of a pipeline's folder that its index, part to class, calls `CLIPTokenizer`."""
    names = [name for name, kind in components.items() if kind == TOKENIZER and name not in without]
    return {name: PublishedCLIPTokenizer.from_pretrained(folder / name) for name in names}
