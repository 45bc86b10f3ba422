"""From an RGB image to the tensor a network sees. Equal values prepare equal tensors, so rewards share them.

Mean and standard deviation are those of OpenAI's CLIP, which all networks here use. What `differentiable` gives for
images of 8 bits equals what the workers' way gives, but for the last bits of floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from tgo_pipeline.rewards.networks.pillow_resize import levels_of, resize

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
"""Of the colours of CLIP's training images; all rewards normalise by them."""
LONGEST = 1000
"""How many times as long as wide an image may be to be resized as a whole before its centre is cropped;
of a longer one only the centre is resized, whose memory does not grow with the length."""


@dataclass(frozen=True)
class ShortestSideCrop:
    """Resize the shortest side to `size` (PIL bicubic), crop the centre, normalise: PickScore, ImageReward, CLIP.

    Where the centre falls between two pixels, PickScore's processor rounds down and torchvision, which the others
    use, to even: that is one pixel, in a quarter of all images that are not square.
    """

    size: int = 224
    rounding: Literal["even", "down"] = "even"

    @property
    def layout(self) -> tuple[tuple[int, int, int], torch.dtype]:
        """What an image becomes."""
        return (3, self.size, self.size), torch.uint8

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image to uint8 (3, size, size)."""
        image = _middle(image)
        width, height = self._resized(image.width, image.height)
        left, top = self._offset(width), self._offset(height)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return F.pil_to_tensor(resized.crop((left, top, left + self.size, top + self.size)))

    def finish(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, size, size) to normalised float32."""
        return normalised(pixels)

    def differentiable(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to normalised (B, 3, size, size); levels are rounded to 8 bits, as a file's are."""
        width, height = self._resized(images.shape[-1], images.shape[-2])
        left, top = self._offset(width), self._offset(height)
        levels = resize(levels_of(images), height, width)
        cropped = levels[..., top : top + self.size, left : left + self.size]
        return _normalise(_unit(cropped))

    def shared(self, width: int, height: int) -> ShortestSideCrop:
        """The preparation that most rewards have, if it gives an image of this size the same tensor; else this."""
        usual = ShortestSideCrop(self.size)
        sides = self._resized(width, height)
        return usual if all(self._offset(side) == usual._offset(side) for side in sides) else self

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        short = min(width, height)
        return int(self.size * width / short), int(self.size * height / short)

    def _offset(self, side: int) -> int:
        spare = side - self.size
        return spare // 2 if self.rounding == "down" else round(spare / 2)


@dataclass(frozen=True)
class LongestSidePad:
    """Resize the longest side to `size` (tensor bicubic, antialias), centre on black, normalise: HPSv2.

    Black is put in before normalising, as in the official code (`ResizeMaxSize` of hpsv2's open_clip); unlike there,
    an image whose longest side is `size` already is padded too.
    """

    size: int = 224

    @property
    def layout(self) -> tuple[tuple[int, int, int], torch.dtype]:
        """What an image becomes."""
        return (3, self.size, self.size), torch.float32

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image to float32 (3, size, size), most of it in [0, 1]: bicubic weights overshoot at edges."""
        return self._padded(_unit(F.pil_to_tensor(image)))

    def finish(self, pixels: Tensor) -> Tensor:
        """float32 (B, 3, size, size) to the same, normalised."""
        return _normalise(pixels)

    def differentiable(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to normalised (B, 3, size, size); levels are rounded to 8 bits, as a file's are."""
        return _normalise(self._padded(_unit(levels_of(images))))

    def _padded(self, pixels: Tensor) -> Tensor:
        height, width = self.resized(*pixels.shape[-2:])
        if (height, width) != pixels.shape[-2:]:
            pixels = F.resize(
                pixels, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True
            )
        left, top = (self.size - width) // 2, (self.size - height) // 2
        return F.pad(pixels, [left, top, self.size - width - left, self.size - height - top])

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """What the sides become: the longest is `size`, the other at least one pixel."""
        # The order counts: `side * self.size / longest` rounds to another pixel for 28 sizes up to 2,048.
        scale = self.size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


def _middle(image: Image.Image) -> Image.Image:
    """The middle of an image so long that resizing all of it would take gigabytes; any other image as it is."""
    short, long = sorted(image.size)
    if long <= LONGEST * short:
        return image
    start = (long - 3 * short) // 2
    box = (
        (start, 0, start + 3 * short, short) if image.width == long else (0, start, short, start + 3 * short)
    )
    return image.crop(box)


def _unit(levels: Tensor) -> Tensor:
    """Levels from 0 to 255 in [0, 1], each the float32 nearest to level/255, as every official package has it.

    The factor 1/255 gives another last bit for 126 of the 256 levels. A GPU divides by a number as if it were that
    factor, by a tensor it divides.
    """
    return levels.float() / _constants(levels.device)[0]


def normalised(levels: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to normalised float32."""
    return _normalise(_unit(levels))


def _normalise(pixels: Tensor) -> Tensor:
    """As torchvision's `normalize`, which copies both constants to the device each time and so waits for a GPU."""
    _, mean, std = _constants(pixels.device)
    return (pixels - mean).div_(std)


@lru_cache(maxsize=32)
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The highest level, and `MEAN` and `STD` (3, 1, 1)."""
    with torch.inference_mode(False):  # gradients may pass them later
        highest, mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device)[..., None, None]
            for values in (255.0, MEAN, STD)
        )
    return highest, mean, std
