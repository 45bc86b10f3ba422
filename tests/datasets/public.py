"""Small data sets in the exact schemas of the public ones: column names, types, nesting, file names and layout."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICKAPIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)
"""`yuvalkirstain/pickapic_v2`; v1 lacks the last column, `_no_images` the two of images."""


def jpeg(number: int) -> bytes:
    """A small image of its own for every number, 20 wide and 10 + number high."""
    pixels = np.random.default_rng(number).integers(0, 256, (10 + number, 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


ROUNDS = [
    ("a cat", 0, 1, 1.0, 7, True),  # 0 beats 1 and stays
    ("a cat", 0, 2, 0.0, 7, True),  # then it loses to 2: it has won and lost
    ("a dog", 3, 4, 0.5, 8, True),  # a tie
    ("a dog", 4, 5, 0.0, 9, True),
    ("a fox", 6, 7, 0.0, 9, False),  # nobody chose
]
"""Caption, the two images, label of the first, user, and whether it is labelled."""


def pickapic() -> pa.Table:
    """Five rows with eight images, one after another as the web application showed them."""
    return pa.Table.from_pylist([_round(number, *values) for number, values in enumerate(ROUNDS)], PICKAPIC)


def _round(
    number: int, caption: str, first: int, second: int, label: float, user: int, labelled: bool
) -> dict[str, Any]:
    best = {1.0: uid(first), 0.0: uid(second), 0.5: "tie"}[label]
    return {
        "are_different": True,
        "best_image_uid": best,
        "caption": caption,
        "created_at": datetime(2023, 5, 1),
        "has_label": labelled,
        "label_0": label,
        "label_1": 1 - label,
        "ranking_id": number,
        "user_id": user,
        "num_example_per_prompt": 2,
        "__index_level_0__": number,
    } | {
        key: value
        for side, image in enumerate((first, second))
        for key, value in {
            f"image_{side}_uid": uid(image),
            f"image_{side}_url": f"https://pickapic.example/{image}",
            f"jpg_{side}": jpeg(image),
            f"model_{side}": "CompVis/stable-diffusion-v1-4" if image % 2 else "dreamlike-art/diffusion-2.0",
        }.items()
    }


def uid(number: int) -> str:
    """As Pick-a-Pic names images."""
    return f"{number:08d}-9e1c-4366-82c7-aa5977b06375"


def write_pickapic(root: Path, table: pa.Table | None = None, parts: int = 2) -> Path:
    """`data/train-*` in `parts` files with several row groups each, and `data/test_unique-*` with the last row."""
    rows = pickapic() if table is None else table
    (root / "data").mkdir(parents=True)
    size = -(-rows.num_rows // parts)
    for part in range(parts):
        name = f"train-{part:05d}-of-{parts:05d}-c261d1ef2a61d087.parquet"
        pq.write_table(rows.slice(part * size, size), root / "data" / name, row_group_size=2)
    last = rows.slice(rows.num_rows - 1)
    pq.write_table(last, root / "data" / "test_unique-00000-of-00001-e852c19ead276a89.parquet")
    return root


def write_hpdv2(root: Path) -> Path:
    """`ymhao/HPDv2`: pairs in train.json, ranked images in test.json, both archives unpacked."""
    train = [
        {"human_preference": [1, 0], "prompt": "a cat", "file_path": ["0.jpg", "1.jpg"]},
        {"human_preference": [0, 1], "prompt": "a dog", "file_path": ["2.jpg", "3.jpg"]},
    ]
    annotations = [
        {"rank": [1, 2, 3], "user_hash": "1f0a"},
        {"rank": [2, 1, 2], "user_hash": "2b7c"},
    ]
    test = [
        {
            "prompt": "a fox",
            "image_path": ["4.jpg", "5.jpg", "6.jpg"],
            "rank": [1, 2, 3],
            "raw_annotations": annotations,
        }
    ]
    _write_json(root, {"train.json": train, "test.json": test})
    _write_images(root, {f"{'train' if n < 4 else 'test'}/{n}.jpg": n for n in range(7)})
    return root


def write_hpdv3(root: Path) -> Path:
    """`MizzenAI/HPDv3`: pairs whose first image is preferred, and the prompts of two benchmark categories."""
    pairs = [
        ("a cat", 0, 1, "sdxl", "flux"),
        ("a cat", 0, 2, "sdxl", "real_images"),
        ("a dog", 3, 4, "sd3", "sdxl"),
    ]
    train = [
        {
            "prompt": prompt,
            "path1": f"images/{first}.jpg",
            "path2": f"images/{second}.jpg",
            "model1": model_1,
            "model2": model_2,
            "confidence": 0.9,
            "choice_dist": [9, 1],
        }
        for prompt, first, second, model_1, model_2 in pairs
    ]
    benchmark = {
        f"benchmark/benchmark_{name}.json": [{"prompt": f"a {name}"}] for name in ("Animals", "Design")
    }
    _write_json(root, {"train.json": train, "test.json": train[2:], **benchmark})
    _write_images(root, {f"images/{n}.jpg": n for n in range(5)})
    return root


def write_imagerewarddb(root: Path, *, unpacked: bool = False) -> Path:
    """`THUDM/ImageRewardDB`: rows in metadata-train.parquet, images in two archives by part, or unpacked."""
    rows = [
        {
            "image_path": f"images/train/train_{1 + number % 2}/{uid(number)}.webp",
            "prompt_id": f"00{number // 4}",
            "prompt": f"prompt {number // 4}",
            "classification": ["People", "Abstract"][number // 4],
            "image_amount_in_total": 4,
            "rank": [1, 2, 2, 3][number % 4],
            "overall_rating": [7, 5, 5, 1][number % 4],
            "image_text_alignment_rating": 5,
            "fidelity_rating": 6,
        }
        for number in range(8)
    ]
    root.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata-train.parquet")
    if unpacked:
        _write_images(root, {row["image_path"]: number for number, row in enumerate(rows)})
        return root
    for part in (1, 2):
        archive = root / f"images/train/train_{part}.zip"
        archive.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive, "w") as stream:
            for number in range(part - 1, 8, 2):
                stream.writestr(f"{uid(number)}.webp", jpeg(number))
            stream.writestr(f"train_{part}.json", "[]")
    return root


def write_parti(root: Path) -> Path:
    """`nateraw/parti-prompts`: tabs, and quotes that are text."""
    lines = [
        "Prompt\tCategory\tChallenge\tNote",
        "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings",
        '"G I G G L E" painted in thick letters\tIllustrations\tWriting & Symbols\t',
        'a 12" ruler\tArtifacts\tQuantity\tan "inch" sign that opens nothing',
    ]
    root.mkdir(parents=True)
    (root / "PartiPrompts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_hpdv2_prompts(root: Path) -> Path:
    """`zhwang/HPDv2`: a list of texts a style."""
    styles = ("anime", "concept-art", "paintings", "photo")
    _write_json(root, {f"benchmark/{style}.json": [f"{style} one", f"{style} two"] for style in styles})
    return root


def write_vidprom(root: Path, more: Sequence[str] = ()) -> Path:
    """`WenhaoWang/VidProM`: a csv whose prompts span lines, and `more` of them."""
    names = [
        "uuid",
        "prompt",
        "time",
        "toxicity",
        "obscene",
        "identity_attack",
        "insult",
        "threat",
        "sexual_explicit",
    ]
    prompts = {
        "VidProM_unique.csv": ['a "red" fox,\nrunning', "a dog", *more],
        "VidProM_semantic_unique.csv": ["a dog"],
    }
    root.mkdir(parents=True)
    for file, texts in prompts.items():
        with (root / file).open("w", encoding="utf-8", newline="") as stream:
            rows = [[uid(n), text, "Mon Nov 20 2023", *[0.001] * 6] for n, text in enumerate(texts)]
            csv.writer(stream).writerows([names, *rows])
    return root


def write_diffusion_kto(root: Path) -> Path:
    """`jacklishufan/pick-a-pick-kto-processed`, with Pick-a-Pic's images where the csv expects them."""
    labels = ["exclusive_win", "intersections", "exclusive_lose", "exclusive_lose"]
    captions = ["a cat", "a cat", "a dog", ""]
    rows = [
        [n, f"train/{uid(n)}.jpg", caption, label]
        for n, (caption, label) in enumerate(zip(captions, labels, strict=True))
    ]
    root.mkdir(parents=True)
    with (root / "train_processed_v3.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["", "file_name", "caption", "split"], *rows])
    _write_images(root, {f"train/{uid(n)}.jpg": n for n in range(4)})
    return root


def _write_json(root: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _write_images(root: Path, numbers: dict[str, int]) -> None:
    for name, number in numbers.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(number))
