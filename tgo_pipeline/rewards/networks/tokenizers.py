"""Byte-pair tokenizers over CLIP's vocabulary or one of one's own, read from and written to `merges.txt`.

HPSv2 and the CLIP score use OpenAI's tokenizer (ftfy, html-unescaping, lower case); PickScore uses Hugging Face's,
which differs on curly quotes, emoji and `&amp;`. Both number the same merges alike: 256 bytes, 256 bytes at the end
of a word, the merges, start, end.
"""

from __future__ import annotations

import functools
import gzip
import io
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.files.open_clip import open_clip_file

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

MERGES = "merges.txt"
OPEN_CLIP, OPENAI = ("<start_of_text>", "<end_of_text>"), ("<|startoftext|>", "<|endoftext|>")
"""How the two packages spell start and end, which a prompt may hold."""
_HEADER = "#version: 0.2"
_CLIP_MERGES = 49152 - 256 - 2  # the rest of the vocabulary file that open_clip ships is not used


@functools.cache
def _open_clip() -> Any:
    """open_clip's module of tokenizers alone."""
    spec: Any = spec_from_file_location("open_clip_tokenizer", open_clip_file("tokenizer.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip_merges() -> list[str]:
    """CLIP's 48,894 merges, from the vocabulary that open_clip ships."""
    with gzip.open(_open_clip().default_bpe(), "rt", encoding="utf-8") as stream:
        return stream.read().split("\n")[1 : _CLIP_MERGES + 1]


def read_merges(path: Path | None) -> list[str] | None:
    """The merges of a `merges.txt`, in order; None, which stands for CLIP's own, if there is no file."""
    if path is None:
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(line.split()) != 2 for line in merges):
        raise TgoError(f"{path} is not a list of merges: every line must be two symbols.")
    return merges


class OpenClipTokenizer:
    """OpenAI's tokenizer as open_clip has it, over `merges` (None: CLIP's own), padded with 0, cut to the length."""

    def __init__(
        self,
        merges: Sequence[str] | None = None,
        context_length: int = 77,
        ends: tuple[str, str] = OPEN_CLIP,
    ) -> None:
        self.merges = None if merges is None else list(merges)
        self.context_length = context_length
        lines = "\n".join([_HEADER, *(clip_merges() if merges is None else merges)])
        packed = io.BytesIO(gzip.compress(lines.encode(), compresslevel=1))
        self._tokenizer = _open_clip().SimpleTokenizer(packed, context_length=context_length)
        _rename_ends(self._tokenizer, ends)

    @property
    def vocabulary_size(self) -> int:
        """How many token ids there are; the last one ends a prompt."""
        return self._tokenizer.vocab_size

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 (B, context_length); a prompt that is too long keeps its end token."""
        return self._tokenizer(well_formed(prompts))

    def save(self, folder: Path) -> None:
        """Write `merges.txt`, unless the vocabulary is CLIP's own."""
        if self.merges is not None:
            (folder / MERGES).write_text("\n".join([_HEADER, *self.merges]) + "\n", encoding="utf-8")


def _rename_ends(tokenizer: SimpleTokenizer, ends: tuple[str, str]) -> None:
    """Let open_clip's tokenizer know start and end by other names."""
    import regex

    pattern = tokenizer.pat.pattern.replace("|".join(OPEN_CLIP), "|".join(map(regex.escape, ends)))
    tokenizer.pat = regex.compile(pattern, regex.IGNORECASE)
    tokenizer.cache = {end: end for end in ends}
    tokenizer.encoder |= dict(zip(ends, tokenizer.all_special_ids, strict=True))


def well_formed(prompts: Sequence[str]) -> list[str]:
    """Prompts as Unicode that can be encoded: surrogates become the character they spell, lone ones U+FFFD.

    open_clip's tokenizer repairs them in the same way (ftfy); Hugging Face's refuse the whole list.
    """
    return [prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for prompt in prompts]


def clip_vocabulary(merges: Sequence[str] | None = None) -> dict[str, int]:
    """Token to id, in CLIP's order, with Hugging Face's names of the two special tokens."""
    symbols = list(_open_clip().bytes_to_unicode().values())
    merged = ["".join(line.split()) for line in (clip_merges() if merges is None else merges)]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *merged, "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


def hugging_face_tokenizer(merges: Sequence[str] | None = None, context_length: int = 77) -> CLIPTokenizer:
    """Hugging Face's CLIP tokenizer over `merges` (None: CLIP's own)."""
    from transformers import CLIPTokenizer

    pairs: Any = [tuple(line.split()) for line in (clip_merges() if merges is None else merges)]
    return CLIPTokenizer(clip_vocabulary(merges), pairs, model_max_length=context_length, **published_ends())


def published_ends() -> dict[str, Any]:
    """Start and end as CLIP's published files state them: looked for in lower case, so that capitals are found too.

    transformers 5 looks for them in the text as it is, unless it is told.
    """
    from transformers import AddedToken

    start, end = (AddedToken(token, normalized=True, special=True) for token in OPENAI)
    return {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}


def check_vocabulary(name: str, tokens: int, embedded: int) -> None:
    """Raise `TgoError` if the tokenizer can give an id that the network has no embedding for."""
    if tokens > embedded:
        raise TgoError(
            f"reward {name}: its tokenizer has {tokens} tokens, its weights embed {embedded}: the vocabulary files "
            "in the folder belong to another checkpoint."
        )
