"""An image and a text as token ids, as Qwen2-VL's tokenizer and chat template make them.

    system message, begin of the turn, <|vision_start|>   `head`, the same for all
    one token for each square of 28 pixels                the image or clip
    <|vision_end|>, instruction, prompt, reward tokens    `tail(prompt)`

What follows the last reward token is left out of the network: attention is causal, so it cannot change a score.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.rewards.files.instruction import Instruction
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.tokenizers import well_formed

CONFIG = "base/config.json"
TOKENIZER = "base/tokenizer.json"
TOKENIZER_CONFIG = "base/tokenizer_config.json"
TEMPLATE = "base/chat_template.json"
_TEXT = "\ue000"
"""Stands for the text while a chat template is rendered; a private character, which no template holds."""


class Chat:
    """One turn of a user: an image or a video, then the instruction with the prompt in it."""

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        template: str,
        instruction: Instruction,
        kind: Literal["image", "video"],
        reward_tokens: Sequence[str],
    ) -> None:
        from tokenizers import AddedToken

        self.name = name
        self.template = template
        self.instruction = instruction
        self.reward_tokens = tuple(reward_tokens)
        self._pad = f"<|{kind}_pad|>"
        self._tokenizer = tokenizer
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in reward_tokens])
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.vocabulary_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        before, self._end = _rendered(name, template, kind, self._pad)
        self._head, self._begin = before.split(self._pad)
        self.head = self._encode(self._head)
        self._reward_ids: dict[str, int] = {token: tokenizer.token_to_id(token) for token in reward_tokens}
        for token in reward_tokens:
            if (instruction.before + instruction.after).count(token) != 1:
                raise TgoError(f"reward {name}: its instruction must hold {token} once.")

    @classmethod
    def read(
        cls,
        files: Files,
        kind: Literal["image", "video"],
        reward_tokens: Sequence[str],
    ) -> Chat:
        """From the base model's files and the instruction. Raises `TgoError` if one of them is missing or damaged."""
        from tokenizers import Tokenizer

        path = files.path(TOKENIZER)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises `Exception` itself
            raise TgoError(f"{path} is no tokenizer ({first_line(error)}): copy it again.") from error
        return cls(files.name, tokenizer, _template(files), files.instruction(), kind, reward_tokens)

    def text(self, prompt: str) -> str:
        """All that is read, with one placeholder for the image."""
        written = self.instruction.before + prompt + self.instruction.after
        return f"{self._head}{self._pad}{self._begin}{written}{self._end}"

    def tail(self, prompt: str) -> tuple[int, ...]:
        """Token ids of what follows the image, to the end of the text."""
        (prompt,) = well_formed([prompt])
        return self._encode(
            self._begin + self.instruction.before + prompt + self.instruction.after + self._end
        )

    def refusal(self, prompt: str) -> str | None:
        """Why a prompt cannot be read: a token in it that stands for an image or a score; else None."""
        return refusal(prompt, (*self.reward_tokens, "<|image_pad|>", "<|video_pad|>"))

    def places(self, tail: Sequence[int]) -> list[int]:
        """Where in a tail the reward tokens are, in their order."""
        return [tail.index(token) for token in self._reward_ids.values()]

    def save(self, folder: Path) -> None:
        """Write the tokenizer, the template and the instruction as `read` and `read_instruction` take them."""
        (folder / TOKENIZER).parent.mkdir(parents=True, exist_ok=True)
        written = json.loads(self._tokenizer.to_str())
        written["added_tokens"] = [
            token for token in written["added_tokens"] if token["content"] not in self.reward_tokens
        ]
        (folder / TOKENIZER).write_text(json.dumps(written), encoding="utf-8")
        (folder / TOKENIZER_CONFIG).write_text(json.dumps({"chat_template": self.template}), encoding="utf-8")
        text = self.instruction.before + "{text_prompt}" + self.instruction.after
        (folder / "instruction.txt").write_bytes(text.encode())

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def refusal(prompt: str, tokens: Iterable[str]) -> str | None:
    """Why a prompt with one of these tokens in it has no score; None for one without."""
    found = next((token for token in tokens if token in prompt), None)
    return (
        found and f"got a prompt that holds {found}, which the model reads as a sign of its own: leave it out"
    )


def _template(files: Files) -> str:
    """The chat template, which Qwen2-VL's processor takes from its own file if there is one."""
    own = files.optional(TEMPLATE)
    path = own or files.path(TOKENIZER_CONFIG)
    template = read_json(path).get("chat_template")
    if not isinstance(template, str):
        raise TgoError(f"{path} has no chat_template: copy the base model's file again.")
    return template


def _rendered(name: str, template: str, kind: str, pad: str) -> tuple[str, str]:
    """A turn with an image and a text, before and behind the text. Raises `TgoError` for another kind of template."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    content = [{"type": kind, kind: ""}, {"type": "text", "text": _TEXT}]
    messages = [{"role": "user", "content": content}]
    try:
        rendered = environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError) as error:
        raise TgoError(f"reward {name}: its chat template cannot be used ({first_line(error)}).") from error
    before, *after = rendered.split(_TEXT)
    if len(after) != 1 or before.count(pad) != 1:
        raise TgoError(
            f"reward {name}: its chat template has no place for one {kind} and one text behind it."
        )
    return before, after[0]
