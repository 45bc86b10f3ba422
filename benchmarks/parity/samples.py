"""Fresh images and prompts for the comparison: ordinary ones, and one of every kind that code trips over.

Some kinds the official code reads otherwise, or not at all. Each of these has a twin: the plain RGB image that it
must be equal to, for the official code to score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tgo_pipeline.rewards.engine.decode import to_rgb

SIZES: dict[str, tuple[int, int]] = {
    "square": (512, 512),
    "exact": (224, 224),
    "large": (1024, 1024),
    "small": (30, 40),
    "long_side_224": (224, 160),
    "panorama": (1600, 60),
    "sliver": (1000, 2),
    "one_pixel": (1, 1),
    "grey": (333, 222),
    "palette": (320, 200),
    "cmyk": (300, 410),
    "rgba": (256, 200),
    "sixteen_bit": (240, 300),
    "turned": (400, 250),
}
MODES = {"grey": "L", "palette": "P", "cmyk": "CMYK", "rgba": "RGBA", "sixteen_bit": "I;16"}
TURNED_BY_EXIF = "turned"
ORIENTATION, ROTATED = 0x0112, 6
DECODED = ("palette", "cmyk", "rgba", "sixteen_bit", "turned")
PADDED = ("long_side_224",)
FULL_IMAGES = ("square", "landscape", "portrait", "long_side_224", "grey", "exact")
FULL_PROMPTS = ("simple", "typographic")

_WORDS = (
    "lighthouse astronaut fox cathedral teapot harbour violin glacier orchard robot portrait market bridge owl "
    "lantern staircase sailing misty golden crimson ancient tiny gigantic wooden crystal painted sleeping running "
    "cinematic watercolour detailed moonlit abandoned floating reflections trending photorealistic isometric"
)
_SCRIPTS = (
    *("宇航员在月球上骑马", "قطة تقرأ كتابًا", "बारिश में एक घोड़ा"),
    *("лиса в снегу", "夕焼けの港の写真", "고양이와 우주선"),
)
_EMOJI = ("🐱", "🚀", "👩‍🚀", "🏳️‍🌈", "✨", "🦊", "❄️", "👍🏽")


@dataclass(frozen=True)
class Samples:
    """Image files, twins of some of them, and prompts, all by name."""

    images: dict[str, Path]
    twins: dict[str, Path]
    prompts: dict[str, str]

    def only(self, images: tuple[str, ...], prompts: tuple[str, ...]) -> Samples:
        """The samples of these names."""
        return Samples(
            {name: self.images[name] for name in images},
            {name: self.twins[name] for name in images if name in self.twins},
            {name: self.prompts[name] for name in prompts},
        )


def make_samples(folder: Path, seed: int) -> Samples:
    """Draw images, write them as files into `folder`, and draw prompts; the same for the same seed."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    wide = {"landscape": (int(rng.integers(400, 900)), int(rng.integers(230, 390)))}
    high = {"portrait": (int(rng.integers(230, 390)), int(rng.integers(400, 900)))}
    images = {}
    for name, (width, height) in {**SIZES, **wide, **high}.items():
        images[name] = _save(_convert(random_image(rng, width, height), name, rng), name, folder)
    twins = {name: _twin(images[name], name, folder) for name in (*DECODED, *PADDED)}
    return Samples(images, twins, make_prompts(rng))


def _twin(image: Path, name: str, folder: Path) -> Path:
    """The image in RGB; for HPSv2 it is put on the black square that its own code forgets."""
    plain = to_rgb(Image.open(image))
    if name in PADDED:
        side = max(plain.size)
        square = Image.new("RGB", (side, side))
        square.paste(plain, ((side - plain.width) // 2, (side - plain.height) // 2))
        plain = square
    plain.save(folder / f"{name}_twin.png")
    return folder / f"{name}_twin.png"


def random_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth colours with a few shapes and a little noise, RGB: like a photograph in what resizing does to it."""
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = rng.uniform(-0.2, 0.9) * width, rng.uniform(-0.2, 0.9) * height
        box = (left, top, left + rng.uniform(0.05, 0.5) * width, top + rng.uniform(0.05, 0.5) * height)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(box, fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
    noise = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _convert(image: Image.Image, name: str, rng: np.random.Generator) -> Image.Image:
    mode = MODES.get(name, "RGB")
    if mode == "P":
        return image.quantize(64)
    if mode == "I;16":
        grey = np.asarray(image.convert("L"), dtype=np.uint16)
        return Image.fromarray(grey * 256 + rng.integers(0, 256, grey.shape, dtype=np.uint16))
    if mode == "RGBA":
        image.putalpha(random_image(rng, *image.size).convert("L"))
        return image
    return image.convert(mode)


def _save(image: Image.Image, name: str, folder: Path) -> Path:
    """As PNG; as JPEG what PNG does not hold: four inks, and a camera's note to turn the image."""
    if image.mode == "CMYK" or name == TURNED_BY_EXIF:
        exif = Image.Exif()
        if name == TURNED_BY_EXIF:
            exif[ORIENTATION] = ROTATED
        image.save(folder / f"{name}.jpg", quality=95, exif=exif)
        return folder / f"{name}.jpg"
    image.save(folder / f"{name}.png")
    return folder / f"{name}.png"


def make_prompts(rng: np.random.Generator) -> dict[str, str]:
    """One prompt of every kind, each with random words in it."""
    vocabulary = _WORDS.split()

    def words(count: int) -> str:
        return " ".join(rng.choice(vocabulary, count))

    def some(choices: tuple[str, ...], count: int) -> str:
        return " ".join(rng.choice(choices, count, replace=False))

    kinds: dict[str, Callable[[], str]] = {
        "simple": lambda: f"a {words(6)}",
        "typographic": lambda: f"“{words(3)}” — the {words(1)}’s ‘{words(2)}’… café naïve",
        "emoji": lambda: f"{words(2)} {some(_EMOJI, 3)} {words(1)}{some(_EMOJI, 1)}",
        "html": lambda: (
            f"{words(1)} &amp; {words(1)} &lt;b&gt;{words(2)}&lt;/b&gt; &quot;{words(1)}&quot; &#39;s"
        ),
        "scripts": lambda: f"{some(_SCRIPTS, 3)} {words(2)}",
        "long": lambda: words(200),
        "shouting": lambda: (
            f"{words(3).upper()}!!! (({words(1)}:1.3)), @{words(1)} #{words(1)} 8K, --ar 16:9"
        ),
        "spaces": lambda: f"  {words(2)}\t{words(1)}\n\n{words(2)}   {words(1)} ",
        "control": lambda: f"{words(1)}\x00{words(1)}\x07 \u200b{words(1)}\ufeff{words(1)}",
        "mojibake": lambda: f"{words(2)} â€œ{words(1)}â€\x9d sÃ£o",
        "empty": lambda: "",
    }
    return {name: make() for name, make in kinds.items()}
