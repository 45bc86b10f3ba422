"""A folder of a thousand files as they lie about: every good one is scored, every bad one has its reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.scoring.command.conftest import CLIP, Tgo, random_image, scores
from tgo_pipeline.rewards import load_reward

PROMPT = "a red fox"
EACH = 52


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def sixteen_bit(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 2**16, (32, 40), dtype=np.uint16)
    return encoded(Image.fromarray(pixels))


def turned(seed: int) -> bytes:
    """An image that its EXIF tag says to turn by a quarter."""
    image = random_image(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif, quality=95)


def animated(seed: int) -> bytes:
    frames = [random_image(seed), random_image(seed + 1), random_image(seed + 2)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def palette(seed: int) -> bytes:
    return encoded(random_image(seed).quantize(16), transparency=3)


def rgba(seed: int) -> bytes:
    image = random_image(seed)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image)


GOOD: dict[str, Callable[[int], bytes]] = {
    "plain.png": lambda seed: encoded(random_image(seed)),
    "plain.jpg": lambda seed: encoded(random_image(seed), "JPEG"),
    "plain.webp": lambda seed: encoded(random_image(seed), "WEBP", lossless=True),
    "plain.bmp": lambda seed: encoded(random_image(seed), "BMP"),
    "plain.tif": lambda seed: encoded(random_image(seed), "TIFF"),
    "grey.png": lambda seed: encoded(random_image(seed).convert("L")),
    "one-bit.png": lambda seed: encoded(random_image(seed).convert("1")),
    "sixteen-bit.png": sixteen_bit,
    "cmyk.jpg": lambda seed: encoded(random_image(seed).convert("CMYK"), "JPEG"),
    "rgba.png": rgba,
    "grey-alpha.png": lambda seed: encoded(random_image(seed).convert("LA")),
    "palette.png": palette,
    "animated.gif": animated,
    "turned.jpg": turned,
    "pixel.png": lambda seed: encoded(random_image(seed, (1, 1))),
    "wrong-ending.JPG": lambda seed: encoded(random_image(seed)),
}


def truncated(seed: int) -> bytes:
    data = encoded(random_image(seed))
    return data[: len(data) // 2]


def corrupt(seed: int) -> bytes:
    data = bytearray(encoded(random_image(seed)))
    data[60:120] = bytes(60)
    return bytes(data)


def bomb(_: int) -> bytes:
    """A PNG of some bytes that claims 900 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


BAD: dict[str, tuple[Callable[[int], bytes], str]] = {
    "truncated.png": (truncated, "truncated"),
    "corrupt.png": (corrupt, ""),
    "empty.png": (lambda _: b"", "no image bytes"),
    "text.png": (lambda _: b"this is text, not an image\n", "not a known image format"),
    "bomb.png": (bomb, "900,000,000 pixels are more than"),
}


def plain(data: bytes) -> Image.Image:
    """Any good image in RGB by Pillow's own means: turned, first frame, upper 8 of 16 bits, on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":
        return Image.fromarray((np.array(image) // 256).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def write_mixed(folder: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """Write the files; returns the good ones, and the bad ones with a part of their reason."""
    good = {f"{n:03d}-{name}": make(n) for name, make in GOOD.items() for n in range(EACH)}
    good["long.png"] = encoded(random_image(0, (8000, 20)))
    bad = {f"{n:03d}-{name}": (make(n), why) for name, (make, why) in BAD.items() for n in range(EACH // 2)}
    for number, (name, data) in enumerate(
        {**good, **{name: data for name, (data, _) in bad.items()}}.items()
    ):
        path = folder / str(number % 7) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    reasons = {name: why for name, (_, why) in bad.items()}
    for number in range(10):
        (folder / f"broken-link-{number}.png").symlink_to("nowhere")
        reasons[f"broken-link-{number}.png"] = "No such file"
        (folder / f"notes-{number}.txt").write_text("left out")
        (folder / f"folder-{number}.png").mkdir()
        odd = f"caf\udce9-{number}.png"
        (folder / odd).write_bytes(encoded(random_image(number)))
        good[f"caf\\xe9-{number}.png"] = encoded(random_image(number))
    if os.geteuid() != 0:
        (folder / "secret.png").write_bytes(encoded(random_image(0)))
        (folder / "secret.png").chmod(0)
        reasons["secret.png"] = "Permission denied"
    return good, reasons


def test_a_thousand_mixed_files(tgo: Tgo, tmp_path: Path) -> None:
    good, bad = write_mixed(tmp_path / "mixed")
    assert len(good) + len(bad) + 20 >= 1000, "with what is left out"
    done = tgo("mixed", "--prompt", PROMPT)
    assert done.code == 3
    found = {Path(row["image"]).name: row for row in scores().iter_rows(named=True)}
    assert found.keys() == {*good, *bad}
    for name, reason in bad.items():
        assert found[name]["clip"] is None
        assert reason in found[name]["error"], (name, found[name]["error"])
    assert all(found[name]["error"] is None for name in good)
    right = load_reward(CLIP).score([plain(data) for data in good.values()], prompt=PROMPT)
    scored = np.array([found[name]["clip"] for name in good])
    np.testing.assert_allclose(scored, right, rtol=0, atol=1e-5)
    assert f"{len(bad)} of {len(found)} images could not be scored" in done.out
    assert "left out 10 files that are not images by their extension: 10 .txt" in done.log


@pytest.mark.parametrize("name", sorted(GOOD))
def test_kinds_of_images_are_told_apart(name: str) -> None:
    """The reference above is none of the project's code, and its images differ from seed to seed."""
    first, second = (np.asarray(plain(GOOD[name](seed))) for seed in (1, 2))
    assert first.shape == second.shape and not np.array_equal(first, second)
