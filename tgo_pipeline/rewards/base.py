"""The reward seam: an image and a prompt in, one number out.

A reward is split so that work can be shared: images are prepared once per `preprocessing`, encoded once per
`image_encoder`, prompts are encoded once each, and `combine` makes scores of the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.engine.scorable import Preparation
from tgo_pipeline.rewards.files.layouts import Files

if TYPE_CHECKING:
    from tgo_pipeline.rewards.engine.images import ImageInput
    from tgo_pipeline.rewards.networks.precision import Precision


PROMPTS_AT_ONCE = 128
"""How many prompts a text tower reads together; prompts of a batch are cut at the longest of it."""
COMPILED_KINDS = 64
"""How often the code of one kind of block may be compiled: for towers of other widths, images alone or in batches."""
HALF_A_LEVEL = 0.5 / 255
"""What rounding to 8 bits takes back; images may be that much outside of [0, 1]."""


class Reward(nn.Module, ABC):
    """What every reward offers. Its numbers are in the units that `scale` states in words."""

    typical_range: tuple[float, float] | None = None
    """Where the scores of the official weights usually lie, low and high."""
    needs_prompt = True
    """Whether the prompt plays a part in the score."""
    parts: Mapping[str, str] = {}
    """What further numbers are called, `NAME.part` as columns, and mean; the score itself bears the reward's name."""
    reasons: Sequence[str | None] | None = None
    """Why images of the last `combine` have no score, where the reward knows more than the number says."""

    def __init__(self, name: str, scale: str, preprocessing: Preparation) -> None:
        super().__init__()
        self.name = name
        self.scale = scale
        self.preprocessing = preprocessing
        self.identity: dict[str, str] = {"reward": name}
        """What exactly gives the scores: reward, source, sha256 of the weights, precision."""

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU if the reward has none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def description(self) -> dict[str, Any]:
        """What its scores are, for whoever opens a table of them later."""
        return {**self.identity, "scale": self.scale, "typical_range": self.typical_range}

    def describe_part(self, part: str) -> dict[str, Any]:
        """As `description`, of one of its `parts`."""
        return {**self.identity, "part": part, "scale": self.parts[part], "typical_range": None}

    @property
    def image_encoder(self) -> object:
        """The object whose identity says that two rewards have the same `encode_images`."""
        return self

    def prepare(self, image: Image.Image) -> Tensor:
        """RGB image to what the network sees, float32 (3, S, S)."""
        return self.preprocessing.finish(self.preprocessing(image)[None])[0]

    @abstractmethod
    def encode_images(self, pixels: Any) -> Any:
        """Prepared images (B, 3, S, S) to whatever `combine` needs of them, (B, ...)."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        """Prompts to what `combine` needs of them: a tensor or array whose first axis is the prompt."""

    @abstractmethod
    def combine(self, images: Any, prompts: Any) -> Tensor:
        """Encoded images and as many encoded prompts to scores (B,)."""

    def combine_parts(self, images: Any, prompts: Any) -> Tensor:
        """As `combine`, with a column for the score and one for each of `parts`, (B, 1 + P)."""
        return self.combine(images, prompts)[:, None]

    def score(
        self,
        images: Sequence[ImageInput],
        prompts: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        workers: int = 0,
    ) -> np.ndarray:
        """Score pairs of image and prompt: float32 (N,), in the order given, in the units that `scale` names.

        An image is a PIL image, a path, the bytes of an image file, or uint8 pixels: an array (H, W, 3) or a tensor
        (3, H, W). `prompts` has one for each image; `prompt` is one for all of them. With `workers` processes decode
        and resize, else threads. Raises `TgoError` if the numbers differ, or an image cannot be read.
        """
        return self.score_parts(images, prompts, prompt=prompt, batch_size=batch_size, workers=workers)[
            self.name
        ]

    def score_parts(
        self,
        images: Sequence[ImageInput],
        prompts: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        workers: int = 0,
    ) -> dict[str, np.ndarray]:
        """As `score`, by column: the score under the reward's name, each of its `parts` as `NAME.part`."""
        from tgo_pipeline.rewards.engine.scorer import score_all

        scores = score_all(
            {self.name: self},
            images,
            prompts,
            prompt=prompt,
            batch_size=batch_size,
            workers=workers,
            parts=True,
        )
        for row, reason in scores.errors.items():
            raise TgoError(f"image {row} of {len(images)} cannot be scored: {reason}.")
        return scores.columns

    @property
    def has_gradient(self) -> bool:
        """Whether `score_tensor` works."""
        return False

    def score_tensor(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1] with gradients to the images; one prompt for each.

        Raises `TgoError` for a reward without a gradient.
        """
        raise TgoError(
            f"reward {self.name} has no gradient: take one that is a network, or give the one of your own a method "
            "score_tensor(images, prompts) (docs/REWARDS.md)."
        )


class NetworkReward(Reward):
    """A reward that is a network: differentiable, and with a way back to official files."""

    @classmethod
    @abstractmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> NetworkReward:
        """Build the reward from located files. Raises `TgoError` if they do not fit together."""

    @property
    @abstractmethod
    def towers(self) -> list[nn.ModuleList]:
        """The transformer blocks, where nearly all of the time goes; images first, then prompts if any."""

    @property
    def precision(self) -> Precision:
        """What the towers compute in."""
        from tgo_pipeline.rewards.networks.precision import precision_of

        return precision_of(self.towers)

    half_precision: ClassVar[Precision] = "fp16"
    """What `auto` means on a GPU."""

    def set_precision(self, precision: str) -> Self:
        """Let the towers compute in `fp16`, or leave them in `fp32`; heads and cosines are float32 always.

        Raises `TgoError` for bf16, and for fp32 after fp16, which has rounded the weights.
        """
        from tgo_pipeline.rewards.networks.precision import check_precision, rounded

        if check_precision(precision) == "fp16":
            rounded(self.towers, torch.float16)
        elif self.precision == "fp16":
            raise TgoError(
                f"reward {self.name}: its weights are rounded to fp16; load it again to have it in fp32."
            )
        return self

    compiled = False
    """Whether the towers are compiled: then it pays to give images in batches of one size."""

    def compile_towers(self, backend: str = "inductor") -> Self:
        """Compile the transformer blocks with `torch.compile`; the first images then take a minute or so longer.

        Those for images are compiled anew for each size of a batch, as the fastest code is for known shapes; those for
        prompts, whose lengths differ, for all sizes. All blocks of a tower share their code, and each kind of tower has
        some: torch's limit for one function, 8, is meant against runaways and too low for five rewards.
        """
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, COMPILED_KINDS)
        images, *prompts = self.towers
        for blocks, dynamic in ((images, False), *((each, None) for each in prompts)):
            for block in blocks:
                block.compile(backend=backend, dynamic=dynamic)
        self.compiled = True
        return self

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to token ids, int64 (B, L), on the CPU."""

    def token_counts(self, tokens: Tensor) -> Tensor:
        """How many of the token ids (B, L) of each prompt count, (B,); those behind may be cut off."""
        return torch.full((len(tokens),), tokens.shape[1])

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) to what `combine` needs of them; the ids themselves unless overridden."""
        return tokens

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts on the reward's device, those of similar length together and without what pads them."""
        tokens = self.tokenize(prompts)
        counts, order = self.token_counts(tokens).sort()
        parts = zip(counts.split(PROMPTS_AT_ONCE), order.split(PROMPTS_AT_ONCE), strict=True)
        encoded = [
            self.encode_tokens(to_device(tokens[rows, : int(count.max())], self.device))
            for count, rows in parts
        ]
        return torch.cat(encoded)[to_device(order.argsort(), self.device)]

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Scores (B,) of prepared images (B, 3, S, S) and token ids (B, L)."""
        return self.combine(self.encode_images(pixels), self.encode_tokens(tokens))

    @property
    def has_gradient(self) -> bool:
        return True

    def score_tensor(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1] with gradients to the images; one prompt for each.

        Images are rounded to 8 bits as a file would be, and gradients pass that rounding unchanged. Raises `TgoError`
        for other shapes, types or ranges, and if the numbers differ.
        """
        check_images(images, prompts)
        images = images.to(self.device)
        with torch.autocast(images.device.type, enabled=False):
            distinct = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
            with torch.no_grad():
                encoded = self.encode_prompts(list(distinct))[[distinct[prompt] for prompt in prompts]]
            return self.combine(self.encode_images(self.preprocessing.differentiable(images)), encoded)

    @abstractmethod
    def official_state_dict(self) -> dict[str, Tensor]:
        """The weights under the keys of the official checkpoint."""

    @abstractmethod
    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """Write the folder that `load_reward` reads, in the official layout; `metadata` goes into the weight file."""


def check_images(images: Tensor, prompts: Sequence[str]) -> None:
    """Raise `TgoError` unless `images` is a batch of float images in [0, 1] with a prompt for each."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise TgoError(f"images is {given}: give a tensor (B, 3, H, W), or images of any kind to `score`.")
    if not images.is_floating_point():
        raise TgoError(f"images is {images.dtype}: give floats in [0, 1], `images.float() / 255` for uint8.")
    if isinstance(prompts, str):
        raise TgoError(f"prompts is one text, {prompts[:40]!r}: give a list with one for each image.")
    if len(images) != len(prompts) or not len(images):
        raise TgoError(
            f"{len(images)} images and {len(prompts)} prompts: give one prompt per image, at least one."
        )
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low >= -HALF_A_LEVEL and high <= 1 + HALF_A_LEVEL):
        raise TgoError(
            f"images has values from {low:.4g} to {high:.4g}: give [0, 1], `(x / 2 + 0.5).clamp(0, 1)` for what a "
            "decoder gives in [-1, 1]."
        )


def as_objects(values: Iterable[Any]) -> np.ndarray:
    """Things that are no numbers as an array (B,), for `combine`: rows are chosen of it as of a tensor."""
    found = list(values)
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array


def empty(build: Callable[[], Any]) -> Any:
    """Call `build` with parameters that take no memory and no time, for weights that are assigned afterwards."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return build()


def cosine(images: Tensor, prompts: Tensor) -> Tensor:
    """Row-wise product of embeddings of unit length: (B, D), (B, D) -> (B,)."""
    return (images * prompts).sum(-1)
