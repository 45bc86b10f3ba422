"""Asks the official packages for scores, token ids and prepared images. Runs in their environment.

python -m benchmarks.parity.answers CHECKPOINTS REQUEST.json ANSWER

REQUEST holds `rewards`, `images` (name to file), `prompts` (name to text) and `exact`, whether to compute in double
precision too. ANSWER becomes a folder with `answer.json` and, per reward, a `.npz` of prepared images.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.parity.packages import Aesthetic, ClipScore, ImageReward, Official, load

PACKAGES = (
    *("hpsv2", "image-reward", "clip-anytorch", "transformers", "tokenizers", "timm", "open_clip_torch"),
    *("torch", "torchvision", "pillow", "numpy", "ftfy"),
)


class Questions:
    """All questions to one reward; `unscored` gathers the images that its code raises for, with what it said."""

    def __init__(self, official: Official, images: dict[str, str], prompts: dict[str, str]) -> None:
        self.official = official
        self.images = images
        self.prompts = prompts
        self.unscored: dict[str, str] = {}

    def prepared(self) -> dict[str, np.ndarray]:
        """The tensor of every image that can be prepared."""
        tensors = {}
        for name, path in self.images.items():
            try:
                tensors[name] = self.official.prepared(path).numpy()
            except Exception as error:  # noqa: BLE001 (whatever the package raises is the answer)
                self.unscored[name] = reason(error)
        return tensors

    def pairs(self) -> list[dict[str, Any]]:
        """Score or error of every image with every prompt; both where a long prompt had to be cut first."""
        rows = []
        for prompt, text in self.prompts.items():
            complaint = self._complaint(text)
            scores: dict[str, float] = {}
            self._score(self._readable(), text, complaint is not None, scores)
            for name in self.images:
                error = self.unscored.get(name) or complaint
                rows.append({"image": name, "prompt": prompt, "score": scores.get(name), "error": error})
        return rows

    def _readable(self) -> list[str]:
        return [name for name in self.images if name not in self.unscored]

    def _complaint(self, text: str) -> str | None:
        """What the README's call raises for a prompt; only OpenAI's tokenizer does."""
        if isinstance(self.official, ClipScore):
            try:
                self.official.package.tokenize([text])
            except RuntimeError as error:
                return reason(error)
        return None

    def _score(self, names: list[str], text: str, truncated: bool, scores: dict[str, float]) -> None:
        """Score the list at once; halve it when it fails, until the image that fails stands alone."""
        if not names:
            return
        score = self.official.score
        if truncated and isinstance(self.official, ClipScore):
            score = self.official.score_truncated
        try:
            scores.update(zip(names, score([self.images[name] for name in names], text), strict=True))
        except Exception as error:  # noqa: BLE001 (whatever the package raises is the answer)
            if len(names) == 1:
                self.unscored[names[0]] = reason(error)
                return
            middle = len(names) // 2
            self._score(names[:middle], text, truncated, scores)
            self._score(names[middle:], text, truncated, scores)

    def tokens(self) -> dict[str, list[int]]:
        """Token ids of every prompt."""
        if isinstance(self.official, Aesthetic):
            return {}
        return {prompt: self.official.tokens(text) for prompt, text in self.prompts.items()}

    def ranks(self) -> dict[str, Any]:
        """ImageReward's list call for every prompt, over the images that can be scored."""
        if not isinstance(self.official, ImageReward):
            return {}
        names = self._readable()
        paths = [self.images[name] for name in names]
        found = {prompt: self.official.rank(paths, text) for prompt, text in self.prompts.items()}
        return {
            prompt: {"images": names, "ranks": ranks, "scores": scores}
            for prompt, (ranks, scores) in found.items()
        }

    @torch.no_grad()
    def add_exact(self, rows: list[dict[str, Any]]) -> None:
        """Add to every scored pair what double precision gives; the network stays in it."""
        self.official.double()
        scored = [row for row in rows if row["score"] is not None]
        pairs = [(self.images[row["image"]], self.prompts[row["prompt"]]) for row in scored]
        for row, exact in zip(scored, self.official.exact(pairs), strict=True):
            row["exact"] = exact


def ask(name: str, checkpoints: Path, request: dict[str, Any], out: Path) -> dict[str, Any]:
    """Everything about one reward; the prepared images go to a file in `out`."""
    start = time.perf_counter()
    questions = Questions(load(name, checkpoints), request["images"], request["prompts"])
    prepared: dict[str, Any] = questions.prepared()
    np.savez(out / f"{name.replace('/', '-')}.npz", **prepared)
    rows = questions.pairs()
    answer = {"tokens": questions.tokens(), "ranks": questions.ranks(), "pairs": rows}
    answer["seconds"] = time.perf_counter() - start
    if request["exact"]:
        questions.add_exact(rows)
    return answer


def reason(error: Exception) -> str:
    """Type and words of an error in one line; of a long one, which may quote a prompt, the ends."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 160 else f'{text[:30]} ... {text[-120:]}'}"


def main() -> None:
    """Answer the request that the command line names."""
    checkpoints, request_file, out = (Path(argument).resolve() for argument in sys.argv[1:4])
    request = json.loads(request_file.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    answers = {name: ask(name, checkpoints, request, out) for name in request["rewards"]}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    content = {"versions": {"python": sys.version.split()[0], **versions}, "rewards": answers}
    (out / "answer.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
