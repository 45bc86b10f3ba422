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
from tgo_pipeline.planning.plan import Plan, StagePlan, Sure, amount
from tgo_pipeline.storage import paths

if TYPE_CHECKING:
    from fine_tune.footprint import Footprint
    from tgo_pipeline.planning.families import Family
    from tgo_pipeline.planning.sampling import Drawing, Encoding
    from tgo_pipeline.planning.scoring import Scoring

Pair = tuple[str, str]
EXAMPLE = 512
"""Prompts that are tokenised to see how long they are."""
ON_CPU, ON_GPU = 8, 256
"""Pictures that the rewards see at once where `runtime.score_batch_size` is not given; a GPU takes what fits."""
USUAL = "a photograph of an old lighthouse on a cliff above the sea, evening light"
PROMPT_ID, SAMPLE_ID = 16, 21
"""Characters of an id, for prompts that are only counted."""


def make(
    params: Params, device: Device, gpus: int = 1, prompts: int | None = None, test_prompts: int | None = None
) -> Plan:
    """The plan of all stages; `prompts` and `test_prompts` are how many to reckon with, none given: those there are.

    Raises `TgoError` if the model's configuration cannot be had, or the prompts cannot be counted.
    """
    run = _Run(params, device, gpus, prompts, test_prompts)
    stages = (
        run.prompts_stage(),
        run.generate(),
        run.score(),
        run.threshold(),
        run.label(),
        run.fine_tune(),
        run.evaluate(),
    )
    return Plan(params.model, device, gpus, stages, tuple(run.warnings(stages)))


@dataclass
class _Run:
    params: Params
    device: Device
    gpus: int
    given: int | None
    given_test: int | None

    @cached_property
    def _table(self) -> list[dict[str, Any]]:
        """The rows of the prompts table: the one there is if it is that of the parameters, else built in memory."""
        from tgo_pipeline.prompts import build, planned_fingerprint
        from tgo_pipeline.storage.tables import PROMPTS, read_metadata, read_table

        section, seed = self.params.prompts, self.params.seed
        if paths.PROMPTS.is_file():
            mark = read_metadata(paths.PROMPTS).get("fingerprint")
            if mark == planned_fingerprint(section, seed):
                return read_table(paths.PROMPTS, PROMPTS).to_pylist()
        return build(section, seed).table.to_pylist()

    def _of(self, split: str) -> list[Pair]:
        return [(row["prompt_id"], row["prompt"]) for row in self._table if row["split"] == split]

    @cached_property
    def train(self) -> list[Pair]:
        """(id, text) of the training prompts; of a number that was given, texts of the usual length."""
        return self._of("train") if self.given is None else _usual(self.given)

    @cached_property
    def test(self) -> list[Pair]:
        return self._of("test") if self.given_test is None else _usual(self.given_test)

    @cached_property
    def family(self) -> Family:
        from tgo_pipeline.planning.blueprint import read_blueprint
        from tgo_pipeline.planning.families import family_of

        return family_of(read_blueprint(self.params.model, self.params.revision), self.params.generate)

    @property
    def _batch(self) -> int:
        """Pictures that are drawn or encoded at a time."""
        return min(self.params.runtime.generate_batch_size, max(1, self.images))

    @cached_property
    def drawing(self) -> Drawing:
        return self._drawing(self.params.generate)

    @cached_property
    def drawing_while_training(self) -> Drawing:
        """The same in float32, which the weights are trained in."""
        if self.params.generate.precision == "fp32":
            return self.drawing
        return self._drawing(dataclasses.replace(self.params.generate, precision="fp32"))

    def _drawing(self, generate: GenerateParams) -> Drawing:
        from tgo_pipeline.planning.sampling import drawing

        return drawing(self.family, generate, self._batch)

    @cached_property
    def encoding(self) -> Encoding:
        from tgo_pipeline.planning.sampling import encoding

        return encoding(self.family, self._batch)

    @property
    def drawn(self) -> bool:
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
        return _rows_of_existing(self.params)

    @cached_property
    def shards(self) -> int:
        generate = self.params.generate
        if self.drawn:
            return disk.shard_count(len(self.train), generate.images_per_prompt, generate.shard_size)
        return math.ceil(self.images / generate.shard_size)

    def _stage(
        self, stage: str, precision: Precision = "fp32", flops: float = 0.0, **values: Any
    ) -> StagePlan:
        hours = self.device.hours(flops, precision) / self.gpus
        return StagePlan(stage=stage, precision=precision, flops=flops, hours=hours, **values)

    def prompts_stage(self) -> StagePlan:
        rows = len(self.train) + len(self.test)
        sizes = sum(len(text.encode()) + 2 * PROMPT_ID for _, text in (*self.train, *self.test))
        bound = sizes + rows * disk.ROW_BYTES + disk.PARQUET_BYTES
        work = f"{len(self.train):,} train, {len(self.test):,} test"
        return self._stage("prompts", work=work, rows=rows, files=1, disk_bytes=bound, disk="at most")

    def generate(self) -> StagePlan:
        width, height = self.family.width, self.family.height
        size, sure = _pictures(self.images, self.shards, width, height)
        work = f"{self.images:,} images of {width}x{height}"
        common = {
            "images": self.images,
            "rows": self.images,
            "files": self.shards,
            "disk_bytes": size,
            "disk": sure,
        }
        if not self.drawn:
            return self._stage("generate", work=f"{work}, taken as they are", **common)
        drawing = self.drawing
        return self._stage(
            "generate",
            self.params.generate.precision,
            flops=drawing.flops_per_image * self.images,
            work=work,
            memory_bytes=drawing.peak_bytes,
            parts={"weights": drawing.weight_bytes, "activations": drawing.activation_bytes},
            **common,
        )

    def _scoring(self, rewards: dict[str, str | None]) -> tuple[Scoring, Precision]:
        from tgo_pipeline.planning.scoring import scoring
        from tgo_pipeline.rewards.specs import resolve_all

        on_cpu = self.device.name == "cpu"
        precision: Precision = "fp32" if on_cpu or self.params.score.dtype == "fp32" else "fp16"
        batch = self.params.runtime.score_batch_size or (ON_CPU if on_cpu else ON_GPU)
        texts = [text for _, text in self.train[:EXAMPLE]]
        return scoring(resolve_all(rewards), texts, batch, precision), precision

    def score(self) -> StagePlan:
        columns = self.params.score.columns
        bound = disk.table_most_bytes(self.images, PROMPT_ID + SAMPLE_ID, self.shards, len(columns))
        common: dict[str, Any] = {
            "work": f"{self.images:,} images, {len(columns)} columns",
            "rows": self.images,
            "files": self.shards,
            "disk_bytes": bound,
            "disk": "at most",
        }
        if not self.params.score.rewards:
            return self._stage("score", **common)
        cost, precision = self._scoring(self.params.score.rewards)
        flops = cost.flops_per_image * self.images + cost.flops_per_prompt * len(self.train)
        parts = {"weights": cost.weight_bytes, "activations": cost.peak_bytes - cost.weight_bytes}
        return self._stage("score", precision, flops, memory_bytes=cost.peak_bytes, parts=parts, **common)

    def threshold(self) -> StagePlan:
        work = f"{len(self.params.score.columns)} rewards"
        return self._stage("threshold", work=work, files=1, disk_bytes=disk.PARQUET_BYTES * 4, disk="at most")

    def label(self) -> StagePlan:
        bound = disk.table_most_bytes(self.images, PROMPT_ID + SAMPLE_ID, self.shards, 1)
        work = f"{self.images:,} labels"
        return self._stage(
            "label", work=work, rows=self.images, files=self.shards, disk_bytes=bound, disk="at most"
        )

    @cached_property
    def footprints(self) -> dict[str, Footprint]:
        """The training's, or those of a guidance's modules by name."""
        from fine_tune.footprint import training
        from fine_tune.guidance_modules import modules

        runs = modules(self.params) or {"": self.params}
        return {name: training(self.family, self.encoding, each, self.gpus) for name, each in runs.items()}

    def fine_tune(self) -> StagePlan:
        tuning = self.params.fine_tune
        feet = list(self.footprints.values())
        encoding, largest = self.encoding, max(feet, key=lambda foot: foot.peak_bytes)
        extra_flops, extra_bytes, peak = self._validation(largest)
        encoder = encoding.per_image.times(self.images).then(encoding.per_prompt.times(len(self.train) + 1))
        training = sum(foot.flops_per_step * tuning.steps for foot in feet)
        precision: Precision = tuning.precision if self.device.name != "cpu" else "fp32"
        sizes = self._sizes(feet)
        hours = self.device.hours(encoder.flops + extra_flops, "fp32") + self.device.hours(
            training, precision
        )
        name = tuning.objective if len(feet) == 1 else f"{len(feet)} modules of {tuning.objective}"
        return StagePlan(
            stage="fine_tune",
            work=f"{tuning.steps:,} steps of {tuning.batch_size:,}, {name}, {tuning.method}",
            files=int(sizes.pop("files")),
            disk_bytes=int(sum(sizes.values())),
            disk="exact" if self.drawn and self.given is None else "about",
            flops=encoder.flops + training + extra_flops,
            precision=precision,
            memory_bytes=max(encoder.peak_bytes, peak, extra_bytes),
            hours=hours / self.gpus,
            parts={
                "weights": largest.weight_bytes,
                "reference": largest.reference_bytes,
                "gradients": largest.gradient_bytes,
                "optimizer": largest.optimizer_bytes,
                "average": largest.average_bytes,
                "activations": largest.activation_bytes,
                "encoding": encoder.peak_bytes,
                "training": training,
                **{f"{name} on disk": size for name, size in sizes.items()},
            },
        )

    def _validation(self, foot: Footprint) -> tuple[float, int, int]:
        """Operations of pictures that are drawn on the way, the peak while they are, and that of the training."""
        validation, drawing = self.params.fine_tune.validation, self.drawing_while_training
        if not validation.every:
            return 0.0, 0, foot.peak_bytes
        times = self.params.fine_tune.steps // validation.every + 1
        pictures = times * min(validation.prompts, len(self.test)) * len(self.footprints)
        encoders = max(0, drawing.weight_bytes - foot.weight_bytes)
        while_drawing = foot.state_bytes + encoders + drawing.activation_bytes
        return pictures * drawing.flops_per_image, while_drawing, foot.peak_bytes + encoders

    def _sizes(self, feet: list[Footprint]) -> dict[str, float]:
        """Bytes of the encoded cache, of a checkpoint and of the result, and the number of their files."""
        texts = ["", *sorted({text for _, text in self.train} - {""})]
        from fine_tune.data.cache import PROMPTS_PER_SHARD

        chunks = [
            texts[start : start + PROMPTS_PER_SHARD] for start in range(0, len(texts), PROMPTS_PER_SHARD)
        ]
        parts = self.listed if self.drawn else [[("x" * SAMPLE_ID, "")] * self.images]
        foot = feet[0]
        checkpoint = disk.safetensors_bytes(foot.trained, {}) + disk.safetensors_bytes(foot.optimizer, {})
        checkpoint += disk.safetensors_bytes(foot.trained, {}) if foot.average_bytes else 0
        return {
            "files": self.shards + len(chunks) + len(feet) * self._result_files(),
            "encoded": disk.encoded_bytes(parts, chunks, self.encoding.image, self.encoding.prompt),
            "checkpoint": checkpoint,
            "result": len(feet) * self._result_bytes(foot),
        }

    def _result_files(self) -> int:
        return 1 if self.params.fine_tune.method == "lora" else len(self.family.blueprint.networks)

    def _result_bytes(self, foot: Footprint) -> int:
        """Weight files of the result: an adapter, or every network of the pipeline."""
        from tgo_pipeline.planning.meter import imagined

        if self.params.fine_tune.method == "lora":
            return disk.safetensors_bytes(foot.trained, {})
        blueprint = self.family.blueprint
        with imagined():
            return sum(disk.network_bytes(blueprint.build(name)) for name in blueprint.networks)

    def evaluate(self) -> StagePlan:
        section = self.params.evaluate
        sides = 2 + len(section.models)
        each = len(self.test) * section.images_per_prompt
        shards = disk.shard_count(len(self.test), section.images_per_prompt, self.params.generate.shard_size)
        bound = sides * each * disk.png_most_bytes(self.family.width, self.family.height)
        rewards = {**self.params.score.rewards, **section.rewards}
        columns = sides * disk.table_most_bytes(each, PROMPT_ID + SAMPLE_ID, shards, len(rewards))
        cost, precision = self._scoring(rewards)
        drawn = sides * each * self.drawing.flops_per_image
        scored = sides * (each * cost.flops_per_image + len(self.test) * cost.flops_per_prompt)
        hours = self.device.hours(drawn, self.params.generate.precision) + self.device.hours(
            scored, precision
        )
        return StagePlan(
            stage="evaluate",
            work=f"{sides} models, {len(self.test):,} prompts, {section.images_per_prompt} images each",
            images=sides * each,
            files=2 * sides * shards,
            disk_bytes=bound + columns,
            disk="at most",
            flops=drawn + scored,
            precision=precision,
            memory_bytes=max(self.drawing.peak_bytes, cost.peak_bytes),
            hours=hours / self.gpus,
        )

    def warnings(self, stages: tuple[StagePlan, ...]) -> list[str]:
        """What will not fit, and what was not counted."""
        found = []
        memory = self.device.memory_gb
        for stage in stages:
            if memory is not None and stage.memory_bytes > 0.9 * memory * 1e9:
                found.append(
                    f"{stage.stage} takes {amount(stage.memory_bytes)}B, and {self.device.name} has {memory:.4g} GB: "
                    f"{_advice(stage.stage, self.params, self.gpus)}."
                )
        own = [name for name, value in self.params.score.rewards.items() if ":" in (value or name)]
        if own:
            found.append(f"not counted: {', '.join(own)}, rewards of your own.")
        return found


def _usual(count: int) -> list[Pair]:
    """So many prompts of the usual length, for a plan before there are any."""
    return [(f"{number:0{PROMPT_ID}x}", USUAL) for number in range(count)]


def _advice(stage: str, params: Params, gpus: int) -> str:
    runtime, tuning = params.runtime, params.fine_tune
    if stage in ("generate", "evaluate"):
        return f"lower runtime.generate_batch_size ({runtime.generate_batch_size})"
    if stage == "score":
        return (
            "lower runtime.score_batch_size, or let runtime.score_memory_gb load rewards one after the other"
        )
    smaller = [f"runtime.micro_batch_size ({runtime.micro_batch_size or tuning.batch_size})"]
    smaller.append(f"runtime.generate_batch_size ({runtime.generate_batch_size}, for encoding)")
    more = [] if runtime.gradient_checkpointing else ["runtime.gradient_checkpointing: true"]
    more += ["fine_tune.method: lora"] if tuning.method == "full" else []
    more += ["configs/accelerate/fsdp2.yaml, which cuts weights and states into shards"] if gpus > 1 else []
    return f"lower {' and '.join(smaller)}" + (f"; or {', '.join(more)}" if more else "")


def _pictures(images: int, shards: int, width: int, height: int) -> tuple[int, Sure]:
    """Bytes of the generation shards: of those there are, by their mean, or the most that they can be."""
    sizes = [file.stat().st_size for file in paths.GENERATIONS.glob("train-*.parquet")]
    if sizes and len(sizes) == shards:
        return sum(sizes), "exact"
    if sizes:
        return int(sum(sizes) / len(sizes) * shards), "about"
    return images * (
        disk.png_most_bytes(width, height) + 2 * disk.ROW_BYTES
    ) + shards * disk.PARQUET_BYTES, "at most"


def _rows_of_existing(params: Params) -> int:
    import pyarrow.parquet as pq

    files = list(paths.GENERATIONS.glob("train-*.parquet"))
    if files:
        return sum(pq.read_metadata(file).num_rows for file in files)
    raise TgoError(
        f"generate.images is {params.generate.images} and says by itself how many images it has only while they are "
        "taken: set generate.limit, say how many with --prompts, or run the generate stage first."
    )
