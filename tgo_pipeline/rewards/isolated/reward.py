"""A reward in an interpreter of its own behind the seam of every reward: found, fingerprinted, loaded, and asked.

A worker that ends or hangs is started again and gets the images one by one, so that one image that it cannot bear costs
its own row alone. Where nothing helps the run ends with the reason; what was scored before is kept by who asked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import cache
from tgo_pipeline.plugins import folder
from tgo_pipeline.rewards import specs
from tgo_pipeline.rewards.custom_identity import check_parts
from tgo_pipeline.rewards.files import layouts
from tgo_pipeline.rewards.isolated import environments, names
from tgo_pipeline.rewards.specs import Spec
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.stores.inputs import local_path

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from tgo_pipeline.rewards.base import Reward
    from tgo_pipeline.rewards.isolated.process import WorkerProcess, WorkerRequest

log = logging.getLogger("tgo")
OFFICIAL = Path(__file__).with_name("official.py")
VERSION = 1
"""Raise it when `worker.py` or `official.py` gives the rewards other images, prompts or weights."""
MOST_LOSSES = 3
"""Workers in a row that may be lost before one has scored anything in between."""


def fingerprint(spec: Spec) -> str:
    """What the scores depend on besides the sample; starts no process and downloads nothing."""
    if spec.reward.startswith(names.OFFICIAL):
        name = spec.reward.removeprefix(names.OFFICIAL)
        versions = environments.versions(names.PACKAGES[name].environment)
        contents = layouts.contents(name, spec.source)
        return fingerprint_of(official=name, version=VERSION, packages=versions, contents=contents)
    own = names.own_worker(spec.reward)
    reference = f"{own.module}:{own.object}"
    source = local_path(spec.source) if spec.source else None
    return fingerprint_of(
        worker=reference,
        version=folder.stated_version(reference) or VERSION,
        code=[content_fingerprint(file) for file in environments.code_files(own)],
        packages=environments.installed(names.interpreter(own.python)),
        source=content_fingerprint(source) if source and source.exists() else spec.source,
    )


def require(spec: Spec) -> list[Path]:
    """See that interpreter and files are there; returns the weight files that the worker will read."""
    interpreter_of(spec.reward)
    if spec.reward.startswith(names.WORKER):
        return []
    return layouts.locate(spec.reward.removeprefix(names.OFFICIAL), spec.source).weight_files()


def interpreter_of(reward: str) -> Path:
    """The interpreter of a reward's worker. Raises `TgoError` if it is not there, or not as it should be."""
    if reward.startswith(names.WORKER):
        return names.interpreter(names.own_worker(reward).python)
    return environments.python(names.PACKAGES[reward.removeprefix(names.OFFICIAL)].environment)


def load(spec: Spec, device: torch.device) -> Reward:
    """Start the worker and wait until it has loaded the reward. Raises `TgoError` if it cannot."""
    from tgo_pipeline.rewards.custom import FunctionReward

    require(spec)
    request = _request(spec, str(device))
    worker = IsolatedFunction(spec.reward, request)
    reward = FunctionReward(spec.column, worker)
    check_parts(spec.column, reward.parts, specs.parts(spec.reward))
    about, digests = worker.about, dict(worker.about["sha256"])
    if spec.reward.startswith(names.OFFICIAL):
        weights = Path(request.source["weights"])
        digests[weights.name] = layouts.digest(weights)
    reward.identity = {
        "reward": spec.reward,
        "version": fingerprint(spec),
        "source": spec.source or spec.reward,
        "python": about["python"],
        "packages": ", ".join(f"{name} {version}" for name, version in about["packages"].items()),
        "sha256": ", ".join(f"{file} {digest}" for file, digest in digests.items()),
    }
    return reward


def _request(spec: Spec, device: str) -> WorkerRequest:
    from tgo_pipeline.rewards.isolated.process import WorkerRequest

    python = interpreter_of(spec.reward)
    if spec.reward.startswith(names.WORKER):
        own = names.own_worker(spec.reward)
        return WorkerRequest(python, own.object, module=own.module, source=spec.source, device=device)
    name = spec.reward.removeprefix(names.OFFICIAL)
    package = names.PACKAGES[name]
    files = layouts.locate(name, spec.source)
    if files.weights.suffix != package.suffix:
        raise TgoError(
            f"reward {spec.reward}: the package reads the official {package.suffix} file, not {files.weights.name}."
        )
    given = {"weights": str(files.weights)} | {key: str(path) for key, path in files.companions.items()}
    if name == "imagereward":
        given.setdefault("med_config.json", str(_med_config()))
    return WorkerRequest(python, package.object, file=OFFICIAL, source=given, device=device)


def _med_config() -> Path:
    """The description of ImageReward's text network, which the package would download, as a file."""
    from tgo_pipeline.hub.checkpoint import write_json
    from tgo_pipeline.rewards.image_reward import OFFICIAL_MED

    path = cache.folder("official") / "med_config.json"
    write_json(path, {"model_type": "bert", "add_cross_attention": True, **OFFICIAL_MED})
    return path


class IsolatedFunction:
    """The function of a reward, in a process that is started again when it was lost."""

    def __init__(self, name: str, request: WorkerRequest) -> None:
        self._name, self._request = name, request
        self._process: WorkerProcess | None = None
        self._losses, self._scored = 0, False
        self.reasons: list[str | None] = []
        """Why each image of the last call has no score; None where it has one."""
        self.about = self._started().about
        self.scale, self.needs_prompt = self.about["scale"], self.about["needs_prompt"]
        self.typical_range, self.parts = self.about["typical_range"], self.about["parts"]

    def __call__(self, images: Sequence[Image], prompts: Sequence[str]) -> list[Any]:
        """Scores, or rows of numbers of a reward with parts; NaN where `reasons` says why there is none.

        Raises MemoryError if memory ran out with several images, and `TgoError` if the worker is lost again and again,
        or none of the first images can be scored.
        """
        found = self._asked(images, prompts)
        rows, self.reasons = [row for row, _ in found], [reason for _, reason in found]
        if not self._scored and all(self.reasons):
            raise TgoError(f"reward {self._name} {self.reasons[0]}.")
        self._scored = True
        return rows if self.parts else [score for (score,) in rows]

    def _asked(self, images: Sequence[Image], prompts: Sequence[str]) -> list[tuple[list[float], str | None]]:
        from tgo_pipeline.rewards.isolated.process import WorkerLost

        try:
            answer = self._started().score(images, prompts)
        except WorkerLost as loss:
            self._process = None
            self._losses += 1
            log.warning("reward %s: %s; starting it again", self._name, loss)
            if self._losses > MOST_LOSSES:
                raise TgoError(
                    f"reward {self._name}: {loss}. It was started {MOST_LOSSES} times and scored nothing in between; "
                    "what was scored before is kept."
                ) from None
            if len(images) == 1:
                return [(self._nothing(), f"has none: {loss}")]
            return [self._asked([image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
        if error := answer.get("error"):
            if answer["memory"] and len(images) > 1:
                raise MemoryError(error)
            return [(self._nothing(), f"raised {error}")] * len(images)
        self._losses = 0
        pairs = zip(answer["scores"], answer["reasons"], strict=True)
        return [
            ([math.nan if number is None else number for number in row] or self._nothing(), reason)
            for row, reason in pairs
        ]

    def _nothing(self) -> list[float]:
        return [math.nan] * (1 + len(self.parts))

    def _started(self) -> WorkerProcess:
        from tgo_pipeline.rewards.isolated.process import WorkerProcess

        if self._process is None:
            try:
                self._process = WorkerProcess(self._request)
            except TgoError as error:
                raise TgoError(f"reward {self._name} cannot be loaded: {error}") from None
        return self._process
