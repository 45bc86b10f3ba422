"""A plan: what each stage does, writes, computes and holds, and how it is shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tgo_pipeline.params.checks import Precision
from tgo_pipeline.planning.gpus import Device, utilisation

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDE = 130
"""Columns of the table where there is no terminal."""
Sure = Literal["exact", "at most", "about"]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage. Operations are over all devices, memory is on one device, and hours are for all of them together."""

    stage: str
    work: str = ""
    images: int = 0
    """Images that it draws or takes."""
    rows: int = 0
    """Of its tables."""
    files: int = 0
    disk_bytes: int = 0
    disk: Sure = "exact"
    flops: float = 0.0
    precision: Precision = "fp32"
    memory_bytes: int = 0
    hours: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    """What memory, disk and operations are made of, by name."""


@dataclass(frozen=True)
class Plan:
    """All stages of a run on `gpus` devices of one kind, and what to know about the numbers."""

    model: str
    device: Device
    gpus: int
    stages: tuple[StagePlan, ...]
    warnings: tuple[str, ...] = ()
    price: float | None = None
    """Dollars for a device and an hour."""

    def dollars(self, hours: float) -> float | None:
        """What all devices cost for so long; None without a price."""
        return None if self.price is None else hours * self.gpus * self.price

    @property
    def total(self) -> StagePlan:
        """The sum of all stages, and the largest memory."""
        return StagePlan(
            stage="total",
            images=sum(each.images for each in self.stages),
            files=sum(each.files for each in self.stages),
            disk_bytes=sum(each.disk_bytes for each in self.stages),
            disk="exact" if all(each.disk == "exact" for each in self.stages) else "at most",
            flops=sum(each.flops for each in self.stages),
            memory_bytes=max(each.memory_bytes for each in self.stages),
            hours=sum(each.hours for each in self.stages),
        )

    def stage(self, name: str) -> StagePlan:
        """The plan of one stage."""
        return next(each for each in self.stages if each.stage == name)

    @property
    def assumptions(self) -> list[str]:
        """What the numbers rest on."""
        half, single = (f"{utilisation()[kind]:.0%}" for kind in ("half", "single"))
        device = self.device
        return [
            f"Hours: {device.name} at {half} of {device.half_tflops:.4g} TFLOP/s in half precision and {single} of "
            f"{device.single_tflops:.4g} in float32 ({device.source}); sampling is in generate.precision, encoding in "
            "float32.",
            "Operations: counted on the networks themselves; a multiplication and its addition are two.",
            "Memory: tensors on one device at the peak, without the driver (0.5 GB on a GPU), what libraries need "
            "inside of operations, and what an allocator wastes: keep a tenth free.",
            *(
                ["Dollars: every device is paid for until the last one ends."]
                if self.price is not None
                else []
            ),
            "Disk, exact: sizes follow from shapes and names. At most: images as large as a PNG can be (drawn ones "
            "take about half), tables without compression. About: from files that are there.",
        ]

    def as_json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            "model": self.model,
            "gpus": self.gpus,
            "device": dataclasses.asdict(self.device),
            "stages": [dataclasses.asdict(each) for each in self.stages],
            "total": dataclasses.asdict(self.total),
            "dollars": self.dollars(self.total.hours),
            "warnings": list(self.warnings),
            "assumptions": self.assumptions,
        }


def show(plan: Plan) -> RenderableType:
    """The table of a plan with its total, warnings and assumptions."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    title = f"{plan.model} on {plan.gpus} x {plan.device.name}"
    shown = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("stage")
    shown.add_column("work", overflow="fold")
    priced = [] if plan.price is None else ["dollars"]
    for name in ("files", "disk", "memory", "operations", "hours", *priced):
        shown.add_column(name, justify="right")
    for each in plan.stages:
        shown.add_row(*_row(plan, each))
    shown.add_section()
    shown.add_row(*_row(plan, plan.total), style="bold")
    notes = [f"[yellow]! {escape(text)}[/]" for text in plan.warnings]
    notes += [f"[dim]{escape(text)}[/]" for text in plan.assumptions]
    return Group(shown, *notes)


def _row(plan: Plan, stage: StagePlan) -> list[str]:
    dollars = plan.dollars(stage.hours)
    sign = {"exact": "", "at most": "≤ ", "about": "≈ "}[stage.disk]
    return [
        stage.stage,
        stage.work,
        f"{stage.files:,}" if stage.files else "",
        f"{sign}{amount(stage.disk_bytes)}B" if stage.disk_bytes else "",
        f"{amount(stage.memory_bytes)}B" if stage.memory_bytes else "",
        f"{amount(stage.flops)}FLOP" if stage.flops else "",
        _hours(stage.hours) if stage.flops else "",
        *([] if dollars is None else [f"{dollars:,.2f}" if dollars < 100 else f"{dollars:,.0f}"]),
    ]


def amount(value: float) -> str:
    """A number with three digits and the SI letter for its size."""
    for letter in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5 or letter == "E":
            return f"{value:.3g} {letter}" if value < 1000 else f"{value:,.0f} {letter}"
        value /= 1000
    return ""


def _hours(hours: float) -> str:
    return f"{hours * 3600:.2g} s" if hours < 1 / 60 else f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}"
