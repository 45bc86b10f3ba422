"""Images of every kind that Pillow writes, some that only look like images, and bombs."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
from PIL import Image


def image_seeds() -> dict[str, bytes]:
    numbers = np.random.default_rng(0)
    rgb = Image.fromarray(numbers.integers(0, 255, (33, 41, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    variants = {
        "png": (rgb, "PNG", {}),
        "png-rgba": (rgb.convert("RGBA"), "PNG", {}),
        "png-p": (rgb.convert("P"), "PNG", {"transparency": 3}),
        "png-16": (Image.fromarray(numbers.integers(0, 65535, (20, 20), dtype=np.uint16)), "PNG", {}),
        "png-exif": (rgb, "PNG", {"exif": exif}),
        "jpeg": (rgb, "JPEG", {}),
        "jpeg-exif": (rgb, "JPEG", {"exif": exif}),
        "jpeg-progressive": (rgb, "JPEG", {"progressive": True}),
        "jpeg-cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "webp": (rgb, "WEBP", {}),
        "webp-lossless": (rgb.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
        "webp-animated": (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "gif": (rgb, "GIF", {}),
        "gif-animated": (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "tiff": (rgb, "TIFF", {"exif": exif}),
        "tiff-lzw": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "tiff-deflate": (rgb, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff-jpeg": (rgb, "TIFF", {"compression": "jpeg"}),
        "tiff-f": (Image.fromarray(numbers.random((9, 9), dtype=np.float32)), "TIFF", {}),
        "apng": (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "bmp": (rgb, "BMP", {}),
        "ppm": (rgb, "PPM", {}),
        "tga": (rgb, "TGA", {"compression": "tga_rle"}),
        "ico": (rgb, "ICO", {}),
        "icns": (rgb.resize((64, 64)), "ICNS", {}),
        "jp2": (rgb, "JPEG2000", {}),
        "avif": (rgb, "AVIF", {}),
        "pcx": (rgb, "PCX", {}),
        "sgi": (rgb, "SGI", {}),
        "dds": (rgb, "DDS", {}),
        "qoi": (rgb, "QOI", {}),
        "im": (rgb, "IM", {}),
        "msp": (rgb.convert("1"), "MSP", {}),
        "xbm": (rgb.convert("1"), "XBM", {}),
        "mpo": (rgb, "MPO", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "blp": (rgb.convert("P"), "BLP", {}),
        "spider": (rgb.convert("F"), "SPIDER", {}),
        "pdf": (rgb, "PDF", {}),
        "eps": (rgb, "EPS", {}),
    }
    found = {}
    for name, (image, kind, options) in variants.items():
        stream = io.BytesIO()
        try:
            image.save(stream, kind, **options)
            found[name] = stream.getvalue()
        except (OSError, ValueError, KeyError) as error:  # a codec that this Pillow lacks
            sys.stderr.write(f"no seed {name}: {error}\n")
    found["fits"] = (
        b"SIMPLE  =                    T".ljust(80)
        + b"BITPIX  =                    8".ljust(80)
        + b"NAXIS   =                    2".ljust(80)
        + b"NAXIS1  =                    4".ljust(80)
        + b"NAXIS2  =                    4".ljust(80)
        + b"END".ljust(2880 - 400)
        + b"\x00" * 2880
    )
    found["xpm"] = (
        b'/* XPM */\nstatic char *x[] = {\n"2 2 2 1",\n"a c #ff0000",\n"b c #00ff00",\n"ab",\n"ba"};\n'
    )
    found["psd"] = (
        b"8BPS\x00\x01"
        + b"\x00" * 6
        + struct.pack(">HIIHH", 3, 4, 4, 8, 3)
        + struct.pack(">III", 0, 0, 0)
        + b"\x00\x00"
        + b"\x80" * 48
    )
    found["fli"] = (
        struct.pack("<IHHHHHHI", 300, 0xAF12, 1, 4, 4, 8, 3, 5)
        + b"\x00" * 108
        + struct.pack("<IHH", 60, 0xF1FA, 1)
        + b"\x00" * 60
    )
    found["wmf"] = (
        b"\xd7\xcd\xc6\x9a\x00\x00"
        + struct.pack("<hhhhH", 0, 0, 100, 100, 96)
        + b"\x00" * 6
        + b"\x01\x00\t\x00\x00\x03"
        + b"\x00" * 40
    )
    found["eps-code"] = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
        b"(/tmp/gs_was_run) (w) file closefile showpage\n%%EOF\n"
    )
    return found


def png(width: int, height: int, kind: int = 2, depth: int = 8, data: bytes | None = None) -> bytes:
    """A PNG of one value: a bomb of any size in a few hundred bytes a megapixel."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    if data is None:
        line = b"\x00" + b"\x00" * (width * channels * depth // 8)
        packer = zlib.compressobj(9)
        data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    palette = chunk(b"PLTE", b"\x00" * 3) + chunk(b"tRNS", b"\x00") if kind == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    side = 13_300  # 177 million pixels: below Pillow's error at 179 million
    found = {
        "png 60000x60000 lie": png(60000, 60000, data=zlib.compress(b"\x00" * 100)),
        "png 13300x13300 grey": png(side, side, 0),
        "png 13300x13300 rgba": png(side, side, 6),
        "png 13300x13300 16 bits": png(side, side, 0, 16),
        "png 13300x13300 palette": png(side, side, 3),
        "png 1x170000000": png(1, 2**27, 0, data=zlib.compress(b"\x00" * 1000)),
        "png 0x0": png(0, 0, data=b""),
        "png 1x1": png(1, 1),
        "png 1x20000": png(1, 20000),
        "png 20000x1": png(20000, 1),
    }
    for place in (b"zTXt", b"iCCP"):
        body = b"a\x00\x00" + zlib.compress(b"\x00" * 300_000_000, 9)
        chunk = struct.pack(">I", len(body)) + place + body + struct.pack(">I", zlib.crc32(place + body))
        plain = png(4, 4)
        found[f"png {place.decode()} bomb"] = plain[:33] + chunk + plain[33:]
    return found
