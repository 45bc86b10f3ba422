"""VideoReward: visual quality, motion quality and text alignment of a clip, by Qwen2-VL 2B (arXiv:2501.13918).

    reward = load_reward("videoreward", "weights/VideoReward")
    reward.score(["walk.mp4", Clip(frames, rate=16)], ["a man walks", "a fox"])     # the sum of the three, (N,)
    reward.score_parts(clips, prompts)                                              # that, .VQ, .MQ and .TA

Folder: `model_config.json` and `checkpoint-N/model.pth` as released; `base/` with `config.json`, `tokenizer.json` and
`tokenizer_config.json` of the base model; `prompt_template.py` of VideoAlign, whose instruction does not ship
(`instruction.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2VLConfig

from tgo_pipeline.devices import cores, is_out_of_memory, to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.rewards import specs
from tgo_pipeline.rewards.engine.decode import UnreadableImage
from tgo_pipeline.rewards.engine.scorer import Scores, pair
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.precision import Precision
from tgo_pipeline.rewards.vision_language.chat import Chat
from tgo_pipeline.rewards.vision_language.clips import Clip, ClipInput, FrameSampling, check_clip, read_clip
from tgo_pipeline.rewards.vision_language.reward import VisionLanguageReward
from tgo_pipeline.rewards.vision_language.sizes import FACTOR, PAIR
from tgo_pipeline.rewards.vision_language.weights import Lora

CONFIG = "model_config.json"
PARTS = tuple(specs.PARTS["videoreward"])
_TRAINED = {
    ("data_config", "prompt_template_type"): "detailed_special",
    ("data_config", "sample_type"): "uniform",
    ("data_config", "eval_dim"): list(PARTS),
    ("model_config", "reward_token"): "special",
    ("model_config", "use_special_tokens"): True,
    ("model_config", "output_dim"): 3,
    ("peft_lora_config", "use_rslora"): False,
}
"""What a model's configuration must state, where it states anything: other models are read in other ways."""


@dataclass(frozen=True)
class ClipFrames:
    """The frames of a clip that are read."""

    sampling: FrameSampling

    def __call__(self, image: Any) -> np.ndarray:
        """Of a `Clip`, uint8 (T, 3, h, w), an array, since the engine stacks tensors and clips differ in size.

        Raises `TgoError` for an image, which has no motion.
        """
        if isinstance(image, Image.Image):
            raise TgoError(
                "reward videoreward scores clips, and was given still images: `reward.score(clips, prompts)`."
            )
        return read_clip(image, self.sampling).numpy()

    def finish(self, pixels: Any) -> Any:
        """One tensor of frames a clip."""
        return [torch.from_numpy(clip) for clip in pixels]

    def differentiable(self, images: Tensor) -> Tensor:
        """Raises `TgoError`: there is no gradient."""
        raise TgoError("reward videoreward has no gradient.")


class VideoReward(VisionLanguageReward):
    """Three numbers of a clip and a prompt, of which the last depends on the prompt, and their sum.

    `norms` are mean and standard deviation of each over the authors' data; without them the numbers are as the head
    gives them.
    """

    parts = specs.PARTS["videoreward"]
    reward_tokens = tuple(f"<|{part}_reward|>" for part in PARTS)

    def __init__(
        self,
        config: Qwen2VLConfig,
        chat: Chat,
        norms: Sequence[tuple[float, float]] | None = None,
        sampling: FrameSampling | None = None,
    ) -> None:
        scale = "VideoReward: " + ("VQ + MQ + TA, each standardised" if norms else "VQ + MQ + TA, raw")
        sampling = sampling or FrameSampling()
        super().__init__("videoreward", scale, ClipFrames(sampling), config, chat)
        self.head = nn.Linear(self.network.language.config.hidden_size, len(PARTS), bias=False)
        self.norms = norms
        self.sampling = sampling

    @classmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> VideoReward:
        """Build from files. Raises `TgoError` if they do not fit together or the instruction is missing."""
        path = files.path(CONFIG)
        stated = read_json(path)
        parts = {key: stated.get(key) or {} for key in ("data_config", "model_config", "peft_lora_config")}
        try:
            for (part, key), expected in _TRAINED.items():
                if (found := parts[part].get(key, expected)) != expected:
                    raise TgoError(f"{path}: {key} is {found!r}; this reward reads models with {expected!r}.")
            norms, sampling, lora = (
                _norms(stated),
                _sampling(parts["data_config"]),
                _lora(parts["peft_lora_config"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TgoError(
                f"{path} is no configuration of VideoReward ({type(error).__name__}: {error})."
            ) from error
        chat = Chat.read(files, "video", cls.reward_tokens)

        def build(config: Qwen2VLConfig, _: Mapping[str, Tensor]) -> VideoReward:
            return cls(config, chat, norms, sampling)

        return cls._filled(build, files, chat, precision, lora)

    @property
    def weight_file(self) -> str:
        return "checkpoint-1/model.safetensors"

    def encode_images(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Features (N, D) of clips, uint8 (T, 3, h, w)."""
        return self.network.see([to_device(clip, self.device) for clip in pixels])

    def numbers(self, images: Sequence[Tensor], tails: Sequence[Sequence[int]]) -> Tensor:
        """(B, 4): the sum, then VQ, MQ and TA."""
        three = torch.einsum("bkd,kd->bk", self.states(images, tails), self.head.weight)
        if self.norms is not None:
            mean, std = torch.tensor(self.norms, device=three.device).unbind(1)
            three = (three - mean) / std
        return torch.cat([three.sum(1, keepdim=True), three], dim=1)

    def score_parts(
        self,
        images: Sequence[ClipInput],
        prompts: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        workers: int = 0,
    ) -> dict[str, np.ndarray]:
        """The sum and the three numbers of pairs of clip and prompt: `videoreward`, `videoreward.VQ`, `.MQ` and `.TA`.

        What else as in `score_clips`; `score` gives the sum alone. Raises `TgoError` also for a clip or a prompt that
        cannot be read.
        """
        scores = self.score_clips(images, prompts, prompt=prompt, batch_size=batch_size, workers=workers)
        for row, reason in scores.errors.items():
            raise TgoError(f"clip {row} of {len(images)} cannot be scored: {reason}.")
        return scores.columns

    def score_clips(
        self,
        clips: Sequence[ClipInput],
        prompts: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        workers: int = 0,
    ) -> Scores:
        """Score pairs of clip and prompt; a clip or a prompt that cannot be read costs its rows: NaN, and `errors` has
        the reason.

        A clip is a file, its bytes, or `Clip(frames, rate)`. `prompts` has one for each clip; `prompt` is one for all.
        A clip that several rows name is decoded once, and what its prompts share is read once. `batch_size` is how many
        clips are read together, by default as many as memory is likely to hold; `workers` are threads that decode.
        `sampling` says which frames are read. Raises `TgoError` if the numbers differ or something holds no clip.
        """
        paired = pair(clips, prompts, prompt, True)
        if len(clips) != len(paired):
            raise TgoError(f"{len(clips)} clips and {len(paired)} prompts: give one prompt per clip.")
        for row, clip in enumerate(clips):
            check_clip(clip, row)
        distinct = list(dict.fromkeys(paired))
        tails = dict(zip(distinct, self.encode_prompts(distinct), strict=True))
        columns = np.full((len(clips), 1 + len(PARTS)), np.nan, np.float32)
        errors = {
            row: f"{self.name} {tails[text]}"
            for row, text in enumerate(paired)
            if isinstance(tails[text], str)
        }
        decoded = self._decoded(_distinct(clips), workers or cores())
        for some in self._batches(decoded, errors, batch_size):
            rows = [row for rows, _ in some for row in rows]
            columns[rows] = self._scored(some, [tails[text] for text in paired]).cpu().numpy()
        names = [self.name, *specs.part_columns(self.name, PARTS)]
        return Scores(dict(zip(names, columns.T.copy(), strict=True)), dict(sorted(errors.items())))

    def _decoded(
        self, distinct: Sequence[tuple[list[int], ClipInput]], workers: int
    ) -> Iterator[tuple[list[int], Tensor | str]]:
        """The rows of each clip, and its frames or why there are none; a few clips are decoded ahead."""
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[tuple[list[int], Future[Tensor | str]]] = deque()
            for rows, clip in distinct:
                waiting.append((rows, pool.submit(_frames, clip, self.sampling)))
                if len(waiting) > 2 * workers:
                    rows, future = waiting.popleft()
                    yield rows, future.result()
            for rows, future in waiting:
                yield rows, future.result()

    def _batches(
        self,
        decoded: Iterator[tuple[list[int], Tensor | str]],
        errors: dict[int, str],
        batch_size: int | None,
    ) -> Iterator[list[_Decoded]]:
        """Clips that are read together; reasons of those that cannot be read go into `errors`."""
        some: list[_Decoded] = []
        for rows, found in decoded:
            if isinstance(found, str):
                errors |= dict.fromkeys(rows, found)
                continue
            tokens = sum(_tokens(frames) for _, frames in some) + _tokens(found)
            full = tokens > self.network.at_once if batch_size is None else len(some) >= batch_size
            if some and full:
                yield some
                some = []
            some.append((rows, found))
        if some:
            yield some

    @torch.inference_mode()
    def _scored(self, some: Sequence[_Decoded], tails: Sequence[Sequence[int]]) -> Tensor:
        """Numbers of all rows of some clips, in their order; in halves where memory runs out."""
        try:
            seen = self.encode_images([frames for _, frames in some])
            pairs = [(each, tails[row]) for each, (rows, _) in zip(seen, some, strict=True) for row in rows]
            return self.combine_parts([each for each, _ in pairs], [tail for _, tail in pairs])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(some) == 1:
                raise
        half = len(some) // 2
        return torch.cat([self._scored(some[:half], tails), self._scored(some[half:], tails)])


_Decoded = tuple[list[int], Tensor]
"""The rows of a clip, and its frames."""


def _distinct(clips: Sequence[ClipInput]) -> list[tuple[list[int], ClipInput]]:
    """Each clip once, with the rows that name it."""
    found: dict[Any, tuple[list[int], ClipInput]] = {}
    for row, clip in enumerate(clips):
        key = (id(clip.frames), clip.rate) if isinstance(clip, Clip) else clip
        found.setdefault(key, ([], clip))[0].append(row)
    return list(found.values())


def _frames(clip: ClipInput, sampling: FrameSampling) -> Tensor | str:
    try:
        return read_clip(clip, sampling)
    except UnreadableImage as error:
        return str(error)


def _tokens(frames: Tensor) -> int:
    return frames.shape[0] * frames.shape[2] * frames.shape[3] // (PAIR * FACTOR**2)


def _norms(stated: Mapping[str, Any]) -> list[tuple[float, float]] | None:
    """Mean and standard deviation of each number; none if the configuration has none."""
    found = stated.get("inference_config")
    return found and [(float(found[f"{part}_mean"]), float(found[f"{part}_std"])) for part in PARTS]


def _sampling(data: Mapping[str, Any]) -> FrameSampling:
    usual = FrameSampling()
    frames = data.get("num_frames")
    most = data.get("max_frame_pixels") or usual.max_pixels
    return FrameSampling(
        float(data.get("fps") or usual.fps), None if frames is None else int(frames), int(most)
    )


def _lora(stated: Mapping[str, Any]) -> Lora | None:
    return Lora(float(stated["lora_alpha"]), int(stated["lora_r"])) if stated.get("lora_enable") else None
