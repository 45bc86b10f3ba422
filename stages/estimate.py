"""What a run will take, stage by stage, for `tgo plan`: from the parameters and configuration files alone."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import GenerateParams, Params
from tgo_pipeline.params.checks import Precision
from tgo_pipeline.planning import disk
from tgo_pipeline.planning.gpus import Device
from tgo_pipeline.planning.plan import StagePlan
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from fine_tune.footprint import Footprint
    from tgo_pipeline.planning.blueprint import Blueprint
    from tgo_pipeline.planning.families import Family
    from tgo_pipeline.planning.sampling import Encoding, SamplingCost
    from tgo_pipeline.planning.scoring import Scoring

Pair = tuple[str, str]
EXAMPLE = 512
"""Prompts that are tokenised to see how long they are: their mean is then known to a few percent."""
ON_CPU, ON_GPU = 8, 256
"""Images that the rewards see at once where `runtime.score_batch_size` is not given; a GPU takes what fits."""
USUAL = "a photograph of an old lighthouse on a cliff above the sea, evening light"
PROMPT_ID, SAMPLE_ID = 16, 21
"""Characters of an id, for prompts that are only counted."""


@dataclass
class Estimate:
    """What is known of a run before it begins. Each stage's `estimate` asks it; only what is asked for is computed."""

    params: Params
    device: Device
    gpus: int
    given: int | None
    given_test: int | None
    workspace: Workspace = HERE

    @cached_property
    def _table(self) -> pa.Table:
        """The prompts table: the one there is if it is that of the parameters, else built in memory."""
        from tgo_pipeline.prompts import build, planned_fingerprint
        from tgo_pipeline.storage.tables import PROMPTS, read_metadata, read_table

        section, seed = self.params.prompts, self.params.seed
        if self.workspace.prompts.is_file():
            mark = read_metadata(self.workspace.prompts).get("fingerprint")
            if mark == planned_fingerprint(section, seed):
                return read_table(self.workspace.prompts, PROMPTS)
        return build(section, seed).table

    def _of(self, split: str) -> list[Pair]:
        from tgo_pipeline.prompts.split import of_split

        return of_split(self._table, split)

    @cached_property
    def train(self) -> list[Pair]:
        """(id, text) of the training prompts; of a number that was given, texts of the usual length."""
        return self._of("train") if self.given is None else _usual(self.given)

    @cached_property
    def test(self) -> list[Pair]:
        """The prompts of the test sets."""
        return self._of("test") if self.given_test is None else _usual(self.given_test)

    @cached_property
    def blueprint(self) -> Blueprint:
        """The model's networks by their configurations, without weights."""
        from tgo_pipeline.planning.blueprint import read_blueprint

        return read_blueprint(self.params.model, self.params.revision)

    @cached_property
    def family(self) -> Family:
        """The one that is sampled: by the class of the pipeline; `fine_tune.policy` if that is not known."""
        from fine_tune.policies import family_of
        from tgo_pipeline.plugins.kinds import POLICY

        tuning = self.params.fine_tune
        if self.blueprint.kind in POLICY.names():
            tuning = dataclasses.replace(tuning, policy=None)
        return family_of(self.blueprint, self.params.generate, tuning)

    @cached_property
    def trained(self) -> Family:
        """The one that is encoded for and trained: that of `fine_tune.policy`, if it is given."""
        from fine_tune.policies import family_of

        return family_of(self.blueprint, self.params.generate, self.params.fine_tune)

    @property
    def what(self) -> str:
        """What is drawn: an image or a clip."""
        return "image" if self.family.frames is None else "clip"

    @property
    def size(self) -> str:
        """Of an image or a clip, in words."""
        frames = "" if self.family.frames is None else f"x{self.family.frames}"
        return f"{self.family.width}x{self.family.height}{frames}"

    @property
    def most_bytes(self) -> int:
        """What the file of an image, or both of a clip, takes at most."""
        width, height, frames = self.family.width, self.family.height, self.family.frames
        return (
            disk.png_most_bytes(width, height)
            if frames is None
            else disk.clip_most_bytes(width, height, frames)
        )

    @property
    def _batch(self) -> int:
        """Images that are drawn or encoded at a time."""
        return min(self.params.runtime.generate_batch_size, max(1, self.images))

    @property
    def _on_gpu(self) -> bool:
        return self.device.name != "cpu"

    @cached_property
    def drawing(self) -> SamplingCost:
        """The cost of one image of the generate stage."""
        return self._drawing(self.params.generate, self._batch)

    @cached_property
    def drawing_while_training(self) -> SamplingCost:
        """The same with the network in training, float32, guided by no module; its prompts were read before."""
        generate = dataclasses.replace(self.params.generate, precision="fp32", guidance=None)
        batch = min(self._batch, max(1, self.params.fine_tune.validation.prompts))
        return self._drawing(generate, batch, read=True)

    def smallest_drawing(self, tiled: bool) -> SamplingCost:
        """The cost of one at a time with text encoders off the device, and the VAE in tiles."""
        return self._drawing(self.params.generate, 1, read=True, tiled=tiled)

    def _drawing(
        self, generate: GenerateParams, batch: int, read: bool = False, tiled: bool = False
    ) -> SamplingCost:
        from tgo_pipeline.planning.sampling import drawing

        return drawing(self.family, generate, batch, sliced=self._on_gpu, read=read, tiled=tiled)

    @cached_property
    def encoding(self) -> Encoding:
        """The cost of encoding one image for fine-tuning."""
        from tgo_pipeline.planning.sampling import encoding

        return encoding(self.trained, self._batch, sliced=self._on_gpu)

    @property
    def drawn(self) -> bool:
        """Whether a model draws the images; others exist already."""
        return self.params.generate.source == "model"

    @cached_property
    def listed(self) -> list[list[Pair]]:
        """(sample id, prompt) of every training image, shard by shard, where that is known before it is drawn."""
        from tgo_pipeline.generators.stage import rows
        from tgo_pipeline.storage.chunks import chunks

        generate = self.params.generate
        todo = rows(self.train, images_per_prompt=generate.images_per_prompt, seed=0, purpose="")
        return [[(row.sample_id, row.prompt) for row in part] for part in chunks(todo, generate.shard_size)]

    @cached_property
    def images(self) -> int:
        """How many training images there are."""
        generate = self.params.generate
        if self.drawn:
            return len(self.train) * generate.images_per_prompt
        if self.given is not None or generate.limit is not None:
            return min(each for each in (self.given, generate.limit) if each is not None)
        return _rows_of_existing(self.params, self.workspace)

    @cached_property
    def shards(self) -> int:
        """How many shards the training images fill."""
        generate = self.params.generate
        if self.drawn:
            return disk.shard_count(len(self.train), generate.images_per_prompt, generate.shard_size)
        return math.ceil(self.images / generate.shard_size)

    def stage(
        self, stage: str, precision: Precision = "fp32", flops: float = 0.0, **values: Any
    ) -> StagePlan:
        """Devices take whole shards: the last ones to end are waited for."""
        shards = values.get("files") or self.gpus
        turns = math.ceil(shards / self.gpus)
        hours = self.device.hours(flops, precision) / shards * turns
        return StagePlan(stage=stage, precision=precision, flops=flops, hours=hours, **values)

    def scoring(self, rewards: dict[str, str | None]) -> tuple[Scoring, Precision]:
        """The cost of scoring one image by some rewards, and the precision of it."""
        from tgo_pipeline.planning.scoring import scoring
        from tgo_pipeline.rewards.specs import resolve_all

        on_cpu = not self._on_gpu
        precision: Precision = "fp32" if on_cpu or self.params.score.dtype == "fp32" else "fp16"
        batch = self.params.runtime.score_batch_size or (ON_CPU if on_cpu else ON_GPU)
        texts = [text for _, text in self.train[:EXAMPLE]]
        frames = 1 if self.family.frames is None else self.params.score.frames
        return scoring(resolve_all(rewards), texts, batch, precision, frames), precision

    @cached_property
    def footprints(self) -> dict[str, Footprint]:
        """The training's, or those of a guidance's modules by name."""
        from fine_tune.footprint import training
        from fine_tune.guidance_modules import modules

        runs = modules(self.params) or {"": self.params}
        return {name: training(self.trained, self.encoding, each, self.gpus) for name, each in runs.items()}


def _usual(count: int) -> list[Pair]:
    """So many prompts of the usual length, for a plan before there are any."""
    return [(f"{number:0{PROMPT_ID}x}", USUAL) for number in range(count)]


def _rows_of_existing(params: Params, workspace: Workspace) -> int:
    from tgo_pipeline.storage.tables import row_count

    files = list(workspace.generations.glob("train-*.parquet"))
    if files:
        return sum(row_count(file) for file in files)
    raise TgoError(
        f"generate.images is {params.generate.images} and says by itself how many images it has only while they are "
        "taken: set generate.limit, say how many with --prompts, or run the generate stage first."
    )
